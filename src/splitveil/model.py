"""A network cut in two: the encoder on the device, the wire, the tail in the cloud."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from .cutting.layout import Layout, Ordered, Restored, check_order, check_rows, parse
from .cutting.network import cut_network
from .defenses.base import Defense, Stack
from .errors import UserError
from .nn.copies import copy_of
from .nn.described import Description
from .randomness import fresh_generator

__all__ = ["SplitModel", "cut_network"]


def device_of(*modules: nn.Module) -> torch.device:
    """Return the device of the first parameter or buffer of some modules; the CPU where there is none.

    Args:
        modules: that are looked through in their order.

    >>> device_of(nn.Flatten(), nn.Linear(1, 1))
    device(type='cpu')
    """
    found = itertools.chain.from_iterable((*one.parameters(), *one.buffers()) for one in modules)
    return next((tensor.device for tensor in found), torch.device("cpu"))


class SplitModel(nn.Module):
    """``tail(encode(x))``: the only place where normalization and the defense are applied.

    Args:
        encoder: normalized images (B, 3, S, S) -> z, on the device.
        tail: z_wire -> logits (B, classes), in the cloud. It must not change its input in place.
        defense: has ``on_wire(z, rng) -> z_wire``; several are a stack, in their order on the wire; None sends z as it
            is.
        mean, std: of the training pixels, one number per color channel; inputs are pixels in [0, 1]. Default 0 and 1:
            the network then normalizes by itself, or not at all.
        example: pixels (1, C, H, W). With it the model learns its shapes and installs the defense; without it a defense
            with weights of its own must be installed by ``model.defense.install(model)`` once the shapes are set.
        layout: of the encoder's maps, which cross the wire as (C, H, W): "channels_first", or "channels_last", and
            they are permuted there and back. None: found by trying when an attack first looks, and refused where they
            are not channels first. Tokens are (T, C) in any case.

    Raises:
        UserError: a defense without ``on_wire``, a mean and std that do not belong together, or an unknown layout.

    Example:
        >>> model = SplitModel(nn.Conv2d(3, 8, 3), nn.Sequential(nn.Flatten(), nn.Linear(288, 10)))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> model.encode(x, torch.Generator().manual_seed(0)).shape, model(x).shape
        (torch.Size([2, 8, 6, 6]), torch.Size([2, 10]))
    """

    mean: Tensor
    std: Tensor
    wire_shape: tuple[int, ...]
    """Shape of what crosses the wire for one image; () without an example."""
    image_shape: tuple[int, ...]
    """Shape (C, H, W) of the images; () without an example."""

    def __init__(
        self,
        encoder: nn.Module,
        tail: nn.Module,
        *,
        defense: nn.Module | Sequence[Defense] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        layout: Layout | None = None,
        example: Tensor | None = None,
    ):
        super().__init__()
        channels = 3 if example is None else example.shape[-3]
        means, stds = _numbers("mean", mean, 0.0, channels), _numbers("std", std, 1.0, channels)
        if isinstance(defense, Sequence):
            defense = Stack(*defense)
        if defense is not None and not callable(getattr(defense, "on_wire", None)):
            raise UserError(f"{type(defense).__name__} is no defense; expected a module with on_wire(z, rng)")
        fits = example is None or len(means) in (1, channels)
        if len(means) != len(stds) or not fits or not min(stds) > 0:  # NaN is not
            raise UserError(
                f"mean {means} and std {stds} do not fit; expected a positive std per mean, for each of {channels} "
                "channels or one for all"
            )
        self._layout, self._tried = parse(layout), False
        ordered = layout == "channels_last"
        self.encoder: nn.Module = Ordered(encoder, "channels_last") if ordered else encoder
        self.tail: nn.Module = Restored(tail, "channels_last") if ordered else tail
        self.defense = defense
        device = device_of(encoder, tail)
        self.register_buffer("mean", torch.tensor(means, dtype=torch.float32, device=device))
        self.register_buffer("std", torch.tensor(stds, dtype=torch.float32, device=device))
        self.wire_shape, self.image_shape = (), ()
        self.at: str | None = None
        """Layer after which `cut` has cut a network; None: the halves were given."""
        self.given_layout = self._layout
        """The maps' order as it was given."""
        self.trained_by: dict[str, Any] = {}
        """Settings of the training by `splitveil.fit`; empty: there was none."""
        if example is not None:
            self._learn(example.to(device) if isinstance(example, Tensor) else example)

    @torch.no_grad()
    def _learn(self, example: Tensor) -> None:
        """Learn the shapes from pixels (1, C, H, W), and install the defense, which may ask for them."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval().check_layout(example)
        self.image_shape, self.wire_shape = tuple(example.shape[1:]), tuple(self.features(example[:1]).shape[1:])
        with torch.enable_grad():
            cast("Any", getattr(self.defense, "install", lambda _: None))(self)
        for module, training in modes:
            module.training = training

    @classmethod
    def cut(
        cls,
        network: nn.Module,
        at: str,
        example: Tensor,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        defense: nn.Module | Sequence[Defense] | None = None,
        layout: Layout | None = None,
    ) -> SplitModel:
        """Cut any network after one of its layers, see `cutting.network.cut_network`.

        The model learns its shapes from ``example`` and installs copies of the defenses. It is in evaluation mode if
        the network is.

        Args:
            network: images (B, C, H, W) -> logits (B, classes).
            at: name of the last layer on the device, as in ``network.named_modules()``.
            example: pixels (1, C, H, W) in [0, 1].
            mean: mean of the training pixels, one number per channel.
            std: standard deviation of the training pixels, one number per channel.
            defense: one, or several in their order on the wire.
            layout: order of the axes of the layer's maps; None: found by trying.

        Raises:
            UserError: no such layer, another tensor crosses the cut, or a defense that does not fit.

        Example:
            >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
            >>> model = SplitModel.cut(network, at="1", example=torch.rand(1, 3, 8, 8), std=(0.2, 0.2, 0.2))
            >>> sorted(model.state_dict())
            ['encoder.0.bias', 'encoder.0.weight', 'mean', 'std', 'tail.3.bias', 'tail.3.weight']
        """
        if isinstance(example, Tensor) and isinstance(network, nn.Module):  # what else they may be is refused below
            example = example.to(device_of(network))
        encoder, tail = cut_network(network, at, example, layout=layout)
        pixels = example[:1].detach()
        made = cls(encoder, tail, defense=_copied(defense), mean=mean, std=std, layout="channels_first", example=pixels)
        made.at, made.given_layout = at, parse(layout)
        return made if network.training else made.eval()

    def features(self, x: Tensor) -> Tensor:
        """Return z before the defense, which nobody outside the device may see.

        Args:
            x: pixels (B, C, H, W) in [0, 1].
        """
        return self.encoder(self._normalized(x))

    @property
    def numbers_sent(self) -> int:
        """Return how many numbers are sent for one image."""
        told = getattr(self.defense, "numbers_sent", math.prod)
        return int(cast("Any", told)(self.wire_shape))

    @property
    def bytes_sent(self) -> int:
        """Return how many bytes are sent for one image."""
        told = getattr(self.defense, "bytes_sent", lambda wire: 4 * math.prod(wire))
        return int(cast("Any", told)(self.wire_shape))

    def check_layout(self, x: Tensor) -> None:
        """Refuse features that are not as the wire carries them.

        This is tried once and the answer kept. The order of the axes is not checked where ``layout`` was given.

        Args:
            x: pixels (1, C, H, W).

        Raises:
            UserError: an axis 0 that does not count the images; maps that are not (C, H, W), or of which that cannot be
                told; tokens that are not (T, C).
        """
        if self._tried or not len(x):
            return
        pixels = self._normalized(x)
        check_rows(self.encoder, pixels)
        if self._layout is None:
            check_order(self.encoder, pixels)
        self._layout, self._tried = self._layout or "channels_first", True

    def _normalized(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise UserError(f"pixels are {x.dtype}; expected floats in [0, 1]: write x / 255")
        return (x - self.mean[:, None, None]) / self.std[:, None, None]

    def protect(self, z: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Return z_wire: the defense applied to z.

        Args:
            z: features (B, ...).
            rng: generator of the noise; None draws from `randomness.fresh_generator`.
        """
        if rng is not None and not isinstance(rng, torch.Generator):
            raise UserError(f"rng is {rng!r:.40}; expected a generator: torch.Generator().manual_seed(0)")
        if self.defense is None:
            return z
        return cast("Any", self.defense).on_wire(z, fresh_generator(z.device) if rng is None else rng)

    def encode(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Return z_wire, all that crosses the network: ``protect(features(x))``.

        Args:
            x: pixels (B, C, H, W) in [0, 1].
            rng: generator of the noise; None draws from `randomness.fresh_generator`.
        """
        return self.protect(self.features(x), rng)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a saved state; of a defense that removes channels, as PATROL, into layers of the saved sizes.

        Args:
            state_dict: tensors by name.
            strict: every name must fit.
            assign: take the tensors themselves instead of copying them.
        """
        tensors = {name: value for name, value in state_dict.items() if torch.is_tensor(value)}
        cast("Any", getattr(self.defense, "restructure_like", lambda *_: False))(self, tensors)
        return super().load_state_dict(state_dict, strict, assign)

    def forward(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Return logits (B, classes).

        Args:
            x: pixels (B, C, H, W) in [0, 1].
            rng: generator of the noise; None draws from `randomness.fresh_generator`.
        """
        return self.tail(self.encode(x, rng))

    def __repr__(self) -> str:
        """Return a line of what crosses the wire and what each side holds, and one for each defense.

        The layers are those of the halves: ``print(model.encoder)``. It is what a debugger shows as well, of models
        that are not whole yet or were read from files of earlier versions, so that what is missing is left out.
        """
        device, cloud = (_weights(getattr(self, half, None)) for half in ("encoder", "tail"))
        at, wire = getattr(self, "at", None), getattr(self, "wire_shape", ())
        place = "made of two halves" if at is None else f"cut after {at!r}"
        sent = "its shapes are not known, as it was made without an example"
        if wire:
            sent = f"images {self.image_shape} -> wire {wire}, {self.bytes_sent:,} bytes"
        head = f"SplitModel({place}: {sent}; {device:,} weights on the device, {cloud:,} in the cloud)"
        return "\n".join([head, *(f"  {line_of(part)}" for part in listed(getattr(self, "defense", None)))])


def _weights(half: Any) -> int:
    """Return the number of weights of a half, but for those of lazy layers, which have no size before they run."""
    found = half.parameters() if isinstance(half, nn.Module) else ()
    return sum(one.numel() for one in found if not is_lazy(one))


def digest_of(model: SplitModel) -> str:
    """Return the SHA-256 that tells a model from others: of its weights, its layers, their settings and their code.

    Of the attributes of a layer it sees numbers, truth values, texts and functions, and the containers and data classes
    of these; of code, the classes of the layers and defenses with those that they derive from, and functions, with the
    constants and functions of the same file that they name. Classes and functions of torch, torchvision, timm and
    SplitVeil are told by their names.

    It does not see what else is imported, other objects, what is kept in a container beside such an object, and tensors
    that are neither parameters nor saved buffers. A layer that counts its calls, or keeps another such number when it
    runs, has another digest afterwards, and another version of Python or torch may give another one to the same model.

    Args:
        model: any.

    >>> halves = nn.Conv2d(3, 8, 3), nn.Flatten()
    >>> model, other = SplitModel(*halves), SplitModel(halves[0], nn.Identity())
    >>> digest_of(model) == digest_of(model), digest_of(model) == digest_of(other)
    (True, False)
    """
    found, told = hashlib.sha256(), Description()
    for part in (model.encoder, model.tail, model.defense):
        found.update(_lasting(repr(part)).encode())
        modules = dict(part.named_modules()) if isinstance(part, nn.Module) else {}
        # What the code around the layers does stands in no name of a layer.
        found.update("".join(one.code for one in modules.values() if isinstance(one, fx.GraphModule)).encode())
        inside = (f"{name}{told.attributes(one)}{told.code(type(one))}" for name, one in modules.items())
        found.update(_lasting("".join(inside)).encode())
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            found.update(name.encode() + _bytes(value.detach()))
    return found.hexdigest()


def _lasting(text: str) -> str:
    """Return a text without addresses of objects, which differ from process to process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _bytes(value: Tensor) -> bytes:
    """Return the bytes of a tensor of any type; NumPy has no bfloat16, and sparse tensors have no bytes in a row."""
    value = value.to_dense() if value.layout != torch.strided else value
    return value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def listed(defense: object) -> list[Any]:
    """Return the defenses of a model in their order: those of a stack, the only one, or none.

    Args:
        defense: of a model.
    """
    return list(defense) if isinstance(defense, Stack) else [] if defense is None else [defense]


def line_of(defense: object) -> str:
    """Return a defense with its settings on one line, without the layers that it trains.

    Args:
        defense: any.

    >>> line_of(nn.Sequential(nn.Flatten()))
    'Sequential()'
    """
    settings = defense.extra_repr() if isinstance(defense, nn.Module) else ""
    return f"{type(defense).__name__}({' '.join(settings.split())})"


def _copied(defense: Any) -> Any:
    """Return copies of defenses, as a cut has copies of the layers: what one model learns is not to change another."""
    if isinstance(defense, nn.Module):
        return copy_of(defense)
    if isinstance(defense, Sequence):
        return [copy_of(part) if isinstance(part, nn.Module) else part for part in defense]
    return defense


def _numbers(name: str, given: Any, default: float, channels: int) -> tuple[float, ...]:
    """Return one number per channel, however they are given."""
    if given is None:
        return (default,) * channels
    try:
        return tuple(torch.as_tensor(given, dtype=torch.float64).reshape(-1).tolist())
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{name} is {given!r}; expected a number for each channel, as (0.5, 0.5, 0.5)") from None
