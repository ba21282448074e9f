"""The defender's stand-in for the attacker: a decoder that shares the encoder's backward pass."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..memory import check, trained
from ..metrics import WINDOW, ssim
from ..zoo import decoders
from ._model import image_shape, wire_shape

Objective = Literal["ssim", "mse"]
Padding = Literal["valid", "zero"]


class Proxy(nn.Module):
    """A decoder z_wire -> x̂ with its own Adam.

    Its gradient comes from any backward pass that its loss is part of; `learn` then takes the step. The
    optimizer's state is part of the state dictionary, so that a resumed training goes on bit by bit.
    """

    def __init__(self, who: str, network: str, objective: Objective, lr: float, padding: Padding):
        super().__init__()
        self.who, self.network, self.objective, self.lr = who, network, objective, lr
        self.padding: Padding = padding

    def build(self, model: Any) -> None:
        """Build the decoder for the model's wire; its weights come from torch's generator."""
        shapes = {"feature_shape": wire_shape(model, self.who), "image_size": image_shape(model, self.who)}
        build = partial(decoders.build, self.network, **shapes)
        check(self.who, trained("network", build, 2, *wire_shape(model, self.who)), "cpu")
        self.decoder = build()
        self.adam = torch.optim.Adam(self.decoder.parameters(), self.lr)

    def similarity(self, wire: Tensor, x: Tensor) -> Tensor:
        """Return the SSIM of the reconstruction, or minus its mean squared error: a scalar, mean over the batch."""
        seen = self.decoder(wire.float())
        if self.objective == "mse":
            return -(seen - x).square().mean()
        return ssim(seen, x, padding=self.padding if min(x.shape[2:]) >= WINDOW else "zero").mean()

    def learn(self) -> None:
        """Take Adam's step with the gradient gathered since the last one, averaged over the processes."""
        gradients = [p.grad for p in self.decoder.parameters() if p.grad is not None]
        if not gradients:
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for gradient in gradients:
                torch.distributed.all_reduce(gradient)
                gradient /= torch.distributed.get_world_size()
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def get_extra_state(self) -> dict[str, Any]:
        return self.adam.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state)
