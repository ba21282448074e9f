"""All settings, checked before anything runs; read from YAML and written as YAML."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    create_model,
    model_serializer,
    model_validator,
)

from . import ranges
from .errors import UserError, did_you_mean, shown
from .recipe import CONTRADICTION, Recipe, Several
from .registry import KINDS, Registry
from .storage.files import expanded
from .storage.yaml_files import load as load  # part of this face

OWN = "own"
"""Image set and network of a run that was saved from Python, which no name of the registry stands for."""
MAX_SEED = 2**63 - 1
"""The largest seed that torch's generators take with any sign."""


class Spec(BaseModel):
    """A plug-in by name with its parameters.

    Written ``name``, ``name:value`` (the first parameter) or ``name:key=value,key=value``; in YAML also
    ``{name: {key: value}}``, or ``{name: value}`` for the first parameter.

    >>> Spec.model_validate("cem:weight=16,loss=released").parameters
    {'weight': 16, 'loss': 'released'}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, str):
            name, colon, rest = value.partition(":")
            pairs = [_pair(value, part) for part in rest.split(",")] if colon else []
            if not name or len(dict(pairs)) < len(pairs):
                raise _malformed(value)
            return {"name": name, "parameters": dict(pairs)}
        if isinstance(value, dict) and len(value) == 1 and "name" not in value:
            ((name, parameters),) = value.items()
            if isinstance(parameters, int | float | str):
                parameters = {"": parameters}  # as in name:value
            return {"name": name, "parameters": {} if parameters is None else parameters}
        return value

    @model_serializer
    def _plain(self) -> dict[str, Any]:
        return {self.name: dict(self.parameters)}

    def resolve(self, kind: str) -> Spec:
        """Return the same spec with every parameter named, typed and filled in with its default.

        Args:
            kind: "attacks", "defenses", "bounds" or "data".

        Raises:
            UserError: unknown name or parameter, or a value of the wrong type.
        """
        target = Registry(kind).get(self.name)
        signature = inspect.signature(target)
        given, resolved = dict(self.parameters), {}
        if "" in given and signature.parameters:
            first = next(iter(signature.parameters))
            if first in given:
                raise UserError(f"'{self.name}' got {first} twice: by its place and by its name; give it once")
            given[first] = given.pop("")
        for key in given:
            if key not in signature.parameters:
                hint = did_you_mean(key, signature.parameters) or ";"
                has = ", ".join(signature.parameters) or "none"
                raise UserError(f"{KINDS[kind]} '{self.name}' has no parameter '{key}'{hint} it has: {has}")
        for key, parameter in signature.parameters.items():
            if key in given:
                resolved[key] = ranges.value_of(target, key, given[key], self.name)
            elif parameter.default is inspect.Parameter.empty:
                raise UserError(f"{KINDS[kind]} '{self.name}' needs {key}; write {self.name}:{key}=...")
            else:
                resolved[key] = parameter.default
        return Spec(name=self.name, parameters=resolved)

    def make(self, kind: str) -> Any:
        """Return the plug-in itself, constructed.

        Args:
            kind: "attacks", "defenses", "bounds" or "data".

        Raises:
            UserError: as `resolve`.
        """
        return Registry(kind).get(self.name)(**self.resolve(kind).parameters)


class OwnSpec(Spec):
    """An object of a class that is not registered, in place of a spec.

    >>> class Mine:
    ...     def __init__(self, size):
    ...         self.size = size
    >>> OwnSpec.of(Mine(3)).model_dump(), OwnSpec.of(Mine(3)).make("attacks").size
    ({'Mine': {'size': 3}}, 3)
    """

    _thing: Any = PrivateAttr()

    @classmethod
    def of(cls, thing: Any) -> OwnSpec:
        """Return the spec of an object; its settings are what it was made with, or its public attributes.

        Args:
            thing: object of a class that is not registered.
        """
        found = cls(name=type(thing).__name__, parameters=ranges.settings_of(thing))
        found._thing = thing
        return found

    def resolve(self, kind: str) -> Spec:
        """Return the spec itself, whose object has its settings already."""
        return self

    def make(self, kind: str) -> Any:
        """Return a copy of the object, which stays as it was given."""
        return copy.deepcopy(self._thing)


def is_registered(thing: Any, kind: str) -> bool:
    """Return whether an object's class is the plug-in that has its name among those of a kind.

    Args:
        thing: object.
        kind: "attacks", "defenses" or "bounds".
    """
    names = vars(type(thing)).get("__plugin_names__", ())
    # Two kinds may have the same name, so it is not enough that there is such a name.
    return bool(names) and names[0] in Registry(kind).names() and Registry(kind).get(names[0]) is type(thing)


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
    """Return everything that is wrong, in one line.

    Args:
        error: of pydantic.
        settings: names that a misspelt one may mean.
    """
    return "; ".join(_line(e, settings or TrainConfig.model_fields) for e in error.errors())


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


def _pair(whole: str, text: str) -> tuple[str, Any]:
    key, equals, value = (part.strip() for part in (text.partition("=") if "=" in text else ("", "", text)))
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise _malformed(whole) from None
    except ValueError:  # a number of 5,000 digits, or a date that there is not: what is expected is said later
        parsed = value
    if not value or bool(key) != bool(equals) or isinstance(parsed, dict | list):
        raise _malformed(whole)
    return key, parsed


def _malformed(text: str) -> ValueError:
    return ValueError(f"{shown(text)} is no plug-in; write name, name:value or name:key=value,key=value")


def _hint(error: Any) -> str:
    return error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")


def _line(error: Any, settings: Collection[str]) -> str:
    if error["type"] == CONTRADICTION:
        return error["msg"]
    place = ".".join(str(part) for part in error["loc"]) or "settings"
    if error["type"] == "extra_forbidden":
        return f"{place}: no such setting{did_you_mean(place.rpartition('.')[2], settings) or _known(settings)}"
    if error["type"] == "missing":
        return f"{place} is missing; give {place}: in the file or --{place.replace('_', '-')}"
    return f"{place} is {shown(error['input'])}; {_expected(place) or _hint(error)}"


def _known(settings: Collection[str]) -> str:
    return f"; there are {', '.join(sorted(settings))}"


def _expected(setting: str) -> str | None:
    """Return the range of a setting, where it has one."""
    if (field := TrainConfig.model_fields.get(setting)) is None:
        return None
    found = ranges.Declared.of(field.annotation, tuple(field.metadata))
    return f"expected {found.described}" if found else None
