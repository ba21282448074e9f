"""The few directions to which a projection keeps the feature, and with it the noise that came before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Directions:
    """The wire as a function of fewer numbers: center + basis · numbers, with independent noise behind it.

    The noise that came before the projection is correlated between entries of the wire, so it must not be weighed entry
    by entry. What its covariance in these directions is can be measured, whatever its law.

    Attributes:
        center: (m,).
        basis: orthonormal, (m, k).
        shape: of a wire, without the batch; m numbers.
        behind: variance of the independent noise behind the projection on each entry, (m,); None: there is none.
    """

    center: Tensor
    basis: Tensor
    shape: tuple[int, ...]
    behind: Tensor | None = None

    def with_noise(self, variance: Tensor | float) -> Directions:
        """Return the directions with more independent noise behind them.

        Args:
            variance: of the noise on each entry, broadcastable to a wire (B, ...).
        """
        told = torch.as_tensor(variance, dtype=self.center.dtype, device=self.center.device)
        added = told.expand(torch.broadcast_shapes(told.shape, (1, *self.shape))).mean(0).flatten()
        return replace(self, behind=added if self.behind is None else self.behind + added)

    def __call__(self, wire: Tensor) -> Tensor:
        """Return the numbers (B, k) behind wires (B, ...): the least squares, weighed by the noise behind.

        >>> basis = torch.tensor([[1.0], [0.0]])
        >>> Directions(torch.tensor([1.0, 5.0]), basis, (2,))(torch.tensor([[3.0, 7.0]]))
        tensor([[2.]])
        """
        centered = wire.flatten(1).float() - self.center
        if self.behind is None or bool((self.behind == self.behind[0]).all()):
            return centered @ self.basis
        return centered @ self._weighed

    @cached_property
    def _weighed(self) -> Tensor:
        """Return the matrix (m, k) of the weighted least squares: searches need it at each of their steps."""
        assert self.behind is not None
        behind, basis = self.behind.double(), self.basis.double()
        weighed = basis / behind[:, None].clamp(min=1e-6 * float(behind.max()))
        return torch.linalg.solve(weighed.T @ basis, weighed.T).T.to(self.basis)
