"""The exceptions that bad input causes, and the hint for a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LONGEST = 100
"""Most letters of a value that a message shows whole."""


class UserError(Exception):
    """Bad input: the message is one line of what was got, what is expected and what to do (exit code 2)."""


class AccessError(UserError):
    """An attack asked for something that its protocol does not grant."""


class WireError(UserError):
    """An attack cannot take what crosses the wire, or images of this size."""


class DivergedError(UserError):
    """The training of an attack diverged; a suite goes on without it, and a flag says so."""


class CostlyError(UserError):
    """Already the least noise costs a model more accuracy than is allowed."""


def nearest(name: str, options: Iterable[str], alike: float = 0.5) -> str:
    """Return the nearest valid name, or an empty string where none is as alike (0 to 1) as that.

    Args:
        name: misspelt name.
        options: valid names.
        alike: least similarity, 0 to 1.

    >>> nearest("prunning", ["pruning", "dropout"], 0.75), nearest("topk", ["nopeek"], 0.75)
    ('pruning', '')
    """
    return next(iter(difflib.get_close_matches(str(name), list(options), n=1, cutoff=alike)), "")


def shown(value: Any) -> str:
    """Return a value as a message shows it: long ones cut.

    Args:
        value: any value.

    >>> shown("abc"), shown("9" * 5000), shown(10**5000)
    ("'abc'", "'999999999999999999999999999999... (5000 letters)", 'a number of more than 100 digits')
    """
    if isinstance(value, int) and value.bit_length() > 3 * LONGEST:  # Python refuses to write thousands of digits
        return f"a number of more than {LONGEST} digits"
    if isinstance(value, str) and len(value) > LONGEST:
        return f"{value[:30]!r:.31}... ({len(value)} letters)"
    try:
        text = repr(value)
    except ValueError:  # such a number within
        return f"a {type(value).__name__} with a number of thousands of digits"
    return text if len(text) <= LONGEST else f"{text[:30]}... ({len(text)} letters)"


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return a hint with the nearest valid name, or an empty string.

    Args:
        name: misspelt name.
        options: valid names.

    >>> did_you_mean("gausian", ["cem", "gaussian"])
    "; did you mean 'gaussian'?"
    """
    close = nearest(name, options)
    return f"; did you mean '{close}'?" if close else ""


def unknown(kind: str, name: str, options: Iterable[str]) -> UserError:
    """Return the error for a name that is not registered: what was got, the nearest, all that exist.

    Short names are alike by chance, and whoever follows a wrong hint trains another model: a hint must be much alike,
    begin alike or have the same letters.

    Args:
        kind: what the name should name, such as "defense".
        name: as it was given.
        options: valid names.

    >>> unknown("defense", "noise", ["gaussian", "nopeek"])
    UserError("unknown defense 'noise'; expected one of: gaussian, nopeek")
    """
    names = sorted(options)
    begins = [other for other in names if len(name) > 2 and (other.startswith(name) or name.startswith(other))]
    swapped = [other for other in names if sorted(other) == sorted(name)]
    close = nearest(name, names, 0.7) or nearest(name, begins + swapped, 0)
    hint = f"; did you mean '{close}'?" if close else ";"
    return UserError(f"unknown {kind} {shown(str(name))}{hint} expected one of: {', '.join(names)}")
