"""The network that published tensors belong to: its forms, and the cuts, are tried on shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional, init
from torch.overrides import TorchFunctionMode

from .. import config, data, runs, zoo
from ..defenses._resizing import resize
from ..defenses.base import Defense
from ..errors import UserError
from ..randomness import seed_layers, stream
from ..recipe import WEIGHTS
from .served import as_served
from .tensors import COUNTER, Mismatch, Stored, leaf, match
from .translate import RECIPE, RESNETS, VGGS, Reading, translate
from .wire import SIZES

CUTS = (4, 3, 5, 2, 1, 6, 7, 8, 9, 10, 11, 12, 13)
"""Cuts to try where nothing names one; 4 first, the published one."""
NORMALIZATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "cifar100": (
        (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
        (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
    ),
    "facescrub": ((0.5708, 0.5905, 0.4272), (0.2058, 0.2275, 0.2098)),
    "tinyimagenet": ((0.5141, 0.5775, 0.3985), (0.2927, 0.2570, 0.1434)),
}
"""Mean and standard deviation that the published networks were trained with."""
CONVOLUTIONS = {"vgg11": 8, "vgg13": 10, "vgg16": 13, "resnet20": 19, "resnet32": 31}
FILLING = {Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_, init.kaiming_uniform_, init.uniform_}
SHAPED_ALIKE = {functional.batch_norm, functional.relu, functional.relu6, functional.dropout, torch.sigmoid}
IN_ENCODER = ("W", "weights")
"""Last part of the names of a sparse-coding layer's tensors."""


def fit(
    stored: Stored, flags: dict[str, Any], reading: Reading, images: data.ImageSet | int, notes: list[str]
) -> tuple[config.TrainConfig, runs.SplitModel]:
    """Return the settings and the model that the tensors fit, with the tensors in it.

    Raises:
        Mismatch: none fits; the message is that of the network of which most tensors did.
        UserError: a flag has no equivalent.
    """
    nearest: UserError | None = None
    for published, ours, cut in _candidates(stored.tensors, flags):
        settings, known = _settings(stored, flags, reading, published, ours, cut)
        try:
            _check(stored, settings, images)
        except UserError as error:
            nearest = error if nearest is None or _matched(error) > _matched(nearest) else nearest
            continue
        notes += [*_assumed(flags, published, ours, cut), *known]
        return settings, _load(stored, settings, images)
    assert nearest is not None
    raise nearest


def _matched(error: UserError) -> int:
    return error.matched if isinstance(error, Mismatch) else -1


def _candidates(parts: dict[str, dict[str, Tensor]], flags: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Yield the published name, ours, and the cut, the likeliest first."""
    first = next(iter(parts["f"].values()))
    stem = first.shape[-1] if first.ndim == 4 else 3
    vggs = (RECIPE["arch"], *(name for name in VGGS if name != RECIPE["arch"]))
    if "arch" in flags:
        archs: tuple[str, ...] = (flags["arch"],)
    elif stem == 5:
        archs = RESNETS
    elif first.shape[0] == 32:
        archs = ("mobilenetv2",)
    else:  # 16 channels are a ResNet's of a 3×3 stem, or those of PATROL's first layer
        archs = (*RESNETS, *vggs) if first.shape[0] == 16 else vggs
    archs = tuple(arch for arch in archs if arch == archs[0] or _plausible(arch, parts, flags))
    cuts = (flags["cutlayer"],) if "cutlayer" in flags else CUTS
    for arch in archs:
        for cut in cuts:
            yield from ((arch, ours, cut) for ours in _forms(arch, stem))


def _plausible(arch: str, parts: dict[str, dict[str, Tensor]], flags: dict[str, Any]) -> bool:
    """Return whether a network has about as many convolutions as the files, and batch norms where they have some."""
    names = [*parts["f"], *parts["cloud"]]
    found = sum(value.ndim == 4 for part in ("f", "cloud") for value in parts[part].values())
    bottleneck = flags.get("bottleneck_option", "None") != "None"
    more = range(2 * bottleneck, 10)  # a bottleneck of up to four on each side, a doubled layer
    norms = sum(name.endswith("running_mean") for name in names)
    return found - CONVOLUTIONS[arch.partition("_")[0]] in more and (norms > 1) == (arch in RESNETS or "_bn" in arch)


def _forms(arch: str, stem: int) -> tuple[str, ...]:
    """Return our names of a published network: the one that is ours too where it fits, else the published form."""
    released, double = f"{arch}_released", f"{arch}_released_double"
    if arch in RESNETS:
        return (f"{arch}_stem5_sgm", released, double) if stem == 5 else (arch,)
    if arch in VGGS:
        return (arch, released, double) if arch.endswith("_sgm") else (released, arch, double)
    return (released, arch) if arch == "mobilenetv2" else (arch,)


def _settings(
    stored: Stored, flags: dict[str, Any], reading: Reading, published: str, ours: str, cut: int
) -> tuple[config.TrainConfig, list[str]]:
    """Return the settings of a candidate, and the notes of their translation."""
    stated = "resnet20_sgm" if ours in RESNETS else published  # a 3×3 stem is not the published ResNet
    translation = translate(flags | {"arch": stated, "cutlayer": cut}, reading)
    defense, notes = as_served(translation, stored.tensors["f"])
    if ours.endswith("_double") and not any(spec.startswith("patrol") for spec in defense):
        defense = ["patrol:epoch=140,double=false", *defense]
        notes = ["the first layer is doubled, as PATROL's: patrol is assumed, with the published epoch 140", *notes]
    values = translation.settings | {"arch": ours, "defense": defense}
    if ours == "mobilenetv2_released" and "bottleneck" in values:
        values["bottleneck_relu"] = True  # the published bottleneck has it whatever the option says
    return config.parse(values).resolve(), notes


def _assumed(flags: dict[str, Any], published: str, ours: str, cut: int) -> list[str]:
    """Return notes on what nothing said, and was taken for granted."""
    notes = []
    if "arch" not in flags and published not in (RECIPE["arch"], RESNETS[0]):
        notes.append(f"nothing names the network; {published} fits: --arch for another")
    if "cutlayer" not in flags:
        notes.append(f"nothing names the cut; {cut} fits (a pooling beside it has no tensor): --cut for another")
    if ours in RESNETS:
        notes.append(f"{ours} without a sigmoid: with one, give --arch {ours}_sgm; the tensors are the same")
    missing = [name for name in ("bottleneck_option", "lambd", "regularization") if name not in flags]
    if missing:
        notes.append(f"neither the folder's name nor an option says {', '.join(missing)}: none is assumed")
    return notes


def _stub(name: str, images: data.ImageSet | int) -> data.ImageSet:
    if isinstance(images, data.ImageSet):
        return images
    size, mean_std = SIZES[name], NORMALIZATION.get(name, ((0.0,) * 3, (1.0,) * 3))
    empty = data.Split(torch.zeros(0, 3, size, size, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    return data.ImageSet(name, empty, empty, [str(i) for i in range(images)], *mean_std, size)


class _Unfilled(TorchFunctionMode):
    """Leave out what changes no shape: of tensors on shapes alone it changes nothing, and is slow."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.batch_norm and len(args[1]) != args[0].shape[1]:
            raise RuntimeError(f"batch norm of {len(args[1])} channels got {args[0].shape[1]}")
        if func in FILLING or func in SHAPED_ALIKE:
            return args[0] if args else kwargs["tensor"]  # torch.nn.init names its arguments
        return func(*args, **(kwargs or {}))


def _check(stored: Stored, settings: config.TrainConfig, images: data.ImageSet | int) -> None:
    """Check whether the tensors fit the network, on shapes alone: fast enough to try every cut."""
    bottleneck = None
    if settings.bottleneck is not None:
        bottleneck = zoo.Bottleneck(
            settings.bottleneck, settings.bottleneck_stride, settings.bottleneck_kernel, settings.bottleneck_relu
        )
    stub = _stub(settings.data, images)
    with torch.device("meta"), _Unfilled():
        parts = zoo.build(
            settings.arch,
            cut=settings.cut,
            classes=len(stub.classes),
            image_size=stub.size,
            bottleneck=bottleneck,
        )
    if any(spec.name == "patrol" for spec in settings.defense):
        with _Unfilled():
            _prune_like(parts.encoder, stored.tensors["f"], stub.size)
    bare = {name: value for name, value in stored.tensors["f"].items() if name.rpartition(".")[2] not in IN_ENCODER}
    _pairs(Stored(stored.tensors | {"f": bare}, stored.paths), parts.encoder, parts.tail)


def _prune_like(encoder: nn.Module, tensors: dict[str, Tensor], size: int) -> None:
    """Give the layers of an encoder on shapes alone the widths of the stored tensors where these are pruned ones.

    Where they are those of another network, the encoder stays as it is, and the comparison that follows says so.
    """
    saved = _by_order(encoder, tensors)
    own = cast("dict[str, Tensor]", encoder.state_dict())
    grown = (a > b for name, value in saved.items() for a, b in zip(value.shape, own[name].shape, strict=False))
    if any(grown):
        return
    image = torch.zeros(1, 3, size, size, device="meta")
    wire = encoder.eval()(image).shape
    trial = copy.deepcopy(encoder)
    resize(trial, saved, "")
    try:
        if trial(image).shape != wire:
            return
    except RuntimeError:  # widths that do not follow from each other
        return
    resize(encoder, saved, "")


def _by_order(encoder: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return our names with the stored tensors; none where the layers are others."""
    ours = [name for name in encoder.state_dict() if not name.endswith(COUNTER)]
    theirs = [name for name in tensors if not name.endswith(COUNTER)]
    if [leaf(name) for name in ours] != [leaf(name) for name in theirs]:
        return {}
    return dict(zip(ours, (tensors[name] for name in theirs), strict=True))


def _load(stored: Stored, settings: config.TrainConfig, images: data.ImageSet | int) -> runs.SplitModel:
    with torch.random.fork_rng(devices=[]):  # what the files do not hold, such as a proxy, starts anew
        seed_layers(stream("cpu", settings.seed, WEIGHTS))
        model = runs.build_model(settings, _stub(settings.data, images))
    saved = {f"encoder.{name}": value for name, value in _by_order(model.encoder, stored.tensors["f"]).items()}
    cast(Defense, model.defense).restructure_like(model, saved)
    with torch.no_grad():  # not before: what is built may need gradients, as the trial pruning of PATROL
        for ours, theirs in _pairs(stored, model.encoder, model.tail):
            ours.copy_(theirs)
    return model


def _pairs(stored: Stored, encoder: nn.Module, tail: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return our tensors beside the published ones."""
    cloud = cast("dict[str, Tensor]", tail.state_dict())
    ours = {
        "f": cast("dict[str, Tensor]", encoder.state_dict()),
        "cloud": {name: value for name, value in cloud.items() if not name.startswith("head.")},
        "classifier": {name: value for name, value in cloud.items() if name.startswith("head.")},
    }
    pairs: list[tuple[Tensor, Tensor]] = []
    for part, wanted in ours.items():
        try:
            found = match(str(stored.paths[part]), stored.tensors[part], wanted)
        except Mismatch as error:
            raise Mismatch(str(error), error.matched + len(pairs)) from None
        pairs += [(wanted[name], value) for name, value in found.items()]
    return pairs
