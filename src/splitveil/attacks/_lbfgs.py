"""Limited-memory BFGS for many functions at once, each with its own history and its own steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points (B, n) -> values (B,) and gradients (B, n); row by row, and the same for the same points."""
DECREASE = 1e-4
"""Part of the decrease promised by the slope that a step must bring (Armijo's rule)."""
SHORTER = 0.3
"""Factor on a step that did not decrease the value enough."""
MEMORY = 10
"""Number of past steps that each row remembers."""


class Lbfgs:
    """Minimize one function per row (Nocedal 1980); a row never depends on its neighbors.

    Each `step` evaluates once: the full quasi-Newton step, or after one that brought no decrease a shorter one.

    Attributes:
        x: the best point of each row, (B, n). value: what it has there, (B,).

    >>> target = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    >>> found = Lbfgs(torch.zeros(2, 2))
    >>> for _ in range(12):
    ...     found.step(lambda x: (((x - target) ** 4).sum(1), 4 * (x - target) ** 3))
    >>> bool((found.value < 1e-3).all())
    True
    """

    def __init__(self, start: Tensor, memory: int = MEMORY):
        self.x, self.gradient, self.direction = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
        self.value, self.length = start.new_full((len(start),), torch.inf), start.new_ones(len(start))
        self.moves, self.bends = start.new_zeros(2, memory, *start.shape)
        self.inverse, self.scale = start.new_zeros(memory, len(start)), start.new_zeros(len(start))
        self.count = torch.zeros((), dtype=torch.long)

    def step(self, evaluate: Evaluate) -> None:
        """Try the next point of each row, and keep it where it is better."""
        x = self.x + self.length[:, None] * self.direction
        value, gradient = evaluate(x)
        promised = self.length * (self.gradient * self.direction).sum(1)
        better = value <= self.value + DECREASE * promised
        self._remember(better, x - self.x, gradient - self.gradient)
        self.x = torch.where(better[:, None], x, self.x)
        self.gradient = torch.where(better[:, None], gradient, self.gradient)
        self.value = torch.where(better, value, self.value)
        self.length = torch.where(better, 1.0, SHORTER * self.length)
        self.direction = torch.where(better[:, None], self._downhill(), self.direction)

    def _remember(self, better: Tensor, move: Tensor, bend: Tensor) -> None:
        """Add the newest pair of step and gradient change; one without positive curvature gets weight zero."""
        curvature, size = (move * bend).sum(1), bend.square().sum(1)
        useful = better & (curvature > 1e-10 * size)
        at = int(self.count) % len(self.moves)
        self.moves[at], self.bends[at] = move, bend
        self.inverse[at] = torch.where(useful, 1 / curvature, 0.0)
        self.scale = torch.where(useful, curvature / size, self.scale)
        self.count += 1

    def _downhill(self) -> Tensor:
        """Return minus the inverse Hessian, as far as it is known, times the gradient: the two loops over the pairs."""
        order = [(int(self.count) - 1 - i) % len(self.moves) for i in range(min(int(self.count), len(self.moves)))]
        q, parts = self.gradient.clone(), []
        for i in order:
            parts.append(self.inverse[i] * (self.moves[i] * q).sum(1))
            q -= parts[-1][:, None] * self.bends[i]
        # Without any pair yet: a step of length one.
        unit = 1 / self.gradient.norm(dim=1).clamp(min=1e-20)
        q *= torch.where(self.scale > 0, self.scale, unit)[:, None]
        for i, part in zip(reversed(order), reversed(parts), strict=True):
            q += (part - self.inverse[i] * (self.bends[i] * q).sum(1))[:, None] * self.moves[i]
        return -q

    def state_dict(self) -> dict[str, Tensor]:
        """Return all state, for a checkpoint."""
        return {name: value.clone() for name, value in vars(self).items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        for name, value in vars(self).items():
            value.copy_(state[name])
