"""The ranges that numbers are declared with, and the one check of them.

``epochs: Count`` in a signature is enough: `registry.plugin` checks the arguments of plug-ins, and `checked` those of
any other function, from the command line, a file or Python alike, before anything is built.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from .errors import LONGEST, UserError, shown

Called = TypeVar("Called", bound=Callable[..., Any])

MOST = 10**6
"""The largest number of anything, and the largest size of a number without a range of its own: larger ones are typing
errors, and would run for years or fill any memory."""
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Batch = Annotated[int, Field(ge=2)]
Several = Annotated[int, Field(ge=2)]
"""Number of images over which there is a standard error."""
Looks = Annotated[int, Field(ge=1, le=1000)]
Iterations = Annotated[int, Field(ge=1, le=10_000)]
"""Number of iterations of a solver inside a network, each of which is kept for the backward pass."""
Rate = Annotated[float, Field(gt=0, le=1000)]
Positive = Annotated[float, Field(gt=0)]
Computed = Annotated[float, Field(gt=0, le=1e30)]
"""A number that is computed from a model, whatever the size of its features and however sure it is."""
Weight = Annotated[float, Field(ge=0, le=MOST)]
Part = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Inner = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""A seed, up to the largest that torch's generators take with any sign."""
Images = Annotated[int, Field(ge=1, le=10**9)]
"""Number of images, up to more than any image set has."""
Pixels = Annotated[int, Field(ge=1, le=10**5)]
"""Side of an image in pixels."""

PLAIN = (int, float, str, bool, type(None))
BOUNDS = ("ge", "gt", "le", "lt")


@dataclass(frozen=True)
class Declared:
    """The declaration of a parameter or an option: the type of its values, and their range.

    >>> Declared.of(Count).described
    'a whole number from 1 to 1000000'
    >>> Declared.of(Rate | None).described
    'a number above 0, at most 1000, or null'
    """

    kinds: tuple[Any, ...]
    bounds: dict[str, float]
    adapter: TypeAdapter[Any]

    @classmethod
    def of(cls, hint: Any, beside: tuple[Any, ...] = ()) -> Declared | None:
        """Read a type; return None where it has parts that are neither numbers nor texts, which are not checked here.

        Args:
            hint: annotation of a parameter.
            beside: ranges that are kept apart from it.
        """
        parts = list(_parts(hint, beside))
        if not all(part in PLAIN or get_origin(part) is Literal for part, _ in parts):
            return None
        bounds = {
            name: getattr(one, name) for _, more in parts for one in more for name in BOUNDS if hasattr(one, name)
        }
        return cls(tuple(part for part, _ in parts), bounds, TypeAdapter(hint))

    @property
    def described(self) -> str:
        """Return what is expected, in words."""
        texts = ["null" if kind is type(None) else self._words(kind) for kind in self.kinds]
        return ", or ".join(texts)

    def _words(self, kind: Any) -> str:
        if get_origin(kind) is Literal:
            *others, last = map(str, get_args(kind))
            return f"{', '.join(others)} or {last}" if others else last
        if kind in (str, bool):
            return "a text" if kind is str else "true or false"
        least, most = self.bounds.get("ge", -MOST), self.bounds.get("le", MOST)
        noun = "a whole number" if kind is int else "a number"
        if "gt" not in self.bounds and "lt" not in self.bounds:
            return f"{noun} from {least} to {most}"
        low = f"above {self.bounds['gt']}" if "gt" in self.bounds else f"from {least}"
        return f"{noun} {low}, " + (f"below {self.bounds['lt']}" if "lt" in self.bounds else f"at most {most}")

    def checked(self, what: str, value: Any, example: Any = None) -> Any:
        """Return the value in its declared type.

        Args:
            what: name of the value in the message.
            value: as it was given.
            example: a value that fits.

        Raises:
            UserError: it has another type, or is out of its range.

        >>> Declared.of(Weight).checked("gaussian: sigma", -1, 0.025)
        Traceback (most recent call last):
        ...
        splitveil.errors.UserError: gaussian: sigma is -1; expected a number from 0 to 1000000, such as 0.025
        """
        number = int in self.kinds or float in self.kinds
        try:
            if number and isinstance(value, bool) and bool not in self.kinds:
                raise ValueError
            found = self.adapter.validate_python(value)
            if number and not self.bounds.keys() & {"le", "lt"}:
                _small(found)
        except (ValidationError, ValueError):
            more = "" if example is None else f", such as {example}"
            raise UserError(f"{what} is {_given(value)}; expected {self.described}{more}") from None
        return found


def whole(text: str) -> int | None:
    """Return the whole number that a text is; None where it is none, or has more digits than anything that is counted.

    Args:
        text: digits.

    >>> whole("12"), whole("-1"), whole("²"), whole("9" * 5000)
    (12, None, None, None)
    """
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


@functools.cache
def signature_of(target: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function or class; it is asked for at every call, and reading it takes long.

    Args:
        target: function or class.
    """
    return inspect.signature(target)


@functools.cache
def declared(target: Callable[..., Any]) -> dict[str, Declared | None]:
    """Return the declaration of each parameter of a function or class; None where there is nothing to check.

    Args:
        target: function or class.
    """
    function: Any = target.__init__ if inspect.isclass(target) else target
    hints = get_type_hints(function, include_extras=True)
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = signature_of(target).parameters.values()
    return {
        p.name: Declared.of(hints[p.name]) if p.name in hints and p.kind not in several else None for p in parameters
    }


def value_of(target: Callable[..., Any], key: str, value: Any, who: str) -> Any:
    """Return the value of a parameter in its declared type; one without a declaration need only be small.

    Args:
        target: function or class.
        key: name of the parameter.
        value: as it was given.
        who: beginning of the message.

    Raises:
        UserError: as `Declared.checked`.

    >>> value_of(lambda sigma: sigma, "sigma", float("inf"), "noise")
    Traceback (most recent call last):
    ...
    splitveil.errors.UserError: noise: sigma is inf; expected a number from -1000000 to 1000000
    """
    what = f"{who}: {key}" if who else key
    if found := declared(target)[key]:
        default = signature_of(target).parameters[key].default
        plain = found.kinds[0] in (int, float, str) and default is not inspect.Parameter.empty
        return found.checked(what, value, default if plain else None)
    try:
        _small(value)
    except ValueError:
        raise UserError(f"{what} is {shown(value)}; expected a number from -{MOST} to {MOST}") from None
    return value


def checked(function: Called, who: str = "") -> Called:
    """Return the function, or class, with every argument checked against its declaration.

    Args:
        function: function or class.
        who: beginning of the messages.

    >>> @checked
    ... def wait(epochs: Count = 5): ...
    >>> wait(0)
    Traceback (most recent call last):
    ...
    splitveil.errors.UserError: epochs is 0; expected a whole number from 1 to 1000000, such as 5
    """
    if inspect.isclass(function):
        kind: Any = function
        kind.__init__ = _remembering(checked(kind.__init__, who))
        return kind

    @functools.wraps(function)
    def checking(*args: Any, **kwargs: Any) -> Any:
        given = signature_of(function).bind(*args, **kwargs)
        for key, value in given.arguments.items():
            given.arguments[key] = value_of(function, key, value, who)
        return function(*given.args, **given.kwargs)

    return checking  # type: ignore[return-value]


def arguments_of(thing: object) -> dict[str, Any]:
    """Return the arguments that an object of a `checked` class was made with, defaults included.

    Args:
        thing: object of a `checked` class.

    >>> from splitveil.attacks.nearest import NearestAttack
    >>> arguments_of(NearestAttack(looks=4))
    {'neighbors': 1, 'looks': 4}
    """
    return dict(getattr(thing, "_made_with", {}))


def settings_of(thing: object) -> dict[str, Any]:
    """Return what an object was made with, or its public attributes, as plain values that JSON holds.

    What JSON has no form for is a text, without addresses of objects: they differ from process to process. The mode of
    a module (``training``) is no setting.

    Args:
        thing: object of any class.

    >>> class Mine:
    ...     def __init__(self):
    ...         self.steps, self.limit, self._done = 3, float("inf"), 0
    >>> settings_of(Mine())
    {'steps': 3, 'limit': 'inf'}
    """
    from torch import nn  # whoever has such an object has imported it; whoever reads a command's help has not

    others = vars(nn.Module()).keys() if isinstance(thing, nn.Module) else set[str]()
    public = {key: value for key, value in vars(thing).items() if not key.startswith("_") and key not in others}
    return {key: _plain(value) for key, value in (arguments_of(thing) or public).items()}


def _plain(value: Any) -> Any:
    finite = isinstance(value, float) and math.isfinite(value)
    short = isinstance(value, int) and value.bit_length() < 1000  # Python refuses to write thousands of digits
    if value is None or isinstance(value, str) or finite or short:
        return value
    return re.sub(r" at 0x[0-9a-fA-F]+", "", shown(value))


def _remembering(initialize: Callable[..., None]) -> Callable[..., None]:
    """Make an object keep its arguments; of a subclass its own, not those that it passes to its base."""

    @functools.wraps(initialize)
    def remembering(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature_of(initialize).bind(self, *args, **kwargs)
        given.apply_defaults()
        if "_made_with" not in vars(self):  # `object`, as torch's modules refuse attributes before their own __init__
            object.__setattr__(self, "_made_with", dict(list(given.arguments.items())[1:]))
        initialize(self, *args, **kwargs)

    return remembering


def _given(value: Any) -> str:
    """Show a number that comes as a text, from a command line, as a number."""
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return shown(value)
    return value if isinstance(value, str) and len(value) <= LONGEST else shown(value)


def _small(value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and not abs(value) <= MOST:  # a NaN is not, either
        raise ValueError


def _parts(hint: Any, more: tuple[Any, ...] = ()) -> Iterable[tuple[Any, tuple[Any, ...]]]:
    """Return the types that a type is made of, each with the ranges that stand beside it."""
    if get_origin(hint) is Annotated:
        inner, *beside = get_args(hint)
        fields = [part for one in beside for part in getattr(one, "metadata", (one,))]
        yield from _parts(inner, (*more, *fields))
    elif get_origin(hint) in (Union, types.UnionType):
        for part in get_args(hint):
            yield from _parts(part, more)
    else:
        yield hint, more
