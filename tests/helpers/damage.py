"""Files damaged in every way that their format allows, and in ways that know no format."""

from __future__ import annotations

import json
import math

DEEP = "[" * 100_000


def entries(value, path=()):
    """The path of every entry of nested dictionaries; of a list its first."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from entries(inner, (*path, key))


def changed(value, path, new):
    """A copy of nested dictionaries with one entry replaced, or left out where ``new`` is ``changed``."""
    value = json.loads(json.dumps(value))
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is changed:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


STRANGE = [changed, None, "text", [], {}, math.nan, math.inf, 10**400, -1, [[[1]]]]


def texts(text):
    """Damage that knows no format."""
    yield from ("", text[: len(text) // 2], DEEP, "[]", "null", "7", "\0\x01", "{}", text + "}", "9" * 5000)


def json_damage(text):
    value = json.loads(text)
    yield from texts(text)
    for number, path in enumerate(entries(value)):
        # Three of the strange values for each entry, others for the next one: all of them meet all kinds of entries.
        for strange in (STRANGE[(number * 3 + i) % len(STRANGE)] for i in range(3)):
            yield json.dumps(changed(value, path, strange))
