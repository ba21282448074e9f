"""How an attacker sees a wire to which one of a known collection of offsets was added."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..defenses._law import Law
from ._gaussian import filled
from ._held_out import Pairs
from ._hidden import beside_mask
from ._identified import Identified, drowned, told
from .base import Victim

MOST_PAIRS = 2**26
"""Pairs of offsets times entries of the wire up to which the attacker finds out which one its own images got."""
MOST_ENTRIES = 8192
"""Width of the wire up to which its covariance is learned."""
MOST_HIDDEN = 1024
"""Hidden entries of a wire, on average, up to which they are imputed: each wire has its own system of equations."""
MOST_HELD_OUT = 256
"""Most images on which the ridge is chosen where entries are hidden."""
NUMBERS = 2**24
"""Most numbers of such systems at once."""
RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
"""Ridges among which one is chosen, in units of the mean variance of the feature."""


@dataclass(frozen=True)
class Unshifted:
    """The Gaussian model of a feature, by which the offset n_k on its wire can be told, and of the images behind it.

    Noise that was added beside the offset counts as a part of the feature. Where entries are hidden and anybody can
    tell which, all is said of the others, and the hidden ones become what is expected of them; or they count as they
    are, where that is better on held-out images, as where the small ones are hidden.

    p_k ∝ exp(−½ (z_wire − n_k − μ)ᵀ (C + r I)⁻¹ (z_wire − n_k − μ)). What is expected of the feature is z_wire −
    Σ_k p_k n_k, and of the image what the linear regression says of that: both are exact for jointly Gaussian image and
    feature.

    Attributes:
        victim: says which entries of a wire are visible.
        offsets: (K, m).
        mean, pixels: means of the feature, (m,), and of the images, (d,).
        covariance, cross: covariances of the feature, (m, m), and between feature and images, (m, d).
        hides: whether entries of the wires are hidden; imputes: whether these are imputed.
        ridge: r, with the least error on held-out images; error: mean squared error of `images` on these.
    """

    victim: Victim
    offsets: Tensor
    mean: Tensor
    pixels: Tensor
    covariance: Tensor
    cross: Tensor
    hides: bool = False
    imputes: bool = False
    ridge: float = RIDGES[0]
    error: float = math.inf

    @classmethod
    def learn(cls, victim: Victim, seen: Pairs, law: Law, rng: torch.Generator, held_out: Tensor) -> Unshifted | None:
        """Learn from the attacker's own images; return None where the collection cannot be seen through.

        There is none, it is too large, noise drowns the differences of its offsets, or too much is hidden.

        Args:
            victim: view of the model.
            seen: the attacker's images with their wires.
            law: the offsets, (K, ...), and the noise beside them.
            rng: generator of the defense's noise.
            held_out: rows of the images that choose the ridge.
        """
        if law.offsets is None:
            return None
        offsets = law.offsets.flatten(1).double()
        if len(offsets) ** 2 * offsets.shape[1] > MOST_PAIRS or offsets.shape[1] > MOST_ENTRIES or not len(held_out):
            return None
        beside = None if law.beside is None else float(torch.as_tensor(law.beside).double().mean())
        if beside is not None and drowned(offsets, beside):
            return None
        hides = law.visible is not None or law.kept is not None
        own = Identified.of(victim, seen, offsets, hides, rng)
        others = torch.isin(own.rows, held_out, invert=True)
        if int(others.sum()) < 2 or drowned(offsets, own.variance if beside is None else beside, own.together):
            return None
        ways = (False, True) if hides and own.hidden <= MOST_HIDDEN else (False,)
        if law.visible is not None and True not in ways:
            return None  # `Sight` takes the mask into account, and this could not
        wire, x = seen.wire(held_out, rng), seen.images(held_out).flatten(1)
        tried = [cls(victim, offsets, *own.moments(others, way), hides, way)._chosen(wire, x) for way in ways]
        best = min(tried, key=lambda one: one.error)
        every = own.moments(torch.ones_like(others), best.imputes)
        return cls(victim, offsets, *every, hides, best.imputes, best.ridge, best.error)

    def _chosen(self, wire: Tensor, x: Tensor) -> Unshifted:
        """Return this with the ridge that is best for these pairs of wire and image, and its error."""
        some = (wire[:MOST_HELD_OUT], x[:MOST_HELD_OUT]) if self.imputes else (wire, x)
        errors = {ridge: replace(self, ridge=ridge)._error(*some) for ridge in RIDGES}
        ridge = min(errors, key=lambda ridge: errors[ridge])
        error = replace(self, ridge=ridge)._error(wire, x) if self.imputes else errors[ridge]
        return replace(self, ridge=ridge, error=error)

    def _error(self, wire: Tensor, x: Tensor) -> float:
        return float((self.images(wire).clamp(0, 1) - x).square().mean())

    @cached_property
    def _factor(self) -> Tensor:
        """Return the lower triangular root of C + r I."""
        ridge = self.ridge * self.covariance.diagonal().mean().clamp(min=1e-12)
        return torch.linalg.cholesky(self.covariance + ridge * torch.eye(len(self.mean)).to(self.mean))

    @cached_property
    def _precision(self) -> Tensor:
        return torch.cholesky_inverse(self._factor)

    def _unshifted(self, wire: Tensor) -> Tensor:
        size = max(1, NUMBERS // wire.shape[1:].numel() ** 2) if self.imputes else max(1, len(wire))
        return torch.cat([self._of_few(part) for part in wire.split(size)])

    def _of_few(self, wire: Tensor) -> Tensor:
        there, possible = told(self.victim, wire) if self.hides else (None, None)
        flat = wire.flatten(1).double()
        rows, shared = (flat - self.mean) @ self._precision, self.offsets @ self._precision
        # The length of the rest is the same for all candidates, and would drown their differences.
        fits, lengths = rows @ self.offsets.T, (shared * self.offsets).sum(1)
        if self.imputes and there is not None:
            less, shorter, added = filled(self._precision, ~there, rows, shared)
            fits, lengths = fits - less, lengths - shorter
        fits = fits - lengths / 2
        part = torch.softmax(fits if possible is None else fits.masked_fill(~possible, -torch.inf), 1)
        feature = flat - part @ self.offsets
        if self.imputes and there is not None:
            feature = feature + added[:, 0] - torch.einsum("bk,bkm->bm", part, added[:, 1:])
        return feature

    def images(self, wire: Tensor) -> Tensor:
        """Return the expected image behind each wire (B, ...): (B, d)."""
        weights = torch.cholesky_solve(self.cross, self._factor)
        return (self.pixels + (self._unshifted(wire) - self.mean) @ weights).float()

    def __call__(self, wire: Tensor) -> Tensor:
        """Return the expected feature behind each wire (B, C, ...), with the mask as further channels if any is."""
        feature = self._unshifted(wire).view_as(wire).to(wire.dtype)
        there = told(self.victim, wire)[0] if self.hides else None
        return feature if there is None else beside_mask(feature, there)
