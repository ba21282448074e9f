"""The wire's mean as a differentiable function of the pixels, for bounds from the Fisher information."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..data import to_float
from ..defenses.adversarial_noise import AdversarialNoise
from ..defenses.topk import TopK
from .base import BoundError, Channel

SMOOTH = "The encoder, and what a defense does to the feature before the noise, is differentiable."
KINKS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.MaxPool2d, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid)
JUMPS = (TopK, AdversarialNoise)
BATCH = 100
"""Images that are differentiated at once."""


class SmoothWire:
    """The wire N(mean(x), diag(variance)) of a channel whose noise is the same for every image.

    Attributes:
        variance: of the noise, (m,), float64.
        assumption: sentence that says that the mean is differentiable, and names the layers where it is not.

    Args:
        channel: model and images.

    Raises:
        BoundError: the wire's noise is not Gaussian, there is none, or it differs between images.
    """

    def __init__(self, channel: Channel):
        variance = channel.conditional("held_out").variance
        if bool((variance != variance[:1]).any()):
            raise BoundError("the noise differs between images; the Fisher information then has a further term")
        self.channel, self.variance = channel, variance[0]
        self.assumption = SMOOTH + _named(channel.model, KINKS, "It has {}: it is so nearly everywhere only.")
        self.assumption += _named(channel.model, JUMPS, "{} jumps: what the jumps tell is not counted.")

    @property
    def mean(self) -> Callable[[Tensor], Tensor]:
        """Return the function from pixels (B, C, H, W) in [0, 1] to means of the wire (B, ...)."""
        model = self.channel.model

        def mean(x: Tensor) -> Tensor:
            z = model.features(x)
            return model.defense.gaussian_law(z, torch.zeros_like(z))[0]  # type: ignore[union-attr, operator]

        return mean

    @torch.enable_grad()
    def scores(self, x: Tensor, directions: int, rng: torch.Generator) -> Tensor:
        """Return g = Jᵀ Σ^(-1/2) v of random signs v, so that E[g gᵀ] = Jᵀ Σ⁻¹ J, (B, directions, d) float32.

        They are vector-Jacobian products: the cost does not depend on how many values the wire has.

        Args:
            x: pixels (B, C, H, W).
            directions: number of v for each image.
            rng: generator of the signs.
        """
        found = []
        for part in x.split(BATCH):
            part = part.detach().requires_grad_()
            mean = self.mean(part).flatten(1)
            if not mean.requires_grad:
                raise BoundError("the wire has no derivative by the pixels")
            for last in range(directions - 1, -1, -1):
                signs = torch.randint(0, 2, mean.shape, generator=rng, device=x.device) * 2.0 - 1
                weights = (signs / self.variance.sqrt()).to(mean)
                (slope,) = torch.autograd.grad(mean, part, weights, retain_graph=last > 0, materialize_grads=True)
                found.append(slope.flatten(1).float())
        rows = [torch.stack(found[i : i + directions], 1) for i in range(0, len(found), directions)]
        return torch.cat(rows)


def pixels_of(channel: Channel, part: str, most: int, rng: torch.Generator) -> Tensor:
    """Return the pixels in [0, 1] of at most so many images of a part, drawn from all of it: sets may be sorted."""
    images = getattr(channel, part).images
    order = torch.randperm(len(images), generator=rng, device=rng.device)[:most]
    return to_float(images[order.to(images.device)].to(channel.device))


def _named(model: nn.Module, kinds: tuple[type, ...], sentence: str) -> str:
    front = [module for name, module in model.named_modules() if not name.startswith("tail")]
    names = sorted({type(module).__name__ for module in front if isinstance(module, kinds)})
    return " " + sentence.format(", ".join(names)) if names else ""
