"""The inequality of van Trees for any matrix, and its estimate from images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..statistics.intervals import Interval, student_over_normal
from ._cross_entropy import SIGNIFICANCE


def error_bound(trace: float, square: float, pixels: int) -> float:
    """Return (tr C)² / (d · tr C (E[I] + S) Cᵀ), which is at most the mean squared error, for any matrix C.

    The largest is that of C = (E[I] + S)⁻¹, tr (E[I] + S)⁻¹ / d; C = 1 has d/(tr E[I] + tr S).

    Args:
        trace: tr C.
        square: tr C (E[I] + S) Cᵀ.
        pixels: d.

    >>> error_bound(trace=2.0, square=4.0, pixels=2)  # C = 1, E[I] + S = 2 · 1
    0.5
    """
    return trace**2 / (pixels * square)


@dataclass(frozen=True)
class Rows:
    """What is known of each of B images, in coordinates of deviation 1.

    Attributes:
        wire: Jᵀ Σ^(-1/2) v of K random v, (B, K, d).
        prior: scores of the prior where they are learned, (B, d); where it is Gaussian, the images' coordinates.
    """

    wire: Tensor
    prior: Tensor


class Form:
    """One matrix C, and the part of tr C (E[I] + S) Cᵀ that is known.

    Args:
        c: C in coordinates of deviation 1, (d, d) and symmetric, or its diagonal (d,).
        weights: variances of the coordinates, (d,): squared errors are measured with them.
        known: S, (d, d) or its diagonal (d,); None: it is the mean over scores.
    """

    def __init__(self, c: Tensor, weights: Tensor, known: Tensor | None):
        self.c, self.weights, self.known = c, weights, known
        self.trace, self.constant = float(weights @ diagonal(c)), 0.0
        if known is not None:
            squared = c.square() * diagonal(known) if c.ndim == 1 else (_times(c, known) * c).sum(1)
            self.constant = float(weights @ squared)

    def bound(self, square: float) -> float:
        """Return the bound where tr C (E[I] + S) Cᵀ is ``square``."""
        return error_bound(self.trace, square, len(self.weights))

    def squares(self, rows: Rows) -> Tensor:
        """Return tr C (I + S) Cᵀ of each image, (B,)."""
        found = (_times(rows.wire, self.c).square() @ self.weights).mean(1)
        return found + (self._of_prior(rows.prior) if self.known is None else self.constant)

    def interval(self, rows: Rows, fitted: int) -> Interval:
        """Return the bound with its 95 % interval over images, those that a Gaussian was ``fitted`` to included."""
        values = self.squares(rows).double()
        mean, variance = float(values.mean()), float(values.var()) / len(values)
        if self.known is not None:
            # d tr C K⁻¹ C = −tr C K⁻¹ dK K⁻¹ C, and K is a mean over the images that it was fitted to.
            variance += float(self._of_prior(_times(rows.prior, self.known)).double().var()) / fitted
        error = SIGNIFICANCE * student_over_normal(len(values)) * variance**0.5
        return Interval(self.bound(mean), self.bound(mean + error), self.bound(max(mean - error, mean / 100)))

    def _of_prior(self, scores: Tensor) -> Tensor:
        return _times(scores, self.c).square() @ self.weights


def diagonal(matrix: Tensor) -> Tensor:
    """Return the diagonal of a matrix, or of one that is given as such."""
    return matrix if matrix.ndim == 1 else matrix.diagonal()


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    """Return rows times a symmetric matrix, or one that is given as its diagonal."""
    return rows * matrix if matrix.ndim == 1 else rows @ matrix
