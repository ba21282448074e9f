"""Muon: SGD whose steps on matrices are orthogonal, for those matrices whose scale a norm takes away."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..model import SplitModel
from ..nn.orthogonal import orthogonal
from .hooks import hooked

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
LEAST = 1e-7
"""Norm of a step below which it is shorter than the rate says: a gradient of 0 moves nothing."""


class Muon(torch.optim.SGD):
    """SGD for most parameters, and for groups with ``matrices`` steps along the nearest orthogonal matrix.

    The step of such a matrix W with momentum M (Nesterov's, as in SGD) is the polar factor U Vᵀ of M = U S Vᵀ, so that
    every direction learns at the same pace, whatever the gradients' sizes (Jordan et al., "Muon: an optimizer for
    hidden layers in neural networks", 2024). What follows is a norm, which takes the scale of W away. So W keeps its
    Frobenius norm, and the rate is the step's length as a part of it:

        W ← ‖W‖ (V / ‖V‖)   with   V = W - rate ‖W‖ P / ‖P‖,   P the polar factor

    There is no weight decay in such a group: it would change the scale alone. A weight of norm 0 stays 0.

    Args:
        groups: parameter groups as of SGD. A group with ``matrices``: the number of groups of each convolution, by
            parameter (a depthwise filter is a matrix of its own).
        precision: in which the polar factors are computed.
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
        alike: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for weight, parts in zip(group["params"], group["matrices"], strict=True):
            if weight.grad is not None:
                alike[parts, len(weight) // parts, weight[0].numel()].append(weight)
        for shape, weights in alike.items():
            matrices = torch.stack([self._momentum(weight, group).reshape(shape) for weight in weights])
            for weight, step in zip(weights, orthogonal(matrices.to(self.precision)).to(weights[0].dtype), strict=True):
                norm = weight.norm()
                weight.sub_((step * (group["lr"] * norm / step.norm().clamp(min=LEAST))).reshape(weight.shape))
                weight.mul_(norm / weight.norm().clamp(min=LEAST))
                weight.grad = None  # SGD leaves it alone

    def _momentum(self, weight: nn.Parameter, group: dict[str, Any]) -> Tensor:
        gradient = cast(Tensor, weight.grad)
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        moving = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        return gradient.add(moving, alpha=group["momentum"]) if group["nesterov"] else moving


@torch.no_grad()
def before_norms(model: SplitModel, x: Tensor, rng: torch.Generator) -> dict[nn.Parameter, int]:
    """Return the weights whose layer's answer goes into a norm as it is, each with the groups of its convolution.

    An answer that something else reads too counts, and one that was changed in place on its way does not.

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
    answers: dict[nn.Module, tuple[Tensor, int]] = {}
    found: dict[nn.Parameter, int] = {}

    def answered(layer: nn.Module, _: object, answer: Tensor) -> None:
        answers[layer] = answer, answer._version

    def normed(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        for layer, (answer, version) in answers.items():
            same = inputs and inputs[0] is answer and answer._version == version
            if same and layer.weight.requires_grad:  # type: ignore[union-attr]
                found[layer.weight] = getattr(layer, "groups", 1)  # type: ignore[index, assignment]

    layers = [module for module in parts.modules() if isinstance(module, LAYERS)]
    handles = [layer.register_forward_hook(answered) for layer in layers]
    handles += [m.register_forward_pre_hook(normed) for m in parts.modules() if isinstance(m, NORMS)]
    with hooked(parts, handles):
        model.tail(model.protect(model.features(x), rng))
    return found
