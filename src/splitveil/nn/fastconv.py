"""Faster convolution layers for CPUs.

`accelerate` gives the 3×3 convolutions of a network other forward and backward passes where these are faster: on maps
of one or two pixels a side those of `splitveil.nn.small_maps`, and on CPUs that have neither bfloat16 nor AVX-512
arithmetic those of `splitveil.nn.winograd`. Parameters, buffers and the keys of the state dict stay as they are. Which
kernel a layer uses depends on shapes and the processor only, never on timing, so a run repeats bit by bit on the same
machine.

Winograd's algorithm: its relative error (2-norm, float32 against float64, batch 128, 64 to 512 channels, maps of 1 to
32 pixels) is 2e-6 of outputs, 3e-6 of the gradients of maps and weights; the ordinary kernels have 7e-7, 1e-6 and 6e-6.
Forward and backward of a layer with 256 channels, batch 128, two AVX2 cores: 2.2 times faster on 8×8 maps; with 512
channels 2.5 times on 4×4 maps. VGG-11 on 32×32 images trains 2.1 times faster than in NCHW with the ordinary kernels.
Each layer has more steps than the ordinary kernel, and each step waits for all threads: on cores that are already busy,
two threads lose the gain; use one thread per process.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from . import small_maps, winograd
from .processor import capabilities

MIN_CHANNELS = 64  # below, the transforms cost as much as the products that they save
MAX_TILES = 16  # per map: 16×16 pixels; wider maps of few channels are bound by memory
MIN_TILES = 32  # per batch: below, transforming the weights costs more than it saves
MAX_PRODUCTS = 0.5  # of the direct convolution's; 5×5 maps need 0.64, as their tiles cover 8×8 pixels
KINDS = torch.float32, torch.bfloat16

Network = TypeVar("Network", bound=nn.Module)


class _Winograd(torch.autograd.Function):
    """The convolution, (B, H, W, O). Second derivatives take PyTorch's own formulas.

    The channels are moved outside: what a function makes as a view, the next layer may not change in place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return winograd.forward(x.permute(0, 2, 3, 1).contiguous(), weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), dy, needs = ctx.saved_tensors, grads[0].permute(0, 3, 1, 2), ctx.needs_input_grad
        if torch.is_grad_enabled():  # create_graph: every step must itself be differentiable
            ones = [1, 1]
            return torch.ops.aten.convolution_backward(
                dy, x, weight, [len(weight)], ones, ones, ones, False, [0, 0], 1, list(needs)
            )
        pixels, signal = (t.permute(0, 2, 3, 1).contiguous() for t in (x, dy))
        dx, dw = winograd.backward(pixels, weight, signal, needs[0], needs[1])
        db = signal.sum((0, 1, 2)) if needs[2] else None
        return None if dx is None else dx.permute(0, 3, 1, 2), dw, db


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `F.conv2d(x, weight, bias, padding=1)` by Winograd's algorithm, differentiable any number of times.

    Args:
        x: (B, C, H, W), best channels-last, float32 or float64, on a CPU.
        weight: (O, C, 3, 3).
        bias: (O).

    Returns:
        (B, O, H, W), channels-last.

    >>> conv3x3(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 3, 3)).flatten()
    tensor([4., 4., 4., 4.])
    """
    return cast(Tensor, _Winograd.apply(x, weight, bias)).permute(0, 3, 1, 2)


def pays(shape: torch.Size, outputs: int) -> bool:
    """Return whether Winograd's algorithm is the faster one for maps of this shape (B, C, H, W).

    Args:
        shape: (B, C, H, W) of the maps.
        outputs: channels of the output.

    >>> pays(torch.Size([128, 256, 8, 8]), 256), pays(torch.Size([128, 3, 32, 32]), 64)
    (True, False)
    """
    count, channels, height, width = shape
    if min(channels, outputs) < MIN_CHANNELS or min(height, width) < 1:
        return False
    p = winograd.plan(height, width, torch.float32)
    tiles = p.tiles[0] * p.tiles[1]
    few_products = tiles * len(p.filter) <= MAX_PRODUCTS * 9 * height * width
    return few_products and tiles <= MAX_TILES and count * tiles >= MIN_TILES


class FastConv2d(nn.Conv2d):
    """An `nn.Conv2d` that is one product of matrices on small maps, where that is allowed, else the ordinary kernel.

    >>> layer = FastConv2d(64, 64, 3, padding=1)
    >>> sorted(layer.state_dict()) == sorted(nn.Conv2d(64, 64, 3, padding=1).state_dict())
    True
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        if _plain_run() and _eligible(self) and _plain_tensors(input, weight, bias):
            mixed = torch.is_autocast_enabled("cpu")
            alike = all(t is None or t.dtype == input.dtype for t in (weight, bias))
            if alike and not mixed and self._winograd(input):
                return conv3x3(input, weight, bias)
            kind = torch.get_autocast_dtype("cpu") if mixed else input.dtype
            if small_maps.pays(input.shape) and (alike or mixed) and kind in KINDS:
                return small_maps.conv3x3(input, weight, bias, dtype=kind)
        return super()._conv_forward(input, weight, bias)

    def _winograd(self, x: Tensor) -> bool:
        return False


class WinogradConv2d(FastConv2d):
    """A `FastConv2d` that uses Winograd's algorithm where that is faster and allowed.

    >>> layer = WinogradConv2d(64, 64, 3, padding=1)
    >>> sorted(layer.state_dict()) == sorted(nn.Conv2d(64, 64, 3, padding=1).state_dict())
    True
    """

    def _winograd(self, x: Tensor) -> bool:
        return x.dtype == torch.float32 and pays(x.shape, self.out_channels)


def _eligible(layer: nn.Conv2d) -> bool:
    geometry = layer.kernel_size, layer.stride, layer.dilation, layer.groups, layer.padding_mode
    plain = geometry == ((3, 3), (1, 1), (1, 1), 1, "zeros") and layer.padding in ((1, 1), "same")
    return plain and min(layer.in_channels, layer.out_channels) >= MIN_CHANNELS


def _plain_run() -> bool:
    """Return whether there is no export, compilation or function transform, which need known operators."""
    special = torch._C._get_tracing_state() is not None
    special = special or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
    return not (special or torch._C._are_functorch_transforms_active())


def _plain_tensors(x: Tensor, *parameters: Tensor | None) -> bool:
    return x.ndim == 4 and all(
        type(t) in (Tensor, nn.Parameter)
        and t.dtype in KINDS
        and t.device.type == "cpu"
        and forward_ad.unpack_dual(t).tangent is None
        for t in (x, *parameters)
        if t is not None
    )


def accelerate(module: nn.Module, *, winograd: bool | None = None) -> int:
    """Turn the eligible layers of a network into faster ones and return how many; `restore` undoes it.

    Eligible: exactly `nn.Conv2d`, 3×3, stride 1, padding 1, no dilation, no groups, 64 channels or more on
    both sides. Fastest with channels-last images. Call it where the network computes on a CPU.

    Args:
        module: network that is changed in place.
        winograd: make them `WinogradConv2d`, and not `FastConv2d`; None: where it is `worth_it`.

    >>> network = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1))
    >>> accelerate(network, winograd=True), type(network[1]).__name__, restore(network)
    (1, 'WinogradConv2d', 1)
    """
    layers = [m for m in module.modules() if type(m) is nn.Conv2d and _eligible(m)]
    for layer in layers:
        layer.__class__ = WinogradConv2d if (worth_it() if winograd is None else winograd) else FastConv2d
    return len(layers)


def restore(module: nn.Module) -> int:
    """Turn every layer that `accelerate` made back into a plain `nn.Conv2d` and return how many.

    Args:
        module: network that is changed in place.
    """
    layers = [m for m in module.modules() if type(m) in (FastConv2d, WinogradConv2d)]
    for layer in layers:
        layer.__class__ = nn.Conv2d  # pyright: ignore[reportAttributeAccessIssue]
    return len(layers)


def worth_it() -> bool:
    """Return True on CPUs with neither bfloat16 nor AVX-512 arithmetic, where Winograd's algorithm is faster."""
    able = capabilities()
    return able["avx2"] and not any(able[k] for k in ("avx512_f", "avx512_bf16", "amx_bf16"))


def placed(module: Network, device: torch.device) -> Network:
    """Return a network on a device with its weights in channels_last and, on a CPU, fast convolutions.

    Args:
        module: network that is changed in place.
        device: where it is to compute.
    """
    module.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if device.type == "cpu":
        accelerate(module)
    return module
