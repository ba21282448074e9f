"""Muon: SGD whose steps on matrices are orthogonal, for those matrices whose scale a norm takes away."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..model import SplitModel
from ..nn.orthogonal import orthogonal

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
LEAST = 1e-7
"""Norm below which a gradient is taken for 0."""


class Muon(torch.optim.SGD):
    """SGD for most parameters, and for groups with ``matrices`` steps along the nearest orthogonal matrix.

    The step of such a matrix W with momentum M (Nesterov's, as in SGD) is the polar factor U Vᵀ of M = U S Vᵀ, so that
    every direction learns at the same pace, whatever the gradients' sizes (Jordan et al., "Muon: an optimizer for
    hidden layers in neural networks", 2024). What follows is a norm, which takes the scale of W away. So W keeps its
    Frobenius norm, and the rate is the step's length as a part of it:

        W ← ‖W‖ (V / ‖V‖)   with   V = W - rate ‖W‖ P / ‖P‖,   P the polar factor

    There is no weight decay in such a group: it would change the scale alone.

    Args:
        groups: parameter groups as of SGD. A group with ``matrices``: the number of groups of each convolution, by
            parameter (a depthwise filter is a matrix of its own).
        precision: in which the large products are computed.
        settings: of SGD.

    >>> weight = nn.Parameter(torch.eye(3))
    >>> optimizer = Muon([{"params": [weight], "matrices": [1]}], lr=0.1, momentum=0.9, nesterov=True)
    >>> weight.grad = torch.diag(torch.tensor([1.0, 1e-3, 0.0]))
    >>> optimizer.step()
    >>> bool(weight[0, 0] < weight[2, 2]), round(float(weight.detach().norm() ** 2), 4)
    (True, 3.0)
    """

    def __init__(self, groups: list[dict[str, Any]], *, precision: torch.dtype = torch.float32, **settings: Any):
        super().__init__(groups, **settings)
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make one step of all groups; gradients of the matrices are gone after it.

        Args:
            closure: as of SGD.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group.get("matrices"):
                self._turn(group)
        super().step()
        return loss

    def _turn(self, group: dict[str, Any]) -> None:
        """Make the steps of a group, those of one shape at once."""
        alike: dict[tuple[int, ...], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for weight, parts in zip(group["params"], group["matrices"], strict=True):
            if weight.grad is not None:
                moving = self._momentum(weight, group)
                matrices = moving.reshape(parts, len(moving) // parts, -1)
                alike[tuple(matrices.shape)].append((weight, matrices))
                weight.grad = None  # SGD leaves it alone
        for entries in alike.values():
            weights, matrices = zip(*entries, strict=True)
            steps = orthogonal(torch.cat(matrices), self.precision).split(len(matrices[0]))
            for weight, step in zip(weights, steps, strict=True):
                norm = weight.norm()
                weight.sub_((step * (group["lr"] * norm / step.norm().clamp(min=LEAST))).reshape(weight.shape))
                weight.mul_(norm / weight.norm().clamp(min=LEAST))

    def _momentum(self, weight: nn.Parameter, group: dict[str, Any]) -> Tensor:
        gradient = cast(Tensor, weight.grad)
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        moving = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        return gradient.add(moving, alpha=group["momentum"]) if group["nesterov"] else moving


@torch.no_grad()
def before_norms(model: SplitModel, x: Tensor, rng: torch.Generator) -> dict[nn.Parameter, int]:
    """Return the weights whose layer's answer goes straight into a norm, each with the groups of its convolution.

    Args:
        model: two images go through it; nothing of it changes.
        x: pixels (B, C, S, S) in [0, 1].
        rng: generator of the defense's noise.

    >>> tail = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> model = SplitModel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), tail)
    >>> found = before_norms(model, torch.rand(2, 3, 8, 8), torch.Generator().manual_seed(0))
    >>> [tuple(weight.shape) for weight in found]
    [(4, 3, 3, 3)]
    """
    parts = nn.ModuleList([model.encoder, model.tail])
    modes = {module: module.training for module in parts.modules()}
    answers: dict[nn.Module, Tensor] = {}
    found: dict[nn.Parameter, int] = {}

    def answered(layer: nn.Module, _: object, answer: Tensor) -> None:
        answers[layer] = answer

    def normed(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        for layer, answer in answers.items():
            if inputs and inputs[0] is answer and layer.weight.requires_grad:  # type: ignore[union-attr]
                found[layer.weight] = getattr(layer, "groups", 1)  # type: ignore[index, assignment]

    layers = [module for module in parts.modules() if isinstance(module, LAYERS)]
    handles = [layer.register_forward_hook(answered) for layer in layers]
    handles += [m.register_forward_pre_hook(normed) for m in parts.modules() if isinstance(m, NORMS)]
    try:
        parts.eval()
        model.tail(model.protect(model.features(x), rng))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return found
