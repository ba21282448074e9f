"""A substitute of the attacker's own for the victim's encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import Split, to_float
from ..defenses._law import Law
from ..defenses.laplace import laplace_noise


class Substitute(nn.Module):
    """A small convolutional encoder to the shape (C, H, W) of the wire, with its scale free: the attacker's guess."""

    def __init__(self, shape: tuple[int, ...], colors: int = 3, width: int = 64):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(colors, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(shape[1:]), nn.Conv2d(width, shape[0], 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


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
