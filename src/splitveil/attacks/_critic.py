"""Critics of the WGAN-GP attack, and the penalty that keeps them Lipschitz."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import UserError, WireError
from ..zoo.decoders import ImageShape, shape_of

Kind = Literal["plain", "published"]
SMALLEST = 25
"""Pixels that three halvings leave as the four that the published critic ends with."""


def critic(size: int | ImageShape, width: int, kind: str = "plain") -> nn.Module:
    """Return a network that scores images (B, C, H, W), without batch norm, which would tie images together.

    plain: 3 × 3 convolutions of stride 2 down to 4 pixels, then a linear layer, (B,). published: three 5 × 5
    convolutions of stride 2, the last two with instance norm, then one of 4 × 4, so that images above 32 pixels have
    a score for each place, (B, places); 1,034,113 parameters for color images and a width of 64, whatever the size.

    Args:
        size: (C, H, W) of the images; a number is the side of color images.
        width: channels of the first layer.
        kind: ``plain`` or ``published``.

    Raises:
        UserError: images too small for the published one.

    >>> critic(48, 64, "published")(torch.zeros(2, 3, 48, 48)).shape
    torch.Size([2, 9])
    """
    channels, *sides = shape_of(size)
    check(min(sides), kind)
    if kind == "published":
        return _published(channels, width)
    layers: list[nn.Module] = []
    wide = width
    while max(sides) > 4:
        layers += [nn.Conv2d(channels, wide, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
        sides, channels, wide = [(side + 1) // 2 for side in sides], wide, min(2 * wide, 8 * width)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * math.prod(sides), 1), nn.Flatten(0))


def check(size: int, kind: str) -> None:
    """Refuse an unknown critic, and images whose shorter side has too few pixels for the critic."""
    if kind not in ("plain", "published"):
        raise UserError(f"gan: critic is '{kind}'; expected plain or published")
    if kind == "published" and size < SMALLEST:
        raise WireError(
            f"gan: the published critic got images of {size} pixels; expected {SMALLEST} or more, or critic=plain"
        )


def _published(colors: int, width: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(colors, width, 5, stride=2, padding=2), nn.LeakyReLU(0.2)]
    for channels in (width, 2 * width):
        convolution = nn.Conv2d(channels, 2 * channels, 5, stride=2, padding=2)
        layers += [convolution, nn.InstanceNorm2d(2 * channels, affine=True), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 4), nn.Flatten())


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
    """Return E (‖∇C(x)‖₂ − 1)² at x uniform between each real image and its fake, a scalar.

    Gulrajani et al. 2017, eq. 3.
    """
    part = torch.rand(len(real), 1, 1, 1, generator=rng, device=real.device)
    between = (part * real + (1 - part) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take a step down the loss."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def anneal(
    optimizers: Sequence[torch.optim.Optimizer], rates: Sequence[float], epoch: float, cosine: int | None
) -> None:
    """Set each optimizer's rate on a cosine that reaches 0 after ``cosine`` epochs; None: the rates stay."""
    part = 1.0 if cosine is None else (1 + math.cos(math.pi * min(1.0, epoch / cosine))) / 2
    for optimizer, rate in zip(optimizers, rates, strict=True):
        optimizer.param_groups[0]["lr"] = part * rate
