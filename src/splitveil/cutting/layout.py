"""The axis of a feature's channels, found by trying, so that every wire is (C, H, W) or (T, C)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..errors import UserError, did_you_mean
from ..nn.copies import copy_of

Layout = Literal["channels_first", "channels_last"]
"""Order of the axes of feature maps as a layer makes them: (C, H, W) or (H, W, C)."""
LAYOUTS: tuple[Layout, ...] = ("channels_first", "channels_last")

_MAPS = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm2d,
    nn.InstanceNorm2d,
    nn.GroupNorm,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)
"""Layers whose output has its channels in front."""
_ELEMENTWISE = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Dropout)
"""Layers that keep every number in its place."""


class Ran(NamedTuple):
    """A layer without children, after it has run."""

    module: nn.Module
    input: Tensor
    output: Tensor


def channel_move(
    network: nn.Module,
    at: str,
    example: Tensor,
    larger: Callable[[], nn.Module] | None = None,
    layout: Layout | None = None,
) -> tuple[int, int] | None:
    """Return from which axis to which the channels of the output of layer ``at`` must move; None where they are right.

    An image of twice the side makes the places of a feature more and leaves its channels as they are. Where the
    network takes one size only, or the feature does not grow, the layer that made it decides.

    Args:
        network: whole network.
        at: name of the layer; "" is the network itself.
        example: an input (1, 3, S, S) of the network.
        larger: builds the same network for images of twice the side; for networks made for one size.
        layout: of maps, where it is known; it decides then.

    Raises:
        UserError: maps whose channels cannot be told from their places.

    >>> channel_move(nn.Sequential(nn.Conv2d(3, 8, 3)), "0", torch.zeros(1, 3, 8, 8)) is None
    True
    """
    with torch.no_grad(), torch.random.fork_rng():  # the weights that are drawn next stay what they were
        feature, makers = _watched(network, at, example)
        if feature.dim() not in (3, 4):
            return None
        if feature.dim() == 4 and layout is not None:
            return _move(feature, layout)
        axis = _constant_axis(feature, _grown(network, at, example, larger))
    if feature.dim() == 3:  # no decoder relies on the places of tokens, so they may stay unknown
        return None if axis in (None, 2) else (axis, 2)
    axis = _made_by(feature, makers) if axis is None else axis
    if axis is None:
        raise UserError(
            f"which axis of the output {tuple(feature.shape[1:])} of {_named(at)} holds the channels cannot be told; "
            "say it: layout='channels_first' or 'channels_last', in a name torchvision:NAME@LAYER:channels_last"
        )
    return None if axis == 1 else (axis, 1)


def check_order(encoder: nn.Module, example: Tensor) -> None:
    """Refuse an encoder whose features are not ordered as the wire carries them: maps (C, H, W), tokens (T, C).

    Args:
        encoder: device half of a network.
        example: an input (1, 3, S, S).

    Raises:
        UserError: they are ordered otherwise, or maps whose channels cannot be told from their places.

    >>> check_order(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.zeros(1, 3, 8, 8))
    """
    move = channel_move(encoder, "", example)
    if move is None:
        return
    last = move == (3, 1)
    raise UserError(
        f"the encoder's features have their channels at axis {move[0]}, and the wire carries them at axis {move[1]} "
        f"(the batch is axis 0); {'say layout=' + repr(LAYOUTS[1]) if last else 'let the encoder permute its output'}"
    )


def check_rows(encoder: nn.Module, example: Tensor) -> None:
    """Refuse an encoder whose features are not one for each image, in the order of the images, along axis 0.

    Tokens first, images folded into patches or windows, and a batch of one that is squeezed away would pair wires with
    other images, and the attack that fails on these would be taken for privacy.

    Args:
        encoder: device half of a network.
        example: an input (1, 3, S, S).

    Raises:
        UserError: axis 0 does not count the images, or nothing else is left for the wire.

    >>> check_rows(nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 8, 8))
    """
    with torch.no_grad():
        one, two = (encoder(example[:1].expand(count, *example.shape[1:]).clone()) for count in (1, 2))
    for count, z in ((1, one), (2, two)):
        if z.dim() < 2 or z.shape != (count, *one.shape[1:]):
            raise UserError(
                f"the encoder's features of {count} image(s) are {tuple(z.shape)}; expected ({count}, ...): axis 0 "
                "counts the images, also where there is one, and another holds their numbers; let the encoder return "
                "them so (batch_first=True, unflatten, no squeeze), or cut at another layer"
            )


class Ordered(nn.Module):
    """An encoder of ``layout`` whose maps are returned as (C, H, W)."""

    def __init__(self, network: nn.Module, layout: Layout):
        super().__init__()
        self.network = network
        self.layout: Layout = layout

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature (B, ...) of normalized images, with its channels where the wire carries them."""
        z = self.network(x)
        move = _move(z, self.layout)
        return z if move is None else z.movedim(*move).contiguous()


class Restored(nn.Module):
    """The tail behind an `Ordered` encoder: its network gets the maps in their own order."""

    def __init__(self, network: nn.Module, layout: Layout):
        super().__init__()
        self.network = network
        self.layout: Layout = layout

    def forward(self, z: Tensor) -> Tensor:
        """Return the logits (B, classes) of a wire (B, ...)."""
        move = _move(z, self.layout)
        return self.network(z if move is None else z.movedim(move[1], move[0]).contiguous())


def parse(text: str | None) -> Layout | None:
    """Return a layout by its name; None stays.

    Args:
        text: name of the layout.

    Raises:
        UserError: an unknown name.
    """
    if text is not None and text not in LAYOUTS:
        raise UserError(f"the layout is '{text}'{did_you_mean(text, LAYOUTS) or ';'} expected {' or '.join(LAYOUTS)}")
    return cast("Layout | None", text)


def _move(feature: Tensor, layout: Layout) -> tuple[int, int] | None:
    return (3, 1) if layout == "channels_last" and feature.dim() == 4 else None


def _named(at: str) -> str:
    return f"layer '{at}'" if at else "the encoder"


def _watched(network: nn.Module, at: str, example: Tensor) -> tuple[Tensor, list[Ran]]:
    """Return the output of layer ``at``, and the layers without children that ran up to it."""
    found: list[Tensor] = []
    ran: list[Ran] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and not found:
            if not list(module.children()) and inputs and isinstance(inputs[0], Tensor):
                ran.append(Ran(module, inputs[0], output))
            if module is layer:
                found.append(output)

    layer = network.get_submodule(at)
    handles = [module.register_forward_hook(note) for module in network.modules()]
    try:
        network(example.clone())
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise UserError(f"{_named(at)} returns no tensor; expected one; cut at another layer")
    return found[0], ran


def _grown(network: nn.Module, at: str, example: Tensor, larger: Callable[[], nn.Module] | None) -> torch.Size | None:
    """Return the shape of the feature for an image of twice the side; None where the network takes no such image."""
    if example.dim() != 4:
        return None
    image = interpolate(example.float(), scale_factor=2).to(example.dtype)
    # On a copy: some networks keep what they computed for a size.
    for build in (lambda: copy_of(network), larger):
        try:
            if build is not None:
                return _watched(build().eval(), at, image)[0].shape
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, UserError):
            continue  # the network is made for one size: that is an answer too
    return None


def _constant_axis(feature: Tensor, grown: torch.Size | None) -> int | None:
    """Return the one axis besides the batch that did not change, where all others did."""
    if grown is None or len(grown) != feature.dim() or grown[0] != feature.shape[0]:
        return None
    same = [axis for axis in range(1, feature.dim()) if grown[axis] == feature.shape[axis]]
    return same[0] if len(same) == 1 else None


def _made_by(feature: Tensor, ran: list[Ran]) -> int | None:
    """Return 1 or 3, by the last layer whose output has the feature's shape and whose layout is known.

    A layer norm or a linear layer is a sign of channels at the end, unless a layer before it that knows its channels
    made maps of this very shape: it then acts on whole maps, or along their columns.
    """
    # Of as many channels as rows and columns, a permuted map has the shape of the map: it must be the same numbers.
    cube, sign = len(set(feature.shape[1:])) == 1, None
    for layer in reversed(ran):
        if layer.output.shape != feature.shape or (cube and not torch.equal(layer.output, feature)):
            continue
        if isinstance(layer.module, _MAPS):
            return 1
        # Subclasses of layer norm and linear layers may have their channels elsewhere.
        known = type(layer.module) in (nn.LayerNorm, nn.Linear)
        sign = 3 if known else sign
        if cube and (known or isinstance(layer.module, _ELEMENTWISE)):
            feature = layer.input
    return sign
