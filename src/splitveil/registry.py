"""Plug-ins by name, discovered in the folders of the package and from entry points.

A plug-in is one file in the folder of its kind, with ``@plugin("name")`` on its class or builder.
A third-party package registers its own under the entry-point group ``splitveil.<kind>``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from .errors import UserError, unknown
from .ranges import checked

T = TypeVar("T")
KINDS = {
    "zoo": "model",
    "zoo.decoders": "decoder",
    "data": "data set",
    "defenses": "defense",
    "attacks": "attack",
    "bounds": "bound",
}


def plugin(*names: str) -> Callable[[T], T]:
    """Mark a class or function as a plug-in, and check the arguments that it is called with (`ranges`).

    Args:
        *names: names of the plug-in.

    >>> from splitveil.ranges import Count
    >>> @plugin("nothing")
    ... class Nothing:
    ...     def __init__(self, steps: Count = 3): ...
    >>> Nothing.__plugin_names__
    ('nothing',)
    >>> Nothing(steps=0)
    Traceback (most recent call last):
    ...
    splitveil.errors.UserError: nothing: steps is 0; expected a whole number from 1 to 1000000, such as 3
    """

    def mark(thing: T) -> T:
        several = len(names) > 1 and not inspect.isclass(thing)  # a builder of several names gets the one that is meant
        kind: Any = checked(thing, "" if several else names[0])  # type: ignore[type-var]
        kind.__plugin_names__ = names
        return kind

    return mark


class Registry:
    """The plug-ins of one kind.

    >>> "gaussian" in Registry("defenses").names()
    True
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._plugins = _discover(kind)

    def get(self, name: str) -> Any:
        """Return a class or builder.

        Args:
            name: one of its names.

        Raises:
            UserError: an unknown name; the message has the nearest valid one.
        """
        if name not in self._plugins:
            raise unknown(KINDS[self.kind], name, self._plugins)
        return self._plugins[name]

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._plugins)

    def families(self) -> list[tuple[list[str], str]]:
        """Return the names of every class or builder, sorted, and the same as `folded`."""
        several: dict[int, list[str]] = {}
        for name in self.names():
            several.setdefault(id(self._plugins[name]), []).append(name)
        return [(names, folded(names)) for names in several.values()]

    def describe(self) -> list[tuple[str, str]]:
        """Return the name of every plug-in, and the first line of its docstring."""
        return [(name, (self._plugins[name].__doc__ or "").strip().split("\n")[0]) for name in self.names()]


def folded(names: Sequence[str]) -> str:
    """Return the names of one builder as a pattern: ``|`` between depths, brackets around what may be left out.

    Where no pattern stands for exactly these names, they are listed.

    Args:
        names: names of one builder.

    >>> folded(["vgg11", "vgg11_sgm", "vgg13", "vgg13_sgm"]), folded(["linear"]), folded(["one", "other"])
    ('vgg11|13[_sgm]', 'linear', 'one, other')
    """
    heads = list(dict.fromkeys(name.partition("_")[0] for name in names))
    parts = [name.split("_")[1:] for name in names]
    ordered = max(parts, key=len)
    optional = [part for part in ordered if not all(part in one for one in parts)]
    tails = [""]
    for part in ordered:
        tails = [tail + end for tail in tails for end in ([f"_{part}", ""] if part in optional else [f"_{part}"])]
    stems = {re.sub(r"\d+$", "", head) for head in heads}
    if {head + tail for head in heads for tail in tails} != set(names) or len(stems) > 1:
        return ", ".join(names)
    stem = stems.pop()
    depths = "|".join(head.removeprefix(stem) for head in heads)
    return stem + depths + "".join(f"[_{part}]" if part in optional else f"_{part}" for part in ordered)


@cache
def _discover(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    package = importlib.import_module(f"splitveil.{kind}")
    for info in pkgutil.iter_modules(package.__path__):
        if info.name == "base" or info.name.startswith("_") or info.ispkg:
            continue
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for thing in vars(module).values():
            # `vars` and not the attribute: a subclass must not be taken for its base's plug-in.
            names = getattr(thing, "__dict__", {}).get("__plugin_names__", ())
            if getattr(thing, "__module__", None) != module.__name__:
                continue
            for name in names:
                if found.setdefault(name, thing) is not thing:
                    raise ValueError(f"the {KINDS[kind]} '{name}' is registered twice: by {found[name]} and {thing}")
    for point in entry_points(group=f"splitveil.{kind}"):
        if point.name not in found:
            found[point.name] = _load(kind, point)
    return found


def _load(kind: str, point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # a stranger's package may fail in any way, and must be named
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        package = point.module.partition(".")[0]
        raise UserError(
            f"the {KINDS[kind]} '{point.name}' of {package} cannot be loaded ({reason}); repair or uninstall {package}"
        ) from error
