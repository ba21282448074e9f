"""Sign-gradient noise on the wire against a proxy decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..ranges import Rate, Weight
from ..registry import plugin
from ..zoo.decoders import Network
from ._law import Law
from ._model import image_shape
from ._proxy import Objective, Padding, Proxy
from .base import Defense, Step

MEMORY = 0.01
"""Share of the newest batch in the mean image."""


@plugin("adversarial_noise")
class AdversarialNoise(Defense):
    """Sign-gradient noise: moves the feature so that a proxy decoder shows the mean training image.

    z_wire = z − ε · sign(∇_z ‖D(z) − x̄‖²), D the device's own proxy decoder, trained beside the encoder on
    what crosses the wire, x̄ the running mean of the training images. After the fast gradient sign method
    (Goodfellow et al. 2015); the published ``gan_adv_noise`` takes the gradient of the error of D(z) against
    x itself, with a proxy that is trained apart. Against x̄ the shift is a function of z alone: the same z
    gives the same wire, in training, attack and service, whatever the batch.

    It adds no randomness: an attacker who trains on the wire learns the shift with it. Gradients pass it
    unchanged.

    Args:
        size: ε ≥ 0, in units of the feature. objective, network, lr, padding: of the proxy, as for
            `adversarial`.

    >>> AdversarialNoise(0.1).noise_variance()
    0.0
    """

    mean_image: Tensor

    def __init__(
        self,
        size: Weight = 0.1,
        objective: Objective = "mse",
        network: Network = "res_normN4C64",
        lr: Rate = 1e-3,
        padding: Padding = "valid",
    ):
        super().__init__()
        self.size = float(size)
        self.proxy = Proxy("adversarial_noise", network, objective, lr, padding)

    def install(self, model: Any) -> None:
        self.proxy.build(model)
        self.register_buffer("mean_image", torch.full(image_shape(model, "adversarial_noise"), 0.5))

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        if self.size == 0:
            return z
        decoder = self.proxy.decoder
        training = decoder.training
        decoder.eval()  # batch statistics would let one image's wire depend on its neighbors
        with torch.enable_grad():
            seen = z.detach().float().requires_grad_()
            distance = (decoder(seen) - self.mean_image).square().sum()
            (gradient,) = torch.autograd.grad(distance, seen)
        decoder.train(training)
        return z.float() - self.size * gradient.sign()

    def law(self, wire: Tensor, before: Law) -> Law:
        if not self.size:
            return before
        # Where there was a zero, nothing but the shift is left, which has one size on all entries.
        return before.silent(None if before.visible is None else (wire.abs() != self.size) & (wire != 0))

    def before_step(self, x: Tensor, y: Tensor, model: Any) -> None:
        self.proxy.learn()
        self.mean_image.lerp_(x.mean(0), MEMORY)

    def loss(self, step: Step) -> Tensor:
        similarity = self.proxy.similarity(step.wire.detach(), step.x)
        return similarity.detach() - similarity  # zero; its gradient trains the proxy

    def restructure(self, epoch: int, model: Any) -> bool:
        self.proxy.learn()
        return False

    def own_parameters(self) -> list[nn.Parameter]:
        return list(self.proxy.parameters())
