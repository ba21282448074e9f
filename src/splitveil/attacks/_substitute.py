"""A substitute of the attacker's own for the victim's encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import Split, to_float
from ..defenses._law import Law
from ..defenses.laplace import laplace_noise
from ._shown import FAR

LEAST, MOST = 0.01, 10.0
"""Numbers of overheard wires that the substitute reaches by itself: their spread, and at most their means."""
BEGINS = 0.25
"""Spread over images with which its layers begin, about."""
MEASURED = 3.0
"""Standard errors above zero from which a spread or a mean counts as that of features, and not of what was added."""


class Substitute(nn.Module):
    """A small convolutional encoder to the shape (C, H, W) of the wire, on its scale: the attacker's guess.

    Args:
        shape: of the wire, without the batch.
        colors: channels of an image.
        width: channels within.
        place: mean and scale that are put on what the layers answer, see `place_of`; None: neither.
    """

    def __init__(
        self, shape: tuple[int, ...], colors: int = 3, width: int = 64, place: tuple[Tensor, float] | None = None
    ):
        super().__init__()
        self._place = place
        self.body = nn.Sequential(
            nn.Conv2d(colors, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(shape[1:]), nn.Conv2d(width, shape[0], 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.placed(self.body(x))

    def placed(self, z: Tensor) -> Tensor:
        """Return what the layers answer, (B, C, H, W), where the wires lie."""
        return z if self._place is None else self._place[0] + self._place[1] * z


@torch.no_grad()
def place_of(wire: Tensor, law: Law) -> tuple[Tensor, float] | None:
    """Return mean (1, C, H, W) and scale of overheard wires (N, C, H, W), where layers would not reach these.

    The rates of a training fit numbers of about 1, and never reach a wire that has the same large numbers for every
    image, but for a little, or one that is far larger or smaller. What the law adds itself is left out: where it
    drowns the spread of the features, the layers keep their own.

    Args:
        wire: overheard.
        law: of these wires.

    >>> place_of(torch.randn(64, 1, 2, 2, generator=torch.Generator().manual_seed(0)), Law()) is None
    True
    """
    there = torch.ones_like(wire) if law.visible is None else law.visible.expand_as(wire).to(wire)
    if law.kept is not None:
        there = there * law.kept.expand_as(wire)
    clean = wire if law.offsets is None else wire - law.offsets.mean(0)
    count, added = there.sum(0, keepdim=True).clamp(min=1), _added(law, wire)
    mean = (clean * there).sum(0, keepdim=True) / count
    # The mean of the wires takes a part of what was added with it, and still has a part itself.
    squares = ((clean - mean).square() - added * (1 - 1 / count)) * there
    left = float(squares.sum() / there.sum().clamp(min=1))
    largest = float((mean.abs() - MEASURED * (added.mean(0) / count).sqrt()).max())
    doubt = 0.0
    if bool(added.any()):  # entries of one wire may have one offset, so that its wires are what is independent
        each = squares.flatten(1).sum(1) * len(wire) / there.sum().clamp(min=1)
        doubt = float(each.std(correction=0)) / len(wire) ** 0.5
    if doubt and left < MEASURED * doubt:
        scale = min(1.0, (MEASURED * doubt) ** 0.5 / BEGINS)
        return None if scale == 1 and largest <= MOST else (mean, scale)
    spread = max(left, 0.0) ** 0.5
    if not spread > 0 or (LEAST <= spread <= MOST and largest <= min(MOST, FAR * spread)):
        return None
    return mean, spread / BEGINS


def _added(law: Law, wire: Tensor) -> Tensor:
    """Return the variance of all that `imitated` adds to each entry, (N, C, H, W)."""
    added = torch.as_tensor(0.0 if law.variance is None else law.variance, device=wire.device)
    if law.offsets is not None:
        added = added + (0.0 if law.beside is None else law.beside) + law.offsets.var(0, correction=0)
    return added.to(wire).expand_as(wire)


class Substituted:
    """The attacker's images with the substitute's features, as the law of the overheard wires has them cross."""

    def __init__(self, encoder: nn.Module, split: Split, law: Law):
        self._encoder, self._split, self._law = encoder, split, law

    def __len__(self) -> int:
        return len(self._split)

    @torch.no_grad()
    def wire(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """Return what would cross the wire for the substitute's features, (B, C, H, W)."""
        return imitated(self._encoder(self.images(index)), self._law, rng)

    def images(self, index: Tensor) -> Tensor:
        """Return pixels in [0, 1]."""
        return to_float(self._split.images[index])


def imitated(z: Tensor, law: Law, rng: torch.Generator, rows: Tensor | None = None) -> Tensor:
    """Return features z (B, ...) with the noise and the offsets that the law tells of, and entries hidden alike.

    Args:
        z: features of the substitute.
        law: of N wires that were overheard.
        rng: generator of the noise.
        rows: which of the N wires hide the entries of each z, (B,); None: any.

    >>> z = torch.ones(2, 2)
    >>> imitated(z, Law(visible=torch.tensor([[True, False]])), torch.Generator())
    tensor([[1., 0.],
            [1., 0.]])
    """
    if law.variance is not None and not law.exact:
        gaussian = (torch.as_tensor(law.variance, device=z.device) - law.laplace).clamp(min=0).sqrt()
        z = z + gaussian * torch.randn(z.shape, generator=rng, device=z.device)
        if law.laplace:
            z = z + (law.laplace / 2) ** 0.5 * laplace_noise(z, rng)
    if law.offsets is not None:
        beside = torch.as_tensor(0.0 if law.beside is None else law.beside, device=z.device).sqrt()
        z = z + beside * torch.randn(z.shape, generator=rng, device=z.device)
        if law.kept is not None:
            rows = _any(law.kept, z, rng) if rows is None else rows
            z = z * law.kept[rows]
        z = z + law.offsets[torch.randint(len(law.offsets), (len(z),), generator=rng, device=z.device)]
    if law.visible is not None:
        z = z * law.visible[_any(law.visible, z, rng) if rows is None else rows]
    return z


def _any(masks: Tensor, z: Tensor, rng: torch.Generator) -> Tensor:
    """Return the row of one of the masks for each z."""
    return torch.randint(len(masks), (len(z),), generator=rng, device=z.device)
