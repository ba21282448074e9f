"""One network and the layers at which it may be cut, each with what the device would pay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..cutting.layout import parse
from ..cutting.network import cut_network, is_legal
from ..errors import UserError
from ..model import SplitModel
from ..zoo import Parts
from ..zoo.libraries import BUILDERS
from .device import counted

ALL = "all"
OWN_CUT = "which was made for its own cut; name one without it"
BOUND = {
    "bottleneck": f"has a bottleneck, {OWN_CUT}",
    "sigmoid": f"ends its encoder in a sigmoid, {OWN_CUT}, as vgg11_bn",
    "norm": f"ends its encoder in a norm, {OWN_CUT}, as vgg11_bn",
}
"""Ends of an encoder that stand at one cut only, and what is said of them."""


@dataclass(frozen=True)
class Cut:
    """A layer after which a network is cut.

    Attributes:
        layer: number of blocks on the device, or name of the last layer there.
        wire: shape of the feature of one image.
        multiply_adds: of the encoder for one image, in convolutions, linear layers and attention.
        parameters: of the encoder.
    """

    layer: str
    wire: tuple[int, ...]
    multiply_adds: int
    parameters: int


@dataclass(frozen=True)
class Network:
    """A network and where it may be cut.

    Attributes:
        name: for messages.
        halves: layer -> encoder and tail.
        example: an image.
        layers: where it is worth cutting, from the images on.
        complete: whether there are no others.
    """

    name: str
    halves: Callable[[str], Parts]
    example: Tensor
    layers: tuple[str, ...]
    complete: bool

    def cut(self, layer: str) -> Cut:
        """Return what a cut costs the device.

        Args:
            layer: after which it is cut.

        Raises:
            UserError: no such layer, no legal cut, or one that leaves the cloud nothing that can learn.
        """
        parts = self.halves(layer)
        if next(parts.tail.parameters(), None) is None:
            raise UserError(f"a cut at {layer!r} leaves no weights in the cloud; cut at an earlier layer")
        with torch.no_grad():
            wire = tuple(parts.encoder.eval()(self.example).shape[1:])
        size = sum(parameter.numel() for parameter in parts.encoder.parameters())
        return Cut(layer, wire, counted(lambda: parts.encoder(self.example)), size)

    def chosen(self, layers: str) -> list[Cut]:
        """Return the cuts that a user asks for, in their order.

        Args:
            layers: "all", or names of layers with commas between them.

        Raises:
            UserError: an unknown layer, one that is named twice, or a cut that is not legal.
        """
        names = [part.strip() for part in layers.split(",")]
        if names == [ALL]:
            return [self.cut(one) for one in self.layers]
        for place, one in enumerate(names):
            if one in names[:place]:
                raise UserError(f"--layers names {one!r} twice; name each layer once")
            if self.complete and one not in self.layers:
                raise UserError(
                    f"layer {one!r} does not exist in {self.name}; expected all, or numbers from 1 to "
                    f"{len(self.layers)} with commas between them: the blocks on the device"
                )
        return [self.cut(one) for one in names]


def network_of(model: SplitModel, arch: str, image_size: int) -> Network:
    """Return the network of a split model, to be cut elsewhere. Its halves share their weights with the model.

    Args:
        model: built by the zoo, trained or not, without a bottleneck.
        arch: its name in the zoo.
        image_size: side of the images in pixels.

    Raises:
        UserError: the network belongs to its own cut.
    """
    example = torch.zeros(1, 3, image_size, image_size)
    if ":" in arch:
        return _of_library(model, arch, example)
    device, cloud = (dict(half.named_children()) for half in (model.encoder, model.tail))
    for name, why in BOUND.items():
        if name in device:
            raise UserError(f"{arch} {why}")
    if device.keys() != {"blocks"} or cloud.keys() != {"blocks", "head"}:
        raise UserError(
            f"{arch} does not tell its blocks, so that it cannot be cut elsewhere; expected a network such as "
            "vgg11_bn, resnet20 or torchvision:resnet18"
        )
    blocks = [*children(device["blocks"]), *children(cloud["blocks"])]

    def halves(layer: str) -> Parts:
        cut = int(layer)
        tail = nn.Sequential(*blocks[cut:], cloud["head"])
        return Parts(nn.Sequential(*blocks[:cut]), tail, "channels_first")

    return Network(arch, halves, example, tuple(str(one + 1) for one in range(len(blocks))), complete=True)


def whole(arch: str, classes: int, image_size: int) -> Network:
    """Return a network of torchvision or timm with fresh weights.

    Args:
        arch: ``torchvision:NAME`` or ``timm:NAME``, with or without ``@LAYER``.
        classes: number of logits.
        image_size: side of the images in pixels.

    Raises:
        UserError: no such network.
    """
    source, name, _, order = address(arch)
    network = BUILDERS[source](name, classes, image_size)
    return _library_network(network, arch, torch.zeros(1, 3, image_size, image_size), classes, order)


def address(arch: str) -> tuple[str, str, str, str]:
    """Return library, name, layer and layout of a network, the last two "" where they are not named.

    Args:
        arch: ``torchvision:NAME[@LAYER[:LAYOUT]]``.

    >>> address("timm:vit_tiny@blocks.3:channels_last"), address("torchvision:resnet18")
    (('timm', 'vit_tiny', 'blocks.3', 'channels_last'), ('torchvision', 'resnet18', '', ''))
    """
    source, _, rest = arch.partition(":")
    if source not in BUILDERS:
        raise UserError(
            f"unknown library '{source}' of '{arch}'; expected {' or '.join(BUILDERS)}, as torchvision:NAME"
        )
    named, _, order = rest.partition(":")
    name, _, layer = named.partition("@")
    return source, name, layer, order


def _of_library(model: SplitModel, arch: str, example: Tensor) -> Network:
    if {"bottleneck"} & dict(model.encoder.named_children()).keys():
        raise UserError(f"{arch} {BOUND['bottleneck']}")
    source, name, _, order = address(arch)
    with torch.no_grad():
        classes = model.tail(model.encoder(example)).shape[1]
    network = BUILDERS[source](name, classes, example.shape[-1])
    # The halves have the names of the network that they were cut from; what neither uses stays as it is.
    network.load_state_dict({**model.encoder.state_dict(), **model.tail.state_dict()}, strict=False)
    return _library_network(network, arch, example, classes, order)


def _library_network(network: nn.Module, arch: str, example: Tensor, classes: int, order: str) -> Network:
    source, name, _, _ = address(arch)
    network.eval()

    def larger() -> nn.Module:
        return BUILDERS[source](name, classes, 2 * example.shape[-1])

    def halves(layer: str) -> Parts:
        encoder, tail = cut_network(network, layer, example, larger, parse(order or None))
        return Parts(encoder, tail, "channels_first")

    return Network(f"{source}:{name}", halves, example, tuple(worth(network, example)), complete=False)


def worth(network: nn.Module, example: Tensor) -> list[str]:
    """Return the layers at which a cut is legal and worth it, in the order in which they run.

    They are outermost layers, and those in rows of layers. Of several that hold values of the same shape with the same
    multiply-adds before them, the last is taken: the others hold what is only normalized or rectified after them.

    Args:
        network: in evaluation mode.
        example: an image.

    >>> layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)]
    >>> worth(nn.Sequential(*layers), torch.zeros(1, 3, 9, 9))
    ['1', '2', '3']
    """
    from torch.utils.flop_counter import FlopCounterMode

    ran: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:

        def note(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, __: object, out: object) -> None:
                if isinstance(out, Tensor):
                    ran.setdefault((counter.get_total_flops(), tuple(out.shape)), []).append(name)

            return hook

        hooks = [network.get_submodule(name).register_forward_hook(note(name)) for name in candidates(network)]
        network(example)
    for hook in hooks:
        hook.remove()
    # Behind the last multiply-add nothing is left that could learn.
    groups = [names for (done, _), names in ran.items() if done < counter.get_total_flops()]
    legal = (next((one for one in reversed(names) if is_legal(network, one, example)), None) for names in groups)
    return [name for name in legal if name is not None]


def candidates(network: nn.Module) -> Iterator[str]:
    """Yield the outermost layers of a network, and those in rows of layers.

    Args:
        network: any module.

    >>> list(candidates(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.Flatten()))))
    ['0', '1', '1.0', '1.1']
    """
    row = nn.Sequential | nn.ModuleList

    def walk(module: nn.Module, prefix: str) -> Iterator[str]:
        for name, child in module.named_children():
            yield prefix + name
            if isinstance(child, row) or (not prefix and any(isinstance(one, row) for one in child.children())):
                yield from walk(child, f"{prefix}{name}.")

    return walk(network, "")


def children(module: nn.Module) -> list[nn.Module]:
    """Return the layers of a row in their order.

    Args:
        module: row of layers.
    """
    return list(module.children())
