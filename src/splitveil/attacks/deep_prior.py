"""White-box optimization of an untrained network whose shape alone prefers natural images (deep image prior)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..data import Access, Split, to_float
from ..errors import WireError
from ..memory import trained
from ..randomness import seeded_layers
from ..ranges import Count, Rate, Weight
from ..registry import plugin
from ..runtime import Runtime
from ._backward import Mode
from ._total_variation import total_variation
from ._white_box import ROWS, WhiteBox
from .base import Attack, Extent, Victim

JITTER = (0.5, 0.1, 0.05)
"""Noise on the network's input in each third of the steps, in units of the input: 10 : 2 : 1 as published."""
CODE = 16
"""Channels of the fixed noise that is the network's input."""


@plugin("deep_prior")
class DeepPriorAttack(Attack):
    """Likelihood maximization with an untrained network: x̂ = g_θ(noise), θ minimizes the distance on the wire.

    ‖E_ε D(f(g_θ(n)), ε) − z_wire‖²/(m v) + tv · TV/TV₀, as in `rmle`, over the weights of a convolutional network with
    skip connections (Ulyanov et al. 2018). Each image has a network of its own; those of a call are optimized at once
    as one network of grouped convolutions. Where several backward passes are possible (see `WhiteBox`) the error on
    the attacker's own images chooses.

    Args:
        steps: Adam steps. tv: weight of total variation. lr: Adam's rate.
        width: channels of the network. draws: draws of the defense's noise in each step.
        tuning: attacker images on which the backward pass is chosen.
    """

    needs: ClassVar = frozenset({Access.QUERY, Access.WEIGHTS})
    all_looks: ClassVar = True
    iterates: ClassVar = True

    def __init__(
        self,
        steps: Count = 2000,
        tv: Weight = 0.05,
        lr: Rate = 1e-2,
        width: Count = 32,
        draws: Count = 4,
        tuning: Count = 16,
    ):
        self.steps, self.tv, self.lr, self.width, self.draws, self.tuning = steps, tv, lr, width, draws, tuning

    def check(self, wire: tuple[int, ...], size: int) -> None:
        if size < 5:  # two halvings must leave more than a pixel to normalize over
            raise WireError(f"deep_prior: the images have {size} pixels a side; expected at least 5")

    def memory(self, extent: Extent) -> dict[str, int]:
        colors, *size = extent.image
        # Each image has a network of its own.
        two = trained("width", lambda: Hourglasses(2, self.width, colors), 2, CODE, *size)
        return {name: extent.answered * needed // 2 for name, needed in two.items()} | extent.search(self.draws)

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        victim.require(*self.needs)
        self._runtime, self._curve, self._image = runtime or Runtime(), [], images.shape
        self.check((), min(self._image[1:]))
        few = torch.randperm(len(images), generator=rng, device=rng.device)  # they may be sorted by class
        images = images.subset(few[: max(ROWS, self.tuning)].to(images.images.device))
        self.box = WhiteBox(victim, images, self.draws, rng)
        self._seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
        x = to_float(images.images[: self.tuning].to(victim.device))
        self._typical = float(total_variation(x).mean())
        self.mode: Mode = self.box.modes[0]
        if len(self.box.modes) > 1:
            wire = victim.query(x, rng)
            modes = self._runtime.each(self.box.modes)
            self._curve = [float((self._optimize(wire, mode) - x).square().mean()) for mode in modes]
            self.mode = self.box.modes[self._curve.index(min(self._curve))]

    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        return self._optimize(wire, self.mode)

    @torch.enable_grad()
    def _optimize(self, wire: Tensor, mode: Mode) -> Tensor:
        rng = torch.Generator(wire.device).manual_seed(self._seed)
        target = self.box.target(wire)
        with seeded_layers(rng):
            nets = Hourglasses(len(wire), self.width, self._image[0]).to(wire.device)
        code = torch.randn(len(wire), CODE, *self._image[1:], generator=rng, device=wire.device)
        optimizer = torch.optim.Adam(nets.parameters(), self.lr)
        loop = self._runtime.loop(f"deep_prior {mode}", self.steps, {"nets": nets, "optimizer": optimizer}, rng)
        for _ in loop:
            jitter = JITTER[int(loop.fraction * len(JITTER))]
            x = nets(code + jitter * torch.randn(code.shape, generator=rng, device=code.device))
            loss = self.box.feature_loss(x, target, rng, mode) + self.tv / self._typical * total_variation(x)
            optimizer.zero_grad(set_to_none=True)
            loss.sum().backward()
            optimizer.step()
        with torch.no_grad():
            return nets(code)

    def curve(self) -> list[float]:
        return self._curve


class Hourglasses(nn.Module):
    """``count`` networks of equal shape and separate weights: codes (count, 16, H, W) -> images (count, C, H, W).

    Two halvings and two doublings with skip connections of 4 channels. Normalization is over the pixels of one image.
    """

    def __init__(self, count: int, width: int, colors: int = 3, skip: int = 4):
        super().__init__()
        self.down = nn.ModuleList([Grouped(count, CODE, width, 2), Grouped(count, width, width, 2)])
        self.skip = nn.ModuleList([Grouped(count, CODE, skip), Grouped(count, width, skip)])
        self.bottom = Grouped(count, width, width)
        self.up = nn.ModuleList([Grouped(count, width + skip, width) for _ in range(2)])
        self.last = nn.Conv2d(count * width, count * colors, 1, groups=count)

    def forward(self, code: Tensor) -> Tensor:
        skips = []
        for down, skip in zip(self.down, self.skip, strict=True):
            skips.append(skip(code))
            code = down(code)
        x = self.bottom(code)
        for up, side in zip(self.up, reversed(skips), strict=True):
            larger = interpolate(x, side.shape[2:], mode="bilinear", align_corners=False)
            x = up(torch.cat([larger, side], 1))
        return self.last(x.reshape(1, -1, *x.shape[2:])).view(len(x), -1, *x.shape[2:]).sigmoid()


class Grouped(nn.Module):
    """Convolution, normalization and leaky ReLU, with separate weights for every image of the batch."""

    def __init__(self, count: int, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(count * inputs, count * outputs, 3, stride, padding=1, groups=count)
        self.norm = nn.GroupNorm(count * outputs, count * outputs)
        self.act = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.norm(self.conv(x.reshape(1, -1, *x.shape[2:]))))
        return out.view(len(x), -1, *out.shape[2:])
