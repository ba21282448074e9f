"""What the settings and the code of a module say, as text that is the same in every process."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import types
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn

LIBRARIES = frozenset(("torch", "torchvision", "timm", "splitveil", "builtins", "typing", "abc"))
"""Packages whose classes and functions are told by their names: their versions stand beside what they compute."""
PLAIN = (bool, int, float, complex, str, bytes, torch.dtype)
_OF_MODULES = vars(nn.Module()).keys()
_OF_GRAPHS = vars(fx.GraphModule({}, fx.Graph())).keys()
"""What torch keeps of a traced module, whose code is compared anyway."""


class Description:
    """The texts of modules, functions and settings; what was told of a function or a class is kept.

    What is empty, None, or cannot be told without an address is the empty text, and so is a container that holds such
    an object: a layer that fills an empty dictionary with tensors when it runs is told as before.

    >>> told = Description().value
    >>> told({"b": [1, 2.0], "a": {3}}) == told({"a": {3}, "b": [1, 2.0]}), told([]), told([torch.ones(1)])
    (True, '', '')
    >>> told(torch.relu), told(nn.functional.gelu), told(nn.Tanh)
    ('relu', 'gelu', 'Tanh')
    """

    def __init__(self) -> None:
        """Begin with nothing told."""
        self._known: dict[int, tuple[Any, str]] = {}
        self._open: set[int] = set()

    def attributes(self, module: nn.Module) -> list[str]:
        """Return what the attributes of a module say, in the order of their names, without those of torch itself.

        Args:
            module: any; its sub-modules, parameters, buffers and hooks are left out.
        """
        kept = _OF_MODULES | (_OF_GRAPHS if isinstance(module, fx.GraphModule) else set[str]())
        own = sorted((key, value) for key, value in vars(module).items() if key not in kept)
        return [f"{key}={text}" for key, value in own if (text := self.value(value))]

    def code(self, kind: type) -> str:
        """Return what the code of a class and of those that it derives from says.

        Args:
            kind: the class.
        """
        return "".join(self._once(one, self._class) for one in kind.__mro__ if not _is_of_library(one))

    def value(self, value: Any) -> str:
        """Return what a setting says.

        Args:
            value: anything.
        """
        if isinstance(value, enum.Enum):
            return f"{type(value).__name__}.{value.name}"
        if isinstance(value, PLAIN):
            return repr(value)
        if isinstance(value, type):
            return value.__name__
        if callable(value) and not isinstance(value, nn.Module):
            return self._callable(value)
        return self._container(value)

    def _container(self, value: Any) -> str:
        if id(value) in self._open:  # it holds itself
            return ""
        self._open.add(id(value))
        try:
            if isinstance(value, Mapping):
                items = [(self._item(key), self._item(each)) for key, each in value.items()]
                return _whole("{", sorted(":".join(pair) if all(pair) else "" for pair in items))
            if isinstance(value, list | tuple):
                return _whole("[" if isinstance(value, list) else "(", map(self._item, value))
            if isinstance(value, set | frozenset):
                return _whole("set", sorted(map(self._item, value)))
            if dataclasses.is_dataclass(value) and not isinstance(value, nn.Module):
                items = [self._item(getattr(value, field.name, None)) for field in dataclasses.fields(value)]
                return _whole(type(value).__name__, items)
            return ""
        finally:
            self._open.discard(id(value))

    def _item(self, value: Any) -> str:
        """Return what a part of a container says: None and what is empty say that there is nothing."""
        if value is None or (isinstance(value, list | tuple | set | frozenset | Mapping) and not value):
            return repr(value)
        return self.value(value)

    def _callable(self, value: Any) -> str:
        if isinstance(value, functools.partial):
            return _whole("partial", map(self._item, (value.func, value.args, value.keywords)))
        function = getattr(value, "__func__", value)
        if not isinstance(function, types.FunctionType):
            function = getattr(function, "__wrapped__", function)  # what keeps its answers
        if isinstance(function, types.FunctionType):
            return function.__qualname__ if _is_of_library(function) else self._once(function, self._function)
        return function.__name__ if isinstance(function, types.BuiltinFunctionType) else self._container(value)

    def _once(self, value: Any, tell: Any) -> str:
        """Return the SHA-256 of what is told, which is found once; what is being told meanwhile says nothing."""
        if id(value) not in self._known:
            self._known[id(value)] = value, ""  # the object itself is kept, so that no other one takes its number
            self._known[id(value)] = value, hashlib.sha256(tell(value).encode()).hexdigest()
        return self._known[id(value)][1]

    def _class(self, kind: type) -> str:
        told = [f"class {kind.__name__}"]
        for name, member in sorted(vars(kind).items()):
            if name.startswith("__") and not callable(member):  # the module, the documentation, the lines of the code
                continue
            told += [f"{name}={text}" for part in _parts(member) if (text := self.value(part))]
        return "\n".join(told)

    def _function(self, function: types.FunctionType) -> str:
        inside = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        given = function.__defaults__, function.__kwdefaults__, *inside
        return "\n".join([self._bytecode(function.__code__, function.__globals__), *map(self._item, given)])

    def _bytecode(self, code: types.CodeType, names: Mapping[str, Any]) -> str:
        """Return what byte code says: its instructions, constants and names, and what the file tells of these.

        Functions are followed within one file: what a file takes from another package would lead through all of that.
        """
        told = [code.co_code.hex(), code.co_exceptiontable.hex(), repr(code.co_names)]
        for each in code.co_consts:
            told.append(self._bytecode(each, names) if isinstance(each, types.CodeType) else self._item(each))
        for name in code.co_names:
            used = None if name.startswith("__") else names.get(name)
            near = not isinstance(used, types.FunctionType) or used.__module__ == names.get("__name__")
            told.append(f"{name}={self.value(used)}" if near else name)
        return "\n".join(told)


def _parts(member: Any) -> tuple[Any, ...]:
    """Return what stands behind a name of a class."""
    if isinstance(member, property):
        return member.fget, member.fset
    if isinstance(member, functools.partialmethod):
        return member.func, member.args, member.keywords
    return (member.func if isinstance(member, functools.cached_property) else getattr(member, "__func__", member),)


def _whole(kind: str, parts: Iterable[str]) -> str:
    """Return the text of a container; of one that is empty or has a part that says nothing, nothing."""
    told = list(parts)
    return f"{kind}({','.join(told)})" if told and all(told) else ""


def _is_of_library(one: Any) -> bool:
    return (getattr(one, "__module__", None) or "").partition(".")[0] in LIBRARIES


def _is_filled(cell: types.CellType) -> bool:
    """Return whether a name of an enclosing function has a value yet."""
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
