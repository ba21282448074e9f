"""The generators that a network's code may draw from, set alike for two calls."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded() -> Iterator[None]:
    """Seed the generators of torch, Python and NumPy, and put their states back at the end.

    >>> def drawn():
    ...     with seeded():
    ...         return random.random()
    >>> drawn() == drawn()
    True
    """
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002, that of code which does not follow NumPy
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)  # noqa: NPY002


def drawn_next() -> tuple[float, ...]:
    """Return what each generator draws next, which tells whether two calls have drawn as much."""
    return float(torch.rand(())), random.random(), float(np.random.rand())  # noqa: NPY002
