"""The cost of the encoder on the device: multiply-adds, parameters, bytes on the wire, milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..coded import send_of
from ..model import SplitModel
from .record import Device

REPEATS, WARM_UP = 30, 5


def multiply_adds(model: SplitModel) -> int:
    """Return the multiply-adds of what the device computes for one image: of convolutions and matrix products.

    What the cloud makes of the numbers that are sent is not among them.

    Args:
        model: with its defense.

    >>> multiply_adds(SplitModel(nn.Conv2d(3, 4, 3), nn.Identity(), example=torch.rand(1, 3, 8, 8)))
    3888
    """
    return counted(lambda: _encode(model))


def counted(work: Callable[[], object]) -> int:
    """Return the multiply-adds of a piece of work: of its convolutions, matrix products and attention.

    Args:
        work: is called once, without gradients.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() // 2


def device_cost(model: SplitModel) -> Device:
    """Return the cost on the device for one image; the time is measured here, on this machine's threads.

    Args:
        model: with its defense, in evaluation mode.
    """
    encoder = sum(p.numel() for p in model.encoder.parameters())
    with torch.no_grad(), _Used() as used:
        _encode(model)
    x = torch.full((1, *model.image_shape), 0.5, device=model.mean.device)
    wire = list(model.encode(x, torch.Generator(x.device).manual_seed(0)).shape[1:])
    own = sum(one.numel() for one in _tensors(model.defense) if one.untyped_storage().data_ptr() in used.places)
    with torch.no_grad():
        times = [_seconds(model) for _ in range(WARM_UP + REPEATS)][WARM_UP:]
    middle = 1000 * torch.tensor(times, dtype=torch.float64).quantile(torch.tensor([0.5, 0.25, 0.75]).double())
    return Device(
        multiply_adds=multiply_adds(model),
        parameters=encoder + own,
        wire=wire,
        bytes=model.bytes_sent,
        milliseconds=middle.tolist(),
        threads=torch.get_num_threads(),
    )


def _encode(model: SplitModel) -> Tensor:
    """Return the numbers that are sent for an image."""
    x = torch.full((1, *model.image_shape), 0.5, device=model.mean.device)
    return send_of(model)(x, torch.Generator(x.device).manual_seed(0))


class _Used(TorchDispatchMode):
    """Notes which tensors are read: of a defense, only a part may be on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self.places.add(value.untyped_storage().data_ptr())
        return function(*args, **(kwargs or {}))


def _tensors(defense: Any) -> list[Tensor]:
    return [*defense.parameters(), *defense.buffers()] if isinstance(defense, nn.Module) else []


def _seconds(model: SplitModel) -> float:
    start = time.perf_counter()
    _encode(model)
    if model.mean.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
