"""Which codec a wire takes, and its grid."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UserError
from ._codec import BITS, CODECS, Coder, Floats, Grid, channel_axis

TAIL = 1e-4
"""Share of a channel's values that lie below the grid, and above it."""
ENOUGH = 0.5
"""Error of the four-bit grid, in deviations of the noise, up to which ``auto`` takes it."""


def fit(sent: Tensor, bits: int) -> Grid:
    """Return the grid of each channel, between the quantiles 10⁻⁴ and 1 − 10⁻⁴ of its values.

    Args:
        sent: what is sent for training images, with noise, (N, ...): maps (C, H, W) have C channels, tokens (T, C) too,
            of a vector each entry is one.
        bits: of a code: 8, 4 or 2.

    >>> grid = fit(torch.linspace(0, 15, 10_001)[:, None], 4)
    >>> grid.low.round(decimals=2), grid.step.round(decimals=2)
    (tensor([0.]), tensor([1.]))
    """
    shape = tuple(sent.shape[1:])
    values = sent.movedim(1 + channel_axis(shape), 0).flatten(1).float().sort(dim=1).values
    most = values.shape[1] - 1
    low, high = values[:, round(TAIL * most)], values[:, round((1 - TAIL) * most)]
    step = (high - low) / (2**bits - 1)
    return Grid(shape, bits, low, torch.where(step > 0, step, 1.0))


def choose(codec: str, sent: Tensor, sigma: float) -> tuple[Coder, float | None]:
    """Return the coder of a codec, and its error in deviations of the noise.

    Args:
        codec: a name of `CODECS`; ``auto`` is ``uint4`` where its error is at most half a deviation, else ``uint8``.
        sent: what is sent for training images, with noise, (N, ...).
        sigma: standard deviation of the noise; 0: there is none, and the error is None.

    Raises:
        UserError: an unknown codec.
    """
    if codec not in CODECS:
        raise UserError(f"codec {codec!r:.40}; expected one of: {', '.join(CODECS)}")
    if codec == "auto":
        coder, error = choose("uint4", sent, sigma)
        return (coder, error) if error is not None and error <= ENOUGH else choose("uint8", sent, sigma)
    shape = tuple(sent.shape[1:])
    coder = fit(sent, BITS[codec]) if codec in BITS else Floats(shape, codec)
    return coder, error_of(coder, sent, sigma)


def error_of(coder: Coder, sent: Tensor, sigma: float) -> float | None:
    """Return the root mean square error of a coder in deviations of the noise; None where there is no noise.

    Args:
        coder: of the wire.
        sent: what is sent, with noise, (N, ...).
        sigma: standard deviation of the noise.
    """
    squares = [(coder.decode(coder.encode(part)) - part).double().square().sum() for part in sent.split(256)]
    error = float((torch.stack(squares).sum() / sent.numel()).sqrt())
    return error / sigma if sigma > 0 else None
