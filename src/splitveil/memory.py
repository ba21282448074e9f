"""The memory of a device, and the refusal, before any work, of what would need more."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .errors import UserError
from .ranges import whole

Module = TypeVar("Module", bound=nn.Module)
FLOAT = 4
"""Bytes of a float32 number."""
ADAM = 4
"""Multiple of the weights that a training with Adam holds: weights, gradients and two moments."""
SGD = 3
"""Multiple of the weights that a training with momentum holds."""
MANY = 2**30
"""Bytes of weights and optimizer state above which a network is not built to measure a batch."""
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files in which Linux tells the limit of a container, whose machine has more."""


def capacity(device: torch.device | str = "cpu") -> int | None:
    """Return the bytes of memory that a device has, used or not; None where the system does not tell.

    On a CPU a container's limit counts, where it is below what the machine has.

    Args:
        device: CPU or GPU.
    """
    if (device := torch.device(device)).type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    known = [limit for path in LIMITS if (limit := _limit(Path(path))) is not None]
    if {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(getattr(os, "sysconf_names", {})):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(known, default=None)


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:  # another system, or another version of Linux
        return None
    return whole(text)  # "max": none


def check(who: str, needs: Mapping[str, int], device: torch.device | str, processes: int = 1) -> None:
    """Refuse what needs more memory than ``device`` has.

    Args:
        who: beginning of the message.
        needs: what takes memory, named as a user may set it -> least bytes that it takes. The message names the
            first that does not fit.
        device: CPU or GPU.
        processes: number of processes that each take as much; they share the memory of a machine, but each have a GPU.

    Raises:
        UserError: something does not fit.

    >>> check("latent", {"size": 512, "samples": 2**60}, "cpu")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    splitveil.errors.UserError: latent: samples would take about 1,073,741,824 GiB of memory, and ...; lower samples
    """
    has, gpu = capacity(device), torch.device(device).type == "cuda"
    for name, needed in needs.items():
        if has is not None and (needed := needed * (1 if gpu else processes)) > has:
            where = "the GPU" if gpu else "this machine"
            raise UserError(
                f"{who}: {name} would take about {needed / 2**30:,.0f} GiB of memory, and {where} has "
                f"{has / 2**30:,.0f}; lower {name}"
            )


def placed(module: Module, device: torch.device | str, who: str = "the network") -> Module:
    """Return a network on a device, its channels last, unless that has too little memory: no byte is taken then.

    Args:
        module: network, on any device.
        device: CPU or GPU.
        who: beginning of the message.

    Raises:
        UserError: its parameters and buffers alone do not fit.
    """
    needed = bytes_of(module) + sum(b.numel() * b.element_size() for b in module.buffers())
    check(who, {"width or number of its layers": needed}, device)
    return module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


@contextmanager
def kept(own: nn.Module | None = None) -> Iterator[Callable[[], int]]:
    """Give a function that tells how many bytes autograd has saved in the block, each storage counted once.

    Args:
        own: a module whose weights do not count.

    >>> x = torch.ones(8, requires_grad=True)
    >>> with kept() as saved:
    ...     y = x.exp()
    >>> saved()
    32
    """
    weights = {p.untyped_storage()._cdata for p in own.parameters()} if own is not None else set()
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield lambda: sum(saved.values())


def trained(name: str, build: Callable[..., nn.Module], *shape: int) -> dict[str, int]:
    """Return the bytes that a network takes while Adam trains it: its weights and what goes with them; a batch too.

    The weights are counted without memory. Where they are few, two images go through the network to measure a batch;
    where they are many, their own bytes are enough.

    Args:
        name: the parameter that it grows with.
        build: makes the network.
        *shape: shape of the batch, (B, ...).

    >>> trained("width", lambda: nn.Linear(3, 5, bias=False), 8, 3)
    {'width': 240, 'width or batch_size': 336}
    """
    with torch.device("meta"):
        weights = ADAM * bytes_of(build())
    if weights > MANY:
        return {name: weights}
    batch, *rest = shape
    with torch.random.fork_rng(), torch.enable_grad():  # layers draw their weights from torch's global generator
        network = build()
        with kept(network) as saved:
            network(torch.zeros(2, *rest))
    return {name: weights, f"{name} or batch_size": weights + saved() * batch // 2}


def bytes_of(module: nn.Module) -> int:
    """Return the bytes of the parameters of a module.

    Args:
        module: network.

    >>> bytes_of(nn.Linear(3, 5))
    80
    """
    return sum(p.numel() * p.element_size() for p in module.parameters())


@functools.cache
def _place_of_size(func: Any) -> int | None:
    """Return which argument of an operator is a size; it is asked for at each call."""
    return next((i for i, one in enumerate(func._schema.arguments) if one.name == "size"), None)


class Limited(TorchDispatchMode):
    """A block in which tensors larger than the memory are refused: users choose the sizes of layers.

    Args:
        who: beginning of the message.

    >>> with Limited("bottleneck"):  # doctest: +ELLIPSIS
    ...     nn.Conv2d(10**6, 10**6, 3)
    Traceback (most recent call last):
    ...
    splitveil.errors.UserError: bottleneck: a tensor of 1000000×1000000×3×3 numbers would take about 33,528 GiB ...
    """

    def __init__(self, who: str):
        super().__init__()
        self._who, self._has = who, capacity()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = _place_of_size(func)
        size = args[place] if place is not None and place < len(args) else ()
        if self._has is not None and not any(isinstance(one, Tensor) for one in args[:1]):
            self._check(size)
        return func(*args, **(kwargs or {}))

    def _check(self, size: Any) -> None:
        needed = FLOAT
        for length in size:
            needed *= int(length)
        if self._has is not None and needed > self._has:
            shape = "×".join(map(str, size))
            raise UserError(
                f"{self._who}: a tensor of {shape} numbers would take about {needed / 2**30:,.0f} GiB "
                f"of memory, and this machine has {self._has / 2**30:,.0f}; lower its channels, atoms or size"
            )
