"""All settings, checked before anything runs; read from YAML and written as YAML."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, create_model

from . import ranges
from .errors import UserError, did_you_mean, shown
from .recipe import CONTRADICTION, Recipe, Several
from .registry import KINDS, Registry
from .specs import OwnSpec as OwnSpec  # part of this face, like the next ones
from .specs import Spec as Spec
from .specs import is_registered as is_registered
from .storage.files import expanded
from .storage.yaml_files import load as load

OWN = "own"
"""Image set and network of a run that was saved from Python, which no name of the registry stands for."""
MAX_SEED = 2**63 - 1
"""The largest seed that torch's generators take with any sign."""
MOST_SAID = 5
"""Errors that a message names one by one."""


def spec_of(thing: Any, kind: str) -> Spec:
    """Return a plug-in, however it is given, as a resolved spec.

    Args:
        thing: an object, a spec, or text such as ``"cem:16"``.
        kind: "attacks", "defenses" or "bounds".

    Raises:
        UserError: it is none of these, unknown, or has parameters that do not fit.

    >>> from splitveil.defenses.gaussian import Gaussian
    >>> spec_of(Gaussian(0.1), "defenses") == spec_of("gaussian:0.1", "defenses")
    True
    """
    if isinstance(thing, str):
        try:
            return Spec.model_validate(thing).resolve(kind)
        except ValidationError as error:
            raise UserError(explain(error)) from None
    if isinstance(thing, Spec):
        return thing.resolve(kind)
    if not is_registered(thing, kind):
        got = f"the class {thing.__name__}" if isinstance(thing, type) else f"an object of {type(thing).__name__}"
        hint = f"; write {thing.__name__.removesuffix('Attack')}()" if isinstance(thing, type) else ""
        raise UserError(
            f"{got} is no registered {KINDS[kind]}; expected an object of one, or text such as "
            f"'{Registry(kind).names()[0]}'{hint}"
        )
    return Spec(name=type(thing).__plugin_names__[0], parameters=ranges.arguments_of(thing)).resolve(kind)


def renewed(stored: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return a stored plug-in with the parameters that came after it, at the defaults that leave it what it was.

    Args:
        stored: name -> parameters.
        kind: "attacks" or "defenses".

    >>> renewed({"decoder": {"epochs": 2}}, "attacks")["decoder"]["network"]
    'res_normN8C64'
    """
    try:
        return Spec.model_validate(stored).resolve(kind).model_dump()
    except (UserError, ValueError):  # of another version, so that it equals nothing that is asked for
        return stored


class TrainConfig(Recipe):
    """The settings of one training: data, network, defense, recipe."""

    data: str
    """Image set, as `splitveil list data` shows, or folder:PATH."""
    root: Path | None = None
    """Folder that holds the images; it takes the place of one in data."""
    train_size: Several | None = None
    """Use only this many training images, class-balanced."""
    test_size: Several | None = None
    """Use only this many test images, class-balanced."""
    arch: str = "vgg11_bn_sgm"
    """Network, as `splitveil list models` shows, or torchvision:NAME@LAYER."""
    cut: int | None = Field(None, ge=0, le=10_000)
    """Blocks on the device, by the published counting; needed unless --arch names a layer."""
    bottleneck: int | None = Field(None, ge=1, le=10_000)
    """Channels of the wire; none: as many as the cut layer has."""
    bottleneck_stride: int = Field(1, ge=1, le=1_000)
    """Stride of the bottleneck convolution."""
    bottleneck_kernel: int = Field(3, ge=1, le=1_000)
    """Side of the kernel of the bottleneck convolution."""
    bottleneck_relu: bool = False
    """Add a ReLU after the bottleneck convolution."""
    defense: tuple[Spec, ...] = ()
    """Defenses in their order on the wire: name:value or name:key=value,..."""
    protocol: str = "inference_time"
    """Who has which images: train_time, inference_time, or auxiliary, which keeps half the training images for the
    attacker."""

    def resolve(self) -> TrainConfig:
        """Return the same settings with every plug-in parameter and data-dependent default filled in.

        Raises:
            UserError: an unknown name, or a value out of its range.
        """
        own = augmentation(self.data)
        return self.model_copy(
            update={
                "root": self._place(),
                "defense": tuple(spec.resolve("defenses") for spec in self.defense),
                "crop_padding": own["crop_padding"] if self.crop_padding is None else self.crop_padding,
                "flip": own["flip"] if self.flip is None else self.flip,
            }
        )

    def _place(self) -> Path | None:
        """Return the absolute folder of the images: `root`, else that in `data`, else the loader's own."""
        name, inside = divided(self.data)
        place = self.root or inside or own_root(name)
        return expanded(place).absolute() if place else None


def augmentation(data: str) -> dict[str, Any]:
    """Return the settings of augmentation that an image set has by default."""
    name = data.partition(":")[0]  # without its parameters
    return {"crop_padding": {"cifar10": 4, "cifar100": 4, "digits": 2}.get(name, 0), "flip": name != "digits"}


def divided(data: str) -> tuple[str, str | None]:
    """Return an image set as it is written, without the folder in it; and that folder.

    >>> divided("folder:root=faces,size=64"), divided("folder:faces"), divided("digits")
    (('folder:size=64', 'faces'), ('folder', 'faces'), ('digits', None))
    """
    name, _, text = data.partition(":")
    if not text or name not in Registry("data").names():
        return data, None
    first = next(iter(inspect.signature(Registry("data").get(name)).parameters), None)
    if not text.partition("=")[0].isidentifier() or "=" not in text:
        return (name, text) if first == "root" else (data, None)
    pairs = text.split(",")
    places = [pair.removeprefix("root=") for pair in pairs if pair.startswith("root=")]
    others = ",".join(pair for pair in pairs if not pair.startswith("root="))
    return (f"{name}:{others}" if others else name, places[-1]) if places else (data, None)


def own_root(data: str) -> Path | None:
    """Return where an image set looks by itself, relative to the current folder; None where it needs or names none.

    >>> own_root("cifar10"), own_root("digits")
    (PosixPath('data'), None)
    """
    name = data.partition(":")[0]
    if name not in Registry("data").names():
        return None
    parameter = inspect.signature(Registry("data").get(name)).parameters.get("root")
    return parameter.default if parameter is not None and isinstance(parameter.default, Path) else None


def parse(values: dict[str, Any]) -> TrainConfig:
    """Return a TrainConfig from plain values.

    Args:
        values: settings by name.

    Raises:
        UserError: with every error at once, in one line.

    >>> parse({"data": "digits", "epoch": 3})
    Traceback (most recent call last):
    ...
    splitveil.errors.UserError: epoch: no such setting; did you mean 'epochs'?
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error)) from None


def explain(error: ValidationError, settings: Collection[str] = ()) -> str:
    """Return what is wrong, in one line: the first few errors, and how many there are besides.

    Args:
        error: of pydantic.
        settings: names that a misspelt one may mean.
    """
    known, found = settings or TrainConfig.model_fields, error.errors()
    unlike = [_place(e) for e in found if _is_unknown(e) and not did_you_mean(_name(e), known)]
    lines = [_line(e, known) for e in found if _place(e) not in unlike]
    named = f"{_some(unlike, ', ')}: no such setting; there are {', '.join(sorted(known))}" if unlike else ""
    return "; ".join(filter(None, [_some(lines, "; "), named]))


def _some(texts: Sequence[str], between: str) -> str:
    more = [f"and {len(texts) - MOST_SAID} more"] if len(texts) > MOST_SAID else []
    return between.join([*texts[:MOST_SAID], *more])


def flags() -> type[BaseModel]:
    """Return TrainConfig's settings as optional flags: None where one is not given, so that a file's value counts."""
    fields: dict[str, Any] = {}
    for name in names():
        field = TrainConfig.model_fields[name]
        kind: Any = tuple[str, ...] if name == "defense" else field.annotation
        kind = Annotated[Path, AfterValidator(expanded)] if name == "root" else kind
        default = "" if field.default in (None, ()) or field.is_required() else f" [default: {field.default}]"
        fields[name] = (kind | None, Field(None, description=(field.description or "") + default))
    return create_model("TrainFlags", **fields)


def dump(config: TrainConfig, **more: Any) -> str:
    """Return YAML that ``load`` and ``parse`` read.

    Args:
        config: settings.
        more: comments (``# key: value``).
    """
    head = "".join(f"# {key}: {value}\n" for key, value in more.items())
    values = config.model_dump(mode="json")
    return head + yaml.safe_dump({name: values[name] for name in names()}, sort_keys=False, allow_unicode=True)


def names() -> list[str]:
    """Return the names of all settings: what is trained, then how."""
    return sorted(TrainConfig.model_fields, key=lambda name: name in Recipe.model_fields)


def _hint(error: Any) -> str:
    return error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")


def _line(error: Any, settings: Collection[str]) -> str:
    if error["type"] == CONTRADICTION:
        return error["msg"]
    place = _place(error)
    if _is_unknown(error):
        return f"{place}: no such setting{did_you_mean(_name(error), settings)}"
    if error["type"] == "missing":
        return f"{place} is missing; give {place}: in the file or --{place.replace('_', '-')}"
    return f"{place} is {shown(error['input'])}; {_expected(place) or _hint(error)}"


def _place(error: Any) -> str:
    return shown(".".join(str(part) for part in error["loc"]) or "settings").strip("'")


def _name(error: Any) -> str:
    return _place(error).rpartition(".")[2]


def _is_unknown(error: Any) -> bool:
    return error["type"] == "extra_forbidden"


def _expected(setting: str) -> str | None:
    """Return the range of a setting, where it has one."""
    if (field := TrainConfig.model_fields.get(setting)) is None:
        return None
    found = ranges.Declared.of(field.annotation, tuple(field.metadata))
    return f"expected {found.described}" if found else None
