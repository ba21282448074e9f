"""Any classifier of torchvision or timm, with fresh weights, cut at a named layer."""

from __future__ import annotations

import functools
import importlib
from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType

import torch
from torch import nn

from ..cutting.layout import parse
from ..cutting.network import cut_network
from ..errors import UserError, did_you_mean
from ..ranges import Count, Pixels
from ..registry import plugin
from .base import Bottleneck, Parts, bottleneck_halves, feature_shape


@plugin("torchvision:NAME@LAYER", "timm:NAME@LAYER")
def library(
    arch: str,
    *,
    cut: int | str | None = None,
    classes: Count,
    image_size: Pixels,
    bottleneck: Bottleneck | None = None,
) -> Parts:
    """Build any classifier of torchvision or timm (``torchvision:NAME@LAYER``, ``timm:NAME@LAYER``), cut at a layer.

    ``cut`` may stay None, or name the same layer. Nothing is downloaded: the weights are random. Maps cross the wire
    with channels first; where the layer's own order cannot be found by trying, it is named after the layer:
    ``timm:NAME@LAYER:channels_last`` or ``:channels_first``.
    """
    source, _, address = arch.partition(":")
    address, colon, order = address.partition(":")
    layout = parse(order if colon else None)
    name, _, layer = address.partition("@")
    if not name or not layer:
        raise UserError(f"network '{arch}' is incomplete; expected {source}:NAME@LAYER, as torchvision:resnet18@layer2")
    if cut not in (None, layer):
        raise UserError(f"cut {cut} contradicts '{arch}', which is cut at its layer '{layer}'; leave the cut out")
    network = BUILDERS[source](name, classes, image_size)
    example = torch.zeros(1, 3, image_size, image_size)
    larger = functools.partial(BUILDERS[source], name, classes, 2 * image_size)
    encoder, tail = cut_network(network, layer, example, larger, layout)
    if bottleneck is None:
        return Parts(encoder, tail, "channels_first")
    down, up = bottleneck_halves(bottleneck, feature_shape(encoder, example))
    return Parts(
        nn.Sequential(OrderedDict(network=encoder, bottleneck=down)),
        nn.Sequential(OrderedDict(bottleneck=up, network=tail)),
        "channels_first",
    )


def _torchvision(name: str, classes: int, image_size: int) -> nn.Module:
    models = _library("torchvision").models
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known, "torchvision.models.list_models()")
    # Vision transformers are built for one image size; the others take any.
    fixed_size = {"image_size": image_size} if name.startswith("vit_") else {}
    return _checked(lambda: models.get_model(name, weights=None, num_classes=classes, **fixed_size), name)


def _timm(name: str, classes: int, image_size: int) -> nn.Module:
    timm = _library("timm")
    known = timm.list_models()
    if name not in known:
        raise _unknown("timm", name, known, "timm.list_models()")
    cfg = timm.models.get_pretrained_cfg(name)
    fixed_size = {"img_size": image_size} if cfg is not None and cfg.fixed_input_size else {}
    return _checked(lambda: timm.create_model(name, pretrained=False, num_classes=classes, **fixed_size), name)


def _unknown(source: str, name: str, known: list[str], listing: str) -> UserError:
    return UserError(f"unknown {source} model '{name}'{did_you_mean(name, known)}; {listing} lists them all")


def _library(name: str) -> ModuleType:
    # Imported when used: torchvision alone takes seconds.
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"networks of {name} need {name}, which is not installed; pip install {name}") from error


def _checked(create: Callable[[], nn.Module], name: str) -> nn.Module:
    try:
        return create()
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"cannot build {name} for these images ({reason}); choose another size or model") from error


BUILDERS = {"torchvision": _torchvision, "timm": _timm}
