"""The memory that a training needs, measured before its first step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from .. import memory
from ..data import to_float

if TYPE_CHECKING:
    from ..data import Split
    from .fabric import Fabric
    from .loop import Training


def check_placed(model: nn.Module, train: Split, fabric: Fabric) -> None:
    """Refuse a network or images that have no room on the GPU, before either is put there.

    Args:
        model: network with its defense.
        train: images that it learns from; a CPU reads them where they are.
        fabric: device and processes.

    Raises:
        UserError: something does not fit; the message names it and how much it would take.
    """
    if fabric.device.type == "cpu":
        return
    images = {"number or size of the training images": train.images.nbytes}
    needs = images | {"width or number of layers": memory.SGD * memory.bytes_of(model)}
    memory.check("the training", needs, fabric.device, fabric.world_size)


def check(trainer: Training, rng: torch.Generator) -> None:
    """Refuse a batch, or what a defense holds, that needs more memory than there is.

    Two images go through the network, and tell what a batch keeps for the backward pass.

    Args:
        trainer: training before its first step.
        rng: generator of the defense's noise.

    Raises:
        UserError: something does not fit; the message names it and how much it would take.
    """
    settings, fabric = trainer.settings, trainer.fabric
    batch = math.ceil(min(settings.batch_size, trainer.count) / fabric.world_size)
    two = to_float(trainer.train.images[:2])
    with torch.enable_grad(), fabric.autocast(), memory.kept(trainer.step) as saved:
        z, _, _ = trainer.step.eval()(two, rng)
    colors, *size = two.shape[1:]
    padded = colors * math.prod(side + 2 * (settings.crop_padding or 0) for side in size)
    needs = {
        "batch_size": memory.SGD * memory.bytes_of(trainer.step) + batch * saved() // len(two),
        "crop_padding": 0 if settings.rotate else batch * padded,  # a rotation pads nothing
        **trainer.stack.memory(batch, tuple(z.shape[1:]), trainer.classes),
    }
    memory.check("the training", needs, fabric.device, fabric.world_size)
