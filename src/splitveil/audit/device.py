"""The cost of the encoder on the device: multiply-adds, parameters, bytes on the wire, milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..model import SplitModel
from .record import Device

REPEATS, WARM_UP = 30, 5


def multiply_adds(model: SplitModel) -> int:
    """Return the multiply-adds of the encoder and its defense on one image: of convolutions and matrix products.

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
    defense = model.defense
    own = sum(t.numel() for t in defense.buffers()) if isinstance(defense, nn.Module) else 0
    with torch.no_grad():
        wire = list(_encode(model).shape[1:])
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
    x = torch.full((1, *model.image_shape), 0.5, device=model.mean.device)
    return model.encode(x, torch.Generator(x.device).manual_seed(0))


def _seconds(model: SplitModel) -> float:
    start = time.perf_counter()
    _encode(model)
    if model.mean.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
