"""The recording of ``len(x)`` in a trace, where Python otherwise needs a number at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn


@contextmanager
def recorded_len(modules: list[nn.Module]) -> Iterator[None]:
    """Record ``len(x)`` in the code of these modules as any other function that is called.

    Args:
        modules: modules whose code is traced.

    >>> class Doubled(nn.Module):
    ...     def forward(self, x):
    ...         return x * len(x)
    >>> with recorded_len([Doubled()]):
    ...     print(fx.symbolic_trace(Doubled()).code.count("len(x)"))
    1
    """
    kinds = {kind for module in modules for kind in type(module).__mro__ if kind is not nn.Module}
    spaces = [getattr(vars(kind).get("forward"), "__globals__", {}) for kind in kinds]
    changed = [space for space in {id(space): space for space in spaces}.values() if "len" not in space]
    for space in changed:
        space["len"] = _len
    try:
        yield
    finally:
        for space in changed:
            del space["len"]


def _len(value: Any) -> Any:
    known = not isinstance(value, fx.Proxy)
    return len(value) if known else value.tracer.create_proxy("call_function", len, (value,), {})
