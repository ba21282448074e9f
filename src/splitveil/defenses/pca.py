"""Projection of the feature on its principal components."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..ranges import Count
from ..registry import plugin
from ._directions import Directions
from ._law import Law
from .base import Defense, Features

EXACT = 1024
"""Most dimensions of a covariance that is decomposed whole; wider features take the randomized method."""
EXTRA, ROUNDS = 10, 6
"""Oversampling and power iterations of the randomized method."""
PEAKED = 0.6
"""Part of the noise on an entry that is this entry's own Laplace noise, beyond which its sharp peak tells more than the
directions of the noise: with nearly as many components as dimensions, or components of single entries."""


@plugin("pca", "linear")
class PCA(Defense):
    """Linear projection: only the feature's first k principal components cross the wire.

    z_wire = μ + P Pᵀ (z − μ), P (m, k) the leading eigenvectors of the features' covariance, found anew after
    each epoch of training (before the first, the wire carries z). The wire keeps its shape, though k numbers
    per image would carry it. Linear dimension reduction against inversion: e.g. Osia et al., IEEE IoT Journal
    2020.

    The directions of most variance are those that an attacker can use best: what is dropped is what CEM's
    bound counts least. In a stack the components are those of the clean feature. A projection never adds
    variance.

    Args:
        components: k ≥ 1; at least the number of dimensions changes nothing.

    >>> PCA(4).components
    4
    """

    needs_features = projects = True
    late_buffers = ("mean", "basis")
    mean: Tensor | None
    basis: Tensor | None

    def __init__(self, components: Count = 64):
        super().__init__()
        self.components = components
        self.register_buffer("mean", None)
        self.register_buffer("basis", None)

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        if self.basis is None or self.mean is None:
            return z
        centered = z.flatten(1) - self.mean.to(z.dtype)
        basis = self.basis.to(z.dtype)
        return (self.mean.to(z.dtype) + centered @ basis @ basis.T).view_as(z)

    def law(self, wire: Tensor, before: Law) -> Law:
        if self.basis is None:
            return before
        if self._whole or before.exact:
            return before.silent()
        assert self.mean is not None
        kept = self.basis.square().sum(1)  # of each entry's own noise; the rest of the noise on it is that of others
        if before.laplace and before.share() * float(kept.square().sum() / kept.sum()) > PEAKED:
            return replace(before.silent(), laplace=before.laplace * float(kept.square().mean()))
        # Noise is correlated between entries, and what was Laplace noise is a sum of many, nearly Gaussian.
        within = Directions(self.mean, self.basis, tuple(wire.shape[1:]))
        law = replace(before.silent(), laplace=0.0, directions=within)
        even = before.variance
        if not isinstance(even, float) or before.laplace or before.visible is not None:
            return law
        # Noise that was the same on all entries is independent in its directions.
        return replace(law, reduced=partial(self._numbers, deviation=even**0.5), unit=even)

    def gaussian_law(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.basis is None:
            return mean, variance
        if not bool(variance.any()):
            return super().gaussian_law(mean, variance)
        even = float(variance.flatten()[0])
        if self._whole or bool((variance != even).any()):
            return None
        numbers = self._numbers(mean, even**0.5)
        return numbers, torch.ones_like(numbers)

    @property
    def _whole(self) -> bool:
        """Return whether there are as many components as numbers, so that nothing is projected."""
        return self.basis is not None and self.basis.shape[1] == len(self.basis)

    def _numbers(self, wire: Tensor, deviation: float) -> Tensor:
        """Return Pᵀ (wire − μ), (B, k), in units of the noise's standard deviation: of features or of wires."""
        assert self.basis is not None
        assert self.mean is not None
        return (wire.flatten(1).float() - self.mean) @ self.basis / deviation

    def refit(self, epoch: int, features: Features) -> None:
        self.mean = features.z.mean(0)
        self.basis = principal_components(features.z, self.components, features.rng)


def principal_components(z: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Return an orthonormal (m, k) basis of the leading principal components of rows z (N, m), k = min(count, m).

    Exact up to 1,024 dimensions, or where k + 10 reaches m; beyond, subspace iteration from a random start
    (Halko, Martinsson and Tropp 2011).

    Args:
        z: rows (N, m).
        count: number of components.
        rng: generator of the random start.

    >>> z = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.1]])
    >>> principal_components(z, 1, torch.Generator()).abs().round()
    tensor([[1.],
            [0.]])
    """
    centered = z - z.mean(0)
    dimensions = z.shape[1]
    if dimensions <= EXACT or count + EXTRA >= dimensions:
        _, vectors = torch.linalg.eigh(centered.T @ centered)
        return vectors.flip(1)[:, :count].contiguous()
    basis = torch.randn(dimensions, count + EXTRA, generator=rng, device=z.device)
    for _ in range(ROUNDS):
        basis, _ = torch.linalg.qr(centered.T @ (centered @ basis))
    _, _, rows = torch.linalg.svd(centered @ basis, full_matrices=False)
    return (basis @ rows[:count].T).contiguous()
