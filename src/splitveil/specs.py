"""Plug-ins as they are written: a name with its parameters."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_serializer, model_validator

from . import ranges
from .errors import UserError, did_you_mean, shown
from .registry import KINDS, Registry


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
        signature = ranges.signature_of(target)
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
