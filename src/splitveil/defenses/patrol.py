"""PATROL: a deeper device network that is pruned back while it trains."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..errors import UserError
from ..nn.copies import copy_of
from ..ranges import Count, Inner
from ..registry import plugin
from ._model import image_shape
from ._pruning import prune
from ._resizing import resize
from .base import Defense

BATCHES = 4
"""Number of latest training batches whose gradients decide what is pruned."""


@plugin("patrol")
class Patrol(Defense):
    """PATROL: doubles the first layer on the device, and prunes the device's channels after some epochs.

    The first convolution 3 → C becomes 3 → C/4, batch norm, ReLU, C/4 → C. After ``epoch`` epochs the part
    ``ratio`` of the channels of every group of coupled layers with the least Taylor importance |Σ w·∂L/∂w|
    (Molchanov et al., CVPR 2019), over the latest batches, is cut out of the encoder by torch-pruning; what
    crosses the wire keeps its shape, the optimizer is rebuilt and training goes on. Ding et al., "PATROL",
    WACV 2024; the published system adds attacker-aware training: ``--defense adversarial --defense patrol``. The CEM
    paper's code prunes an epoch earlier, and doubles and prunes a ResNet in another way (docs/defenses.md).

    A saved pruned encoder is read back by its tensors' shapes (``restructure_like``): nothing but tensors is
    stored.

    Args:
        epoch: epochs before the pruning; fewer than the training has.
        ratio: part of the channels that is removed, in (0, 1).
        double: whether the first layer is doubled.

    >>> Patrol(180).acts_after
    180
    """

    install_order = -2

    def __init__(self, epoch: Count = 180, ratio: Inner = 0.05, double: bool = True):
        super().__init__()
        self.acts_after, self.ratio, self.doubled = epoch, float(ratio), double
        self._seen: deque[tuple[Tensor, Tensor]] = deque(maxlen=BATCHES)

    def install(self, model: Any) -> None:
        if self.doubled:
            _double_first(model.encoder)
        example = torch.zeros(2, *image_shape(model, "patrol"), device=model.mean.device)
        prune(copy_of(model.encoder), example, self.ratio)  # a copy shows whether anything can go

    def before_step(self, x: Tensor, y: Tensor, model: Any) -> None:
        self._seen.append((x, y))

    def restructure(self, epoch: int, model: Any) -> bool:
        if epoch + 1 != self.acts_after:
            self._seen.clear()  # a resumed run has only this epoch's batches: so has every other
            return False
        rng = torch.Generator(model.mean.device).manual_seed(epoch)
        training = model.training
        model.eval()  # batch-norm statistics stay as they are
        model.encoder.zero_grad(set_to_none=True)
        for x, y in self._seen:
            cross_entropy(model(x, rng), y).backward()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for p in model.encoder.parameters():  # every process must prune the same
                torch.distributed.all_reduce(p.grad)
        prune(model.encoder, self._seen[0][0][:2], self.ratio)
        model.encoder.zero_grad(set_to_none=True)
        model.train(training)
        self._seen.clear()
        return True

    def restructure_like(self, model: Any, tensors: dict[str, Tensor]) -> bool:
        return resize(model.encoder, {k: v for k, v in tensors.items() if k.startswith("encoder.")}, "encoder.")


def _double_first(encoder: nn.Module) -> None:
    name = next((n for n, layer in encoder.named_modules() if isinstance(layer, nn.Conv2d)), None)
    first = encoder.get_submodule(name) if name is not None else None
    if not isinstance(first, nn.Conv2d) or name is None or first.out_channels < 4 or first.groups > 1:
        raise UserError("patrol: the device has no first convolution of 4 channels or more to double; use double=false")
    parent, _, leaf = name.rpartition(".")
    narrow = first.out_channels // 4
    shared: Any = {"kernel_size": first.kernel_size, "dilation": first.dilation}
    placed: Any = {"stride": first.stride, "padding": first.padding}
    # The image keeps its size, whatever the padding of the layer that is doubled: so the wire keeps its shape.
    entry = nn.Conv2d(first.in_channels, narrow, padding="same", bias=False, **shared)
    exit_ = nn.Conv2d(narrow, first.out_channels, bias=first.bias is not None, **shared, **placed)
    for layer in (entry, exit_):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    setattr(
        encoder.get_submodule(parent),
        leaf,
        nn.Sequential(entry, nn.BatchNorm2d(narrow), nn.ReLU(True), exit_),
    )
