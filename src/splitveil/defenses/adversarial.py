"""Attacker-aware training: the encoder learns against a decoder that learns to invert it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from ..ranges import Count, Part, Rate, Share, Weight, Whole
from ..registry import plugin
from ..zoo.decoders import Network
from ._proxy import Objective, Padding, Proxy
from .base import Defense, Step


@plugin("adversarial")
class Adversarial(Defense):
    """Attacker-aware training (ResSFL): the encoder learns to defeat a proxy decoder trained beside it.

    min_encoder max_proxy  L_task + λ · relu(S(D(z_wire), x) − t),  S the SSIM (``ssim``), or −MSE with −t
    (``mse``): the encoder's part is zero where the reconstruction is already worse than the threshold t. The
    proxy D sees the wire, with the noise that the attacker will see. Li et al., "ResSFL", CVPR 2022 (the
    published ``gan_adv``).

    One pass of the proxy serves both players. Its loss −S is the root of the graph, so its own gradient is
    −∂S/∂D; where the gradient enters the encoder it is multiplied by −λ·1[S > t], which turns it into the
    encoder's (a gradient-reversal layer, Ganin and Lempitsky 2015). So both players answer to the same proxy
    of this step, instead of the encoder to the one after its update. With ``steps`` > 1 the proxy first takes
    the others on the same features with fresh noise.

    The proxy's pass is the cost: ``share`` < 1 gives it only that part of each batch, an unbiased estimate of
    the same loss from fewer images. 1 is the published reading.

    Args:
        weight: λ ≥ 0. steps: updates of the proxy per batch. objective: "ssim" or "mse".
        threshold: t ≥ 0, in units of the objective; a mean squared error rarely reaches the default.
        pretrain: epochs at the start in which the proxy learns and the encoder is not penalized.
        share: part of each batch that the proxy sees, in (0, 1].
        network: decoder network of the proxy, see `splitveil list models`. lr: rate of its Adam.
        padding: border of the SSIM: "valid", whole windows, or "zero", black, for which the published t of 0.5 is.

    >>> Adversarial(0.3).proxy.network
    'res_normN4C64'
    """

    epochs: Tensor

    def __init__(
        self,
        weight: Weight = 0.3,
        steps: Count = 1,
        objective: Objective = "ssim",
        threshold: Part = 0.5,
        pretrain: Whole = 0,
        share: Share = 0.5,
        network: Network = "res_normN4C64",
        lr: Rate = 1e-3,
        padding: Padding = "valid",
    ):
        super().__init__()
        self.weight, self.steps, self.threshold = float(weight), steps, float(threshold)
        self.share = float(share)
        self.acts_after = pretrain
        self.proxy = Proxy("adversarial", network, objective, lr, padding)
        self.register_buffer("epochs", torch.zeros((), dtype=torch.long))

    def install(self, model: Any) -> None:
        self.proxy.build(model)

    def before_step(self, x: Tensor, y: Tensor, model: Any) -> None:
        self.proxy.learn()

    def loss(self, step: Step) -> Tensor:
        part = slice(max(2, round(self.share * len(step.x))))  # batches come shuffled
        for _ in range(self.steps - 1):
            with torch.no_grad():
                wire = step.model.protect(step.z[part].detach(), step.rng)
            (-self.proxy.similarity(wire, step.x[part])).backward()
            self.proxy.learn()
        seen = step.wire[part]  # a node of its own, so that the other losses' gradients pass by
        similarity = self.proxy.similarity(seen, step.x[part])
        limit = self.threshold if self.proxy.objective == "ssim" else -self.threshold
        strength = self.weight * (self.epochs >= self.acts_after)
        excess = strength * relu(similarity.detach() - limit)
        pull = strength * (excess > 0)
        if seen.requires_grad:
            seen.register_hook(lambda gradient: -pull * gradient)
        return excess - (similarity - similarity.detach())

    def restructure(self, epoch: int, model: Any) -> bool:
        self.proxy.learn()  # the last batch's gradient: a checkpoint holds none
        self.epochs += 1
        return False

    def own_parameters(self) -> list[nn.Parameter]:
        return list(self.proxy.parameters())
