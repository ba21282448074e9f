"""How an attacker sees a wire to which one of a known collection of offsets was added."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..defenses._law import Law
from ._held_out import Pairs
from .base import BATCH, Victim

MOST_PAIRS = 2**26
"""Pairs of offsets times entries of the wire up to which the attacker finds out which one its own images got."""
LOOKS = 4
"""Looks at each of the attacker's own images: their differences say which offsets they got."""
MOST_ENTRIES = 8192
"""Width of the wire up to which its covariance is learned."""
APART = 6.0
"""Least distance of two offsets, in deviations of what noise makes of it, at which differences of looks tell them."""
RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
"""Ridges among which one is chosen, in units of the mean variance of the feature."""


@dataclass(frozen=True)
class Unshifted:
    """The Gaussian model of a feature, by which the offset n_k on its wire can be told, and of the images behind it.

    Noise that was added beside the offset counts as a part of the feature.

    p_k ∝ exp(−½ (z_wire − n_k − μ)ᵀ (C + r I)⁻¹ (z_wire − n_k − μ)). What is expected of the feature is z_wire −
    Σ_k p_k n_k, and of the image what the linear regression says of that: both are exact for jointly Gaussian image and
    feature.

    Attributes:
        offsets: (K, m).
        mean, pixels: means of the feature, (m,), and of the images, (d,).
        covariance, cross: covariances of the feature, (m, m), and between feature and images, (m, d).
        ridge: r, with the least error on held-out images; error: mean squared error of `images` on these.
    """

    offsets: Tensor
    mean: Tensor
    pixels: Tensor
    covariance: Tensor
    cross: Tensor
    ridge: float = RIDGES[0]
    error: float = torch.inf

    @classmethod
    def learn(cls, victim: Victim, seen: Pairs, law: Law, rng: torch.Generator, held_out: Tensor) -> Unshifted | None:
        """Learn from the attacker's own images; return None where the collection cannot be seen through.

        It is too large for that, or noise drowns the differences of its offsets.

        Args:
            victim: view of the model.
            seen: the attacker's images with their wires.
            law: the offsets, (K, ...), and the noise beside them.
            rng: generator of the defense's noise.
            held_out: rows of the images that choose the ridge.
        """
        assert law.offsets is not None
        offsets = law.offsets.flatten(1).double()
        if len(offsets) ** 2 * offsets.shape[1] > MOST_PAIRS or offsets.shape[1] > MOST_ENTRIES or not len(held_out):
            return None
        # Of the distance of two looks along the line between two offsets: their noise has twice the variance of one.
        noise = (2 * torch.as_tensor(law.beside, device=offsets.device).double().mean()).sqrt()
        if len(offsets) > 1 and torch.nn.functional.pdist(offsets).min() < APART * noise:
            return None
        parts = torch.arange(len(seen), device=victim.device).split(BATCH)
        z = torch.cat([_feature(seen, index, offsets, rng) for index in parts])
        x = torch.cat([seen.images(index).flatten(1) for index in parts])
        known = ~z[:, 0].isnan()
        others = known.index_fill(0, held_out, False)
        if int(others.sum()) < 2:
            return None
        of_others, wire = cls(offsets, *_moments(z[others], x[others])), seen.wire(held_out, rng)
        errors = {ridge: replace(of_others, ridge=ridge)._error(wire, x[held_out]) for ridge in RIDGES}
        ridge = min(errors, key=lambda ridge: errors[ridge])
        return cls(offsets, *_moments(z[known], x[known]), ridge, errors[ridge])

    def _error(self, wire: Tensor, x: Tensor) -> float:
        return float((self.images(wire).clamp(0, 1) - x).square().mean())

    @cached_property
    def _factor(self) -> Tensor:
        """Return the lower triangular root of C + r I."""
        ridge = self.ridge * self.covariance.diagonal().mean().clamp(min=1e-12)
        return torch.linalg.cholesky(self.covariance + ridge * torch.eye(len(self.mean)).to(self.mean))

    @cached_property
    def _shifts(self) -> Tensor:
        """Return the whitened offsets (K, m)."""
        return torch.linalg.solve_triangular(self._factor, self.offsets.T, upper=False).T

    def _unshifted(self, wire: Tensor) -> Tensor:
        wire = wire.flatten(1).double()
        white = torch.linalg.solve_triangular(self._factor, (wire - self.mean).T, upper=False).T
        # The length of `white` is the same for all candidates, and would drown their differences.
        part = torch.softmax(white @ self._shifts.T - self._shifts.square().sum(1) / 2, 1)
        return wire - part @ self.offsets

    def images(self, wire: Tensor) -> Tensor:
        """Return the expected image behind each wire (B, ...): (B, d)."""
        weights = torch.cholesky_solve(self.cross, self._factor)
        return (self.pixels + (self._unshifted(wire) - self.mean) @ weights).float()

    def __call__(self, wire: Tensor) -> Tensor:
        """Return the expected feature behind each wire, in the shape of the wire (B, ...)."""
        return self._unshifted(wire).view_as(wire).to(wire.dtype)


def _moments(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z, x = z.double(), x.double()  # a covariance from few images has eigenvalues of zero, which rounding makes negative
    mean, pixels = z.mean(0), x.mean(0)
    centered = z - mean
    return mean, pixels, centered.T @ centered / len(z), centered.T @ (x - pixels) / len(z)


def _feature(seen: Pairs, index: Tensor, offsets: Tensor, rng: torch.Generator) -> Tensor:
    """Return the features (B, m) of some images, with the offset of the first of several looks subtracted.

    The difference of two looks is that of two offsets, which tells both unless all looks had the same one: such an
    image's feature is NaN.
    """
    first, *others = (seen.wire(index, rng).flatten(1).double() for _ in range(LOOKS))
    pairs = (offsets[:, None] - offsets).flatten(0, 1)  # of the first look and another
    distances = [pairs.square().sum(1) - 2 * (first - other) @ pairs.T for other in others]
    misfits, partners = zip(*(one.view(len(index), len(offsets), -1).min(2) for one in distances), strict=True)
    chosen = torch.stack(misfits).sum(0).argmin(1)
    rows = torch.arange(len(index), device=chosen.device)
    same = torch.stack([partner[rows, chosen] == chosen for partner in partners]).all(0)
    found = first - offsets[chosen]
    return torch.where(same[:, None], torch.nan, found) if len(offsets) > 1 else found
