"""The inputs of a Python caller, each accepted or refused in one line: images and labels, an example, a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import torch
from PIL.Image import Image
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from . import config
from .data import Split
from .data.base import COLORS
from .data.streamed import Streamed
from .errors import UserError
from .memory import capacity
from .model import SplitModel
from .recipe import Recipe

Data = Split | tuple[Any, Any] | Dataset[Any] | DataLoader[Any]
"""Images and labels: tensors or arrays x (N, C, H, W), in [0, 1] or uint8, and y (N,); a data set of such pairs, or a
loader of batches of them. C is 3, or 1 of gray images. They are kept in memory as uint8, but for those that a training
reads anew in each epoch (`training_images_of`)."""
SHAPE = "(N, C, H, W) with C = 3, or 1 of gray images"
PAIR = "expected (x, y): images (N, C, H, W) and labels (N,), a Dataset of such pairs or a DataLoader"


OWN: dict[str, Any] = {"network_dropout": True, "unit_variance": False, "optimizer": "sgd", "rotate": 0.0}
"""Settings of a training of somebody's own network, which may have weights and dropout for good reasons."""
SHARE = 0.25
"""Part of the memory that the images of a data set may take; larger ones are read anew in each epoch."""


def images_of(data: Data, name: str) -> Split:
    """Return images and labels as a `Split` in memory.

    Args:
        data: images and labels, see `Data`.
        name: that of the argument, for messages.

    Raises:
        UserError: no pairs of images and labels; images that are not (N, C, H, W), or neither uint8 nor floats in
            [0, 1]; labels that are not the numbers of classes, from 0 on.

    >>> len(images_of((torch.rand(4, 3, 8, 8), [0, 1, 0, 1]), "data"))
    4
    """
    if isinstance(data, Split):
        _labels(data.labels, len(data.images), name)
        return data
    parts: Any = data if isinstance(data, tuple) or _is_listed_pair(data) else _collected(data, name)
    if len(parts) != 2:
        raise UserError(f"{name} has {len(parts)} parts; {PAIR}")
    with torch.inference_mode(False):  # what is made in that mode cannot be trained on
        x, y = (_tensor(part, name) for part in parts)
        return Split(_pixels(x, name), _labels(y, len(x), name))


def training_images_of(data: Data, name: str, batch_size: int) -> Split | Streamed:
    """Return images and labels for a training: in memory, or as a stream that is gone through in each epoch.

    A loader with a length is a stream, and so is a data set whose images would take more than a `SHARE` of the memory.

    Args:
        data: images and labels, see `Data`.
        name: that of the argument, for messages.
        batch_size: of the stream of a data set.

    Raises:
        UserError: as `images_of`; batches of a single image.

    >>> from torch.utils.data import TensorDataset
    >>> images = TensorDataset(torch.rand(10, 1, 8, 8), torch.arange(10))
    >>> stream = training_images_of(DataLoader(images, batch_size=4), "data", 128)
    >>> len(stream), [len(part) for part in stream]
    (10, [4, 4, 2])
    """
    loader = data if isinstance(data, DataLoader) else None
    if loader is None and isinstance(data, Dataset) and _is_too_large(data, name):
        loader = DataLoader(data, batch_size, shuffle=True)
    if loader is None or loader.batch_sampler is None or not _has_length(loader):
        return images_of(data, name)
    with torch.random.fork_rng(devices=[]):
        try:
            stream = Streamed(loader, lambda item: Split(*_pair(item, name)))
        except StopIteration:
            raise UserError(f"{name} is empty; {PAIR}") from None
    if len(stream.first) < 2:
        raise UserError(f"{name} gives batches of {len(stream.first)} image; expected at least 2: give it a batch_size")
    return stream


def example_of(example: Any) -> Tensor:
    """Return an example as `splitveil.split` needs it, of any size.

    Args:
        example: pixels (1, C, H, W), floats in [0, 1] or uint8, as a tensor or an array.

    Raises:
        UserError: it is no tensor or array of pixels (1, C, H, W).
    """
    if isinstance(example, np.ndarray):
        example = _tensor(example, "example")
    if not torch.is_tensor(example):
        raise UserError(
            f"example is a {type(example).__name__}; expected a tensor or an array of pixels (1, C, H, W), e.g. x[:1]"
        )
    if example.ndim != 4 or not len(example):
        raise UserError(f"example has shape {tuple(example.shape)}; expected (1, C, H, W), e.g. x[:1]")
    _check_channels(example, "example")
    if example.dtype == torch.uint8:
        return example.float() / 255
    if not example.is_floating_point():
        raise UserError(f"example is {example.dtype}; expected floats in [0, 1]")
    return example.float()


def network_of(network: Any) -> nn.Module:
    """Return a network whose weights are float32, in which training and noise are computed.

    Args:
        network: module, perhaps compiled.

    Raises:
        UserError: it is no module, or has weights of another type.
    """
    if not isinstance(network, nn.Module):
        raise UserError(f"network is a {type(network).__name__}; expected a torch.nn.Module")
    network = getattr(network, "_orig_mod", network)  # of torch.compile
    _check_precision(network, "network", "net")
    return network


def _check_precision(module: nn.Module, what: str, name: str) -> None:
    for parameter in module.parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise UserError(f"the {what}'s weights are {parameter.dtype}; expected torch.float32: write {name}.float()")


def check_model(model: Any, *, trainable: bool = False) -> None:
    """Check that a split model was given, whose weights are float32.

    Args:
        model: what was given.
        trainable: whether gradients of its weights, or of what they compute, are needed.

    Raises:
        UserError: it is none, or has weights of another type, or of which there are no gradients.
    """
    if not isinstance(model, SplitModel):
        raise UserError(
            f"model is a {type(model).__name__}; expected a SplitModel: model = splitveil.split(net, at=..., "
            "example=x[:1], defenses=[...])"
        )
    _check_precision(model, "model", "model")
    if trainable and any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise UserError(
            "the model's weights were made under torch.inference_mode; expected weights of which gradients can be "
            "computed: write model = copy.deepcopy(model)"
        )


def check_images(model: SplitModel, split: Split, name: str) -> None:
    """Check that images have the size that the model was made for.

    Args:
        model: whose shapes are known.
        split: images.
        name: of the argument, for the message.

    Raises:
        UserError: they have another.
    """
    if len(split) and model.image_shape and tuple(split.images.shape[1:]) != model.image_shape:
        raise UserError(
            f"the images of {name} have shape {tuple(split.images.shape[1:])}, the model was made for "
            f"{model.image_shape}; resize them, or split the network with an example of theirs"
        )


@torch.no_grad()
def outputs_of(model: SplitModel, split: Split, name: str) -> int:
    """Return the number of logits, and check that every label is below it.

    Args:
        model: run on one image.
        split: images and labels.
        name: of the argument, for the message.

    Raises:
        UserError: a label beyond them; an output that is not (B, classes).
    """
    modes = [(module, module.training) for module in model.modules()]
    x = split.images[:1].to(model.mean.device).float() / 255
    logits = model.eval().tail(model.features(x))
    for module, training in modes:
        module.training = training
    if not torch.is_tensor(logits) or logits.ndim != 2:
        got = tuple(logits.shape) if torch.is_tensor(logits) else type(logits).__name__
        raise UserError(f"the network's output for one image is {got}; expected logits (1, classes)")
    lowest, highest = int(split.labels.min()), int(split.labels.max())
    if highest >= logits.shape[1]:
        hint = f"write y - {lowest}" if highest - lowest < logits.shape[1] else "give the network more outputs"
        raise UserError(
            f"the labels of {name} go from {lowest} to {highest}, the network has {logits.shape[1]} outputs; "
            f"expected 0 to {logits.shape[1] - 1}: {hint}"
        )
    return logits.shape[1]


def recipe_of(data: Data, settings: dict[str, Any], *, chosen: bool) -> Recipe:
    """Return the recipe of a training; a loader has the size of its batches.

    Args:
        data: images that are learned from.
        settings: of `Recipe`, over `OWN`.
        chosen: whether there are images on which the epoch is chosen.

    Raises:
        UserError: unknown settings, or values out of their range.
    """
    own = data.batch_size if isinstance(data, DataLoader) and data.batch_sampler is not None else None
    if own is not None and own < 2:
        raise UserError(f"data gives batches of {own} image; expected at least 2: DataLoader(..., batch_size=128)")
    if own is not None and settings.get("batch_size", own) != own:
        raise UserError(f"batch_size is {settings['batch_size']}, but the loader gives batches of {own}; leave it out")
    more = {} if own is None else {"batch_size": own}
    choose = {"choose": "best"} if chosen else {}
    try:
        recipe = Recipe.model_validate({"recipe": "fast", **OWN, **choose, **settings, **more})
    except ValidationError as error:
        raise UserError(config.explain(error, Recipe.model_fields.keys() - {"devices"})) from None
    if recipe.devices != 1:
        raise UserError(f"devices is {recipe.devices}; fit trains on one; splitveil train has --devices")
    return recipe


def _is_listed_pair(data: Any) -> bool:
    """Return whether this is [x, y] of a whole data set, and no list of two (image, label) pairs."""
    return isinstance(data, list) and len(data) == 2 and not isinstance(data[0], tuple | list)


def _collected(data: Any, name: str) -> tuple[Tensor, Tensor]:
    """Read a data set or a loader, without a trace in the global generator."""
    batched = isinstance(data, DataLoader) and data.batch_sampler is not None
    if isinstance(data, str | dict) or torch.is_tensor(data) or not isinstance(data, Iterable | Dataset):
        raise UserError(f"{name} is a {type(data).__name__}; {PAIR}")
    images, labels = [], []
    with torch.random.fork_rng(devices=[]):
        for item in _items(data):
            image, label = _pair(item, name, batched)
            images.append(image)
            labels.append(label)
            if images[0].shape[1:] != images[-1].shape[1:]:
                sizes = f"{tuple(images[0].shape[1:])} and {tuple(images[-1].shape[1:])}"
                raise UserError(f"{name} has images of shapes {sizes}; expected one: resize them in its transform")
    if not images:
        raise UserError(f"{name} is empty; {PAIR}")
    return torch.cat(images), torch.cat(labels)


def _pair(item: Any, name: str, batched: bool = True) -> tuple[Tensor, Tensor]:
    """Return uint8 (B, C, H, W) and int64 (B,) of what a loader or a data set yields, made small at once."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise UserError(f"{name} yields {_what(item)}; expected pairs (image, label)")
    image, label = (_tensor(part, name) for part in item)
    pixels = _pixels(image if batched else image[None], name)
    return pixels, _labels(label.reshape(-1) if not batched or label.ndim == 0 else label, len(pixels), name)


def _has_length(loader: DataLoader[Any]) -> bool:
    try:
        return len(loader) > 0
    except TypeError:  # a data set without a length, which only ends
        return False


def _is_too_large(data: Dataset[Any], name: str) -> bool:
    """Return whether the images of a data set would take more than their share of the memory."""
    has = capacity()
    if isinstance(data, TensorDataset | IterableDataset) or has is None or not hasattr(data, "__len__"):
        return False
    count = len(data)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        return count > 0 and count * _pair(data[0], name, False)[0].numel() > SHARE * has


def _items(data: Any) -> Iterable[Any]:
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset) and hasattr(data, "__len__"):
        return (data[index] for index in range(len(data)))  # type: ignore[arg-type]
    return cast("Iterable[Any]", data)


def _tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Image):
        raise UserError(f"{name} holds PIL images; expected tensors: end its transform with ToTensor() of torchvision")
    try:
        return torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{name} holds a {type(value).__name__}, which is no tensor; {PAIR}") from None


def _what(item: Any) -> str:
    return f"{len(item)} parts for an image" if isinstance(item, tuple | list) else f"a {type(item).__name__}"


def _check_channels(x: Tensor, name: str) -> None:
    if x.shape[1] not in COLORS or 0 in x.shape[2:]:
        hint = ": write x.permute(0, 3, 1, 2)" if x.shape[3] in COLORS else ""
        raise UserError(f"the images of {name} have shape {tuple(x.shape)}; expected {SHAPE}{hint}")


def _pixels(x: Tensor, name: str) -> Tensor:
    """Return images, as they are given, as uint8 (N, C, H, W)."""
    if x.ndim != 4:
        hint = ": write x[:, None]" if x.ndim == 3 and x.shape[0] != 3 else ""
        raise UserError(f"the images of {name} have shape {tuple(x.shape)}; expected {SHAPE}{hint}")
    if not len(x):
        raise UserError(f"the images of {name} are none; {PAIR}")
    _check_channels(x, name)
    if x.dtype == torch.uint8:
        return x.cpu()
    lowest, highest = float(x.min()), float(x.max())
    if not x.is_floating_point():
        hint = ": write x.to(torch.uint8)" if lowest >= 0 and highest <= 255 and x.dtype != torch.bool else ""
        raise UserError(f"the images of {name} are {x.dtype}; expected uint8, or floats in [0, 1]{hint}")
    if not (lowest >= 0 and highest <= 1):  # NaN is neither
        raise UserError(
            f"the images of {name} are from {lowest:.3g} to {highest:.3g}; expected pixels in [0, 1], without "
            f"normalization{_range_hint(lowest, highest)}"
        )
    return (x.cpu().float() * 255).round().to(torch.uint8)


def _range_hint(lowest: float, highest: float) -> str:
    if lowest < 0:
        return ": leave it out, and give splitveil.split mean=... and std=... of it"
    return ": write x / 255" if 1 < highest <= 255 else ""


def _labels(y: Tensor, count: int, name: str) -> Tensor:
    """Return labels, as they are given, as int64 (N,)."""
    if y.shape != (count,):
        hint = ""
        if y.ndim == 2 and len(y) == count:
            hint = ": write y.flatten()" if y.shape[1] == 1 else ": write y.argmax(1)"
        raise UserError(f"the labels of {name} have shape {tuple(y.shape)}; expected ({count},){hint}")
    whole = y.cpu().long()
    if not torch.equal(whole.to(y.dtype), y.cpu()):
        raise UserError(f"the labels of {name} are no whole numbers; expected those of classes: 0, 1, 2, ...")
    if count and int(whole.min()) < 0:
        raise UserError(
            f"the labels of {name} go down to {int(whole.min())}; expected classes from 0 on: write y - y.min()"
        )
    return whole
