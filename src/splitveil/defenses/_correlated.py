"""Noise that is correlated on the wire because fewer numbers, with independent noise, are what is sent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..ranges import Computed
from ._law import Law
from .base import NEVER, Defense, Stack


class Correlated(Defense, helpers=("sent", "shown")):
    """Base of defenses that send y = A(z − m) + N(0, I) and show the tail an estimate of the feature, m + B y.

    A subclass says what A and B are: `_sent`, `_shown`, `_sent_of` and `_variance`. Until its buffers are there, the
    wire is z.

    Args:
        mu: price μ of a nat of the task; the smaller, the more noise.
        sigma: standard deviation σ of the noise that every direction has at least, in units of the feature.
    """

    def __init__(self, mu: Computed = 0.1, sigma: Computed = 0.025):
        super().__init__()
        self.mu, self.sigma = float(mu), float(sigma)
        self.codec: tuple[Any, ...] = ()
        """The codec by which the numbers are sent, if there is one."""
        for name in self.late_buffers:
            self.register_buffer(name, None)

    @property
    def acts_after(self) -> int:  # type: ignore[override]
        """Return that it never acts in a training unless its buffers are there."""
        return 0 if self.ready else NEVER

    @property
    def ready(self) -> bool:
        """Return whether its buffers are there, so that it acts."""
        return getattr(self, self.late_buffers[0]) is not None

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        if not self.ready:
            return z
        sent = self.sent(z, rng)
        for codec in self.codec:
            sent = codec.coded(sent)
        return self.shown(sent, tuple(z.shape[1:]))

    def sent(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return the numbers that the device sends, y = A(z − m) + N(0, I), (B, k).

        Args:
            z: features (B, ...).
            rng: generator of the noise.
        """
        with torch.autocast(z.device.type, enabled=False):  # small noise would be rounded away
            clean = self._sent(z)
            return clean + torch.randn(clean.shape, generator=rng, device=z.device, dtype=torch.float32)

    def shown(self, sent: Tensor, feature: tuple[int, ...]) -> Tensor:
        """Return what the cloud makes of the numbers for its tail, m + B y, (B, ...).

        Args:
            sent: numbers y, (B, k).
            feature: shape of a feature, without the batch.
        """
        with torch.autocast(sent.device.type, enabled=False):
            return self._shown(sent).view(sent.shape[0], *feature)

    def numbers_sent(self, wire: tuple[int, ...]) -> int:
        if not self.ready:
            return super().numbers_sent(wire)
        return self._sent(torch.zeros(1, *wire, device=self._have(self.late_buffers[0]).device)).shape[1]

    def law(self, wire: Tensor, before: Law) -> Law:
        if not self.ready:
            return before
        noise = torch.ones(self.numbers_sent(tuple(wire.shape[1:])), device=wire.device)
        for codec in self.codec:
            noise = noise + codec.rounding()
        variance = self._variance(noise).view(wire.shape[1:])
        if before.exact:
            return Law(variance, reduced=self._sent_of)
        # Noise before the matrix is correlated behind it; hidden entries can be told where its own noise is faint.
        covered = 0.0 if before.visible is not None else before.covered
        return replace(before.silent(), covered=None if covered is None else covered + variance)

    def gaussian_law(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor] | None:
        if not self.ready:
            return mean, variance
        if bool(variance.any()):
            return None
        # The numbers that are sent: what reaches the tail is computed from them.
        sent = self._sent(mean)
        return sent, torch.ones_like(sent)

    def _sent(self, z: Tensor) -> Tensor:
        """Return A(z − m), (B, k), of features (B, ...)."""
        raise NotImplementedError

    def _shown(self, sent: Tensor) -> Tensor:
        """Return m + B y, (B, D), of numbers y (B, k)."""
        raise NotImplementedError

    def _sent_of(self, wire: Tensor) -> Tensor:
        """Return y, (B, k), of what reaches the tail, (B, ...): B has full rank."""
        raise NotImplementedError

    def _variance(self, noise: Tensor) -> Tensor:
        """Return the variance of the noise on each entry of the wire, (D,), of that on the numbers, (k,)."""
        raise NotImplementedError

    def _have(self, name: str) -> Any:
        """Return a buffer that is there."""
        found = getattr(self, name)
        assert found is not None
        return found


def acting(defense: object) -> list[Defense]:
    """Return the defenses that change the wire, in their order on it; a codec counts.

    Args:
        defense: one, a stack of them, or None.
    """
    parts = list(defense) if isinstance(defense, Stack) else [] if defense is None else [defense]
    return [part for part in parts if type(part).on_wire is not Defense.on_wire]  # type: ignore[attr-defined]


def sends_fewer(part: object) -> bool:
    """Return whether the cloud makes the wire from fewer numbers, which this defense sends."""
    return isinstance(part, Correlated) and part.ready
