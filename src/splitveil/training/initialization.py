"""Initial weights that depend on the images: every layer answers with unit variance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model import SplitModel
from .hooks import hooked

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
NORMS = (nn.modules.batchnorm._NormBase,)
LEAST = 1e-6
"""Standard deviation below which a layer is left as it is: it answers the same to every image."""


@torch.no_grad()
def scale_to_unit_variance(model: SplitModel, x: Tensor, rng: torch.Generator) -> None:
    """Scale and shift every layer of a network so that its outputs have mean 0 and variance 1 on some images.

    Layer-sequential unit variance (Mishkin and Matas, "All you need is a good init", ICLR 2016) in one pass: each
    layer sees what the scaled layers before it answer. The last layer, which gives the logits, stays as it was drawn. A
    layer that is used several times is scaled where it is used first, and a frozen one not at all. Without this a
    bottleneck before a sigmoid, whose sums have a large variance, starts where the sigmoid is flat and learns slowly.

    Args:
        model: untrained; weights and biases change, statistics of norms do not.
        x: pixels (B, C, S, S) in [0, 1].
        rng: generator of the defense's noise.

    >>> tail = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> model = SplitModel(nn.Conv2d(3, 4, 3), tail)
    >>> x = torch.rand(50, 3, 8, 8)
    >>> scale_to_unit_variance(model, x, torch.Generator().manual_seed(0))
    >>> z = model.features(x)
    >>> round(float(z.detach().std()), 3), bool(z.mean((0, 2, 3)).abs().max() < 1e-4)
    (1.0, True)
    """
    parts = nn.ModuleList([model.encoder, model.tail])
    layers = [m for m in parts.modules() if isinstance(m, LAYERS) and m.weight.requires_grad]
    norms = [module for module in parts.modules() if isinstance(module, NORMS)]
    kept = [(value, value.clone()) for norm in norms for value in norm.buffers()]
    done: set[nn.Module] = set(layers[-1:])
    handles = [layer.register_forward_hook(_hook(done)) for layer in layers]
    try:
        with hooked(parts, handles):
            for norm in norms:
                norm.train()  # an untrained norm's statistics are those of no image
            model.tail(model.protect(model.features(x), rng))
    finally:
        for value, before in kept:
            value.copy_(before)


def _hook(done: set[nn.Module]):
    def scaled(layer: nn.Module, _: object, answer: Tensor) -> Tensor | None:
        if layer in done:
            return None
        done.add(layer)
        axis = -1 if isinstance(layer, nn.Linear) else 1
        others = [a for a in range(answer.ndim) if a != axis % answer.ndim]
        mean = answer.mean(others, keepdim=True)
        deviation = (answer - mean).square().mean().sqrt()
        if float(deviation) < LEAST:
            return None
        layer.weight.div_(deviation)  # type: ignore[union-attr, operator]
        answer = answer / deviation
        if layer.bias is None:  # type: ignore[union-attr]
            return answer
        mean = mean / deviation
        # What the old bias added was divided too.
        layer.bias.div_(deviation).sub_(mean.flatten())  # type: ignore[union-attr, operator]
        return answer - mean

    return scaled
