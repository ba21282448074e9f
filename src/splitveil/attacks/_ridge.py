"""Ridge regression for many penalties by one eigendecomposition, in the smaller of its two spaces."""

from __future__ import annotations

import torch
from torch import Tensor

JITTER = 1e-9
"""Added to every penalty, so that one of zero has an answer too; less where all eigenvalues are below 1."""


class Rows:
    """The data of a regression from z (N, m) to x (N, p), added part by part.

    With at most m rows in all, the rows themselves are kept (N² and N·m numbers); with more, their moments (m²).

    Args:
        dual: keep the rows.

    >>> z = torch.tensor([[0.0], [1.0], [2.0]])
    >>> weights, constant = Ridge(Rows(dual=False).add(z, 3 * z + 1)).weights(0.0)
    >>> [round(float(value), 6) for value in (weights, constant)]
    [3.0, 1.0]
    """

    def __init__(self, dual: bool, parts: list[list[Tensor]] | None = None):
        self.dual, self.parts = dual, [] if parts is None else parts

    def add(self, z: Tensor, x: Tensor) -> Rows:
        """Add rows and return itself."""
        if self.dual:
            self.parts.append([z, x])
            return self
        z, x = z.double(), x.double()
        # Moments about a typical row, as those about zero lose their digits where the offset is large.
        shift = self.parts[0][0] if self.parts else z.mean(0)
        z = z - shift
        moments = [z.T @ z, z.T @ x, z.sum(0), x.sum(0), torch.tensor(float(len(z)), device=z.device)]
        if not self.parts:
            self.parts.append([shift, *moments])
        else:
            self.parts[0] = [shift, *(a.add_(b) for a, b in zip(self.parts[0][1:], moments, strict=True))]
        return self

    def centered(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Return (matrix, target, mean of z, mean of x, rows).

        The matrix is that of the smaller space; the rows are centered, or None where only moments are kept.
        """
        if self.dual:
            z, x = (torch.cat(side).double() for side in zip(*self.parts, strict=True))
            mean_z, mean_x = z.mean(0), x.mean(0)
            z -= mean_z
            return z @ z.T, x - mean_x, mean_z, mean_x, z
        shift, gram, cross, sum_z, sum_x, count = self.parts[0]
        cross = cross - torch.outer(sum_z, sum_x) / count
        return gram - torch.outer(sum_z, sum_z) / count, cross, shift + sum_z / count, sum_x / count, None


class Ridge:
    """min Σ ‖x − A z − b‖² + r ‖A‖² for any r; the constant b is not shrunk."""

    def __init__(self, rows: Rows):
        matrix, target, self.mean_z, self.mean_x, self._rows = rows.centered()
        values, self._vectors = torch.linalg.eigh(matrix)
        self._values, self._target = values.clamp_min(0), self._vectors.T @ target
        self.largest = float(self._values[-1])  # eigenvalue
        self._jitter = JITTER * min(1.0, self.largest or 1.0)

    def project(self, z: Tensor) -> Tensor:
        """Return z (N, m) in the eigenvectors: what `predict` takes, the same for every r."""
        centered = z.double() - self.mean_z
        return (centered if self._rows is None else centered @ self._rows.T) @ self._vectors

    def predict(self, projected: Tensor, ridge: float) -> Tensor:
        """Return A z + b."""
        return (projected / (self._values + ridge + self._jitter)) @ self._target + self.mean_x

    def weights(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Return A transposed, (m, p), and b, (p,), float64."""
        found = self._vectors @ (self._target / (self._values + ridge + self._jitter)[:, None])
        found = found if self._rows is None else self._rows.T @ found
        return found, self.mean_x - self.mean_z @ found
