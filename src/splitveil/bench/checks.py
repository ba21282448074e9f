"""What can be found wrong with the cells of a grid before any of them runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from .grid import Cell

NETWORKS = 64
"""Different networks that are built to check a grid; what is wrong with further ones is said when they run."""


def trainable(cells: Iterable[Cell]) -> None:
    """Check settings, defenses and networks, and how many images attackers want, as far as the images are known.

    Raises:
        UserError: of the first cell that cannot be.
    """
    from . import shapes  # torch, and all networks and defenses

    checked: set[Any] = set()
    networks: dict[str, Cell] = {}
    for cell in cells:
        about, shape = cell.settings, shapes.shape(cell.settings)
        networks.setdefault(shape, cell)
        values = [spec.model_dump_json() for spec in about.defense]
        key = (shape, about.protocol, about.epochs, about.train_size, about.test_size)
        if checked.issuperset([key, *values]):
            continue
        checked.update([key, *values])
        with named(cell.axes):
            shapes.check(about)
            if size := shapes.published(about):
                shapes.Parts.of(cell, size)
    for cell in list(networks.values())[:NETWORKS]:
        with named(cell.axes):
            shapes.check_network(cell)


def images(cells: Iterable[Cell]) -> None:
    """Load each image set once, and look whether attackers want more than there is.

    Raises:
        UserError: images that are not there, or too few.
    """
    from . import shapes

    sizes: dict[Any, shapes.Size] = {}
    for cell in cells:
        about = cell.settings
        key = (about.data, about.root, about.train_size, about.test_size)
        if key not in sizes:
            sizes[key] = shapes.loaded(about)
        with named(cell.axes):
            shapes.Parts.of(cell, sizes[key])


@contextmanager
def named(axes: dict[str, Any]) -> Iterator[None]:
    """Say which cell an error is about."""
    try:
        yield
    except UserError as error:
        shown = ", ".join(f"{key}={value}" for key, value in axes.items())
        raise UserError(f"cell {shown}: {error}" if shown else str(error)) from None
