"""Ridge regression from the wire to the pixels: exact, fast, the floor that every attack must beat."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import Split
from ..errors import UserError
from ..registry import plugin
from ..work import Work
from .base import BATCH, Attack, Victim

RIDGES = tuple(10.0**k for k in range(-6, 5))


@plugin("linear")
class LinearAttack(Attack):
    """Linear reconstruction x̂ = A z_wire + b by ridge regression in closed form.

    A = C_xz (C_zz + r I)⁻¹ from the attacker's images; r is chosen among powers of ten on a fifth of them and the
    regression is then made from all. For jointly Gaussian x and z_wire this is the MMSE estimator.

    Args:
        looks: how often each image is sent, each time with fresh noise.

    >>> LinearAttack().looks
    4
    """

    def __init__(self, looks: int = 4):
        if looks < 1:
            raise UserError(f"linear: looks is {looks}; expected at least 1")
        self.looks = looks

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, work: Work | None = None) -> None:
        victim.require(*self.needs)
        if len(images) < 5:
            raise UserError(f"linear: the attacker has {len(images)} images; expected at least 5")
        seen = victim.observe(images)
        order = torch.randperm(len(images), generator=rng, device=rng.device)
        held = len(images) // 5
        judge, train = order[:held], order[held:]
        self.shape = seen.images(order[:1]).shape[1:]
        train_moments = self._moments(seen, train, rng)
        judged = self._pairs(seen, judge, rng)
        errors = [self._error(self._solve(train_moments, ridge), judged) for ridge in RIDGES]
        both = [a + b for a, b in zip(train_moments, self._moments(seen, judge, rng), strict=True)]
        self.weights = self._solve(both, RIDGES[errors.index(min(errors))])
        if work and work.progress:
            work.progress(1, 1, min(errors))

    def _pairs(self, seen, index: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        z = seen.wire(index, rng).flatten(1)
        return torch.cat([z, torch.ones_like(z[:, :1])], 1), seen.images(index).flatten(1)

    def _moments(self, seen, index: Tensor, rng: torch.Generator) -> list[Tensor]:
        total: list[Tensor] = []
        for part in index.repeat(self.looks).split(4 * BATCH):
            z, x = self._pairs(seen, part, rng)
            moments = [z.T.double() @ z.double(), z.T.double() @ x.double()]
            total = [a + b for a, b in zip(total, moments, strict=True)] if total else moments
        return total

    def _solve(self, moments: list[Tensor], ridge: float) -> Tensor:
        gram, cross = moments
        penalty = torch.full((len(gram),), ridge, dtype=gram.dtype, device=gram.device)
        penalty[-1] = 0  # the constant is not shrunk
        jitter = 1e-9 * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        return torch.linalg.solve(gram + penalty.diag() + jitter, cross).float()

    def _error(self, weights: Tensor, pairs: tuple[Tensor, Tensor]) -> float:
        return float(((pairs[0] @ weights).clamp(0, 1) - pairs[1]).square().mean())

    @torch.no_grad()
    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        z = wire.flatten(1)
        return (z @ self.weights[:-1] + self.weights[-1]).clamp(0, 1).view(-1, *self.shape)
