"""What can be found wrong with the cells of a grid before any of them runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import UserError, unknown
from .image_sets import PUBLISHED, DatasetSize, ImageSets, published, random_images

if TYPE_CHECKING:
    from .. import config
    from ..data import ImageSet
    from .cells import Cell

NETWORKS = 64
"""Different networks that are built to check a grid; what is wrong with further ones is said when they run."""
COSTLESS = frozenset({"sigma", "weight", "label_weight", "scale", "epsilon", "threshold", "ratio", "bandwidth", "lr"})
"""Parameters of defenses whose size changes no training's speed."""


def trainable(cells: Iterable[Cell]) -> None:
    """Check settings, defenses and networks, and how many images attackers want, as far as the images are known.

    Raises:
        UserError: of the first cell that cannot be.
    """
    networks: dict[str, Cell] = {}
    for cell in cells:
        networks.setdefault(workload_key(cell.settings), cell)
        with named(cell.axes):
            check(cell.settings)
            if size := published(cell.settings):
                check_counts(cell, size)
    for cell in list(networks.values())[:NETWORKS]:
        with named(cell.axes):
            check_network(cell)


def images(cells: Iterable[Cell]) -> None:
    """Load each image set once, and check whether attackers want more than there is.

    Raises:
        UserError: images that are not there, too small to score, or too few.
    """
    sets = ImageSets()
    for cell in cells:
        size = sets.size(cell.settings)
        with named(cell.axes):
            check_counts(cell, size)


@contextmanager
def named(axes: dict[str, Any]) -> Iterator[None]:
    """Say which cell an error is about."""
    try:
        yield
    except UserError as error:
        shown = _axes(axes)
        raise UserError(f"cell {shown}: {error}" if shown else str(error)) from None
    except Exception as error:  # a fault, as of a plug-in of one's own: its traceback is kept, and says where it was
        if shown := _axes(axes):
            error.add_note(f"This was in the cell {shown}.")
        raise


def _axes(axes: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in axes.items())


def check_counts(cell: Cell, size: DatasetSize) -> None:
    """Check whether the protocol of a cell has as many images as its attacker wants.

    Raises:
        UserError: it has not.
    """
    from ..data.protocol import protocol_sizes

    name = cell.settings.protocol
    there = protocol_sizes(name, size.train, size.test)
    wanted = {
        "attacked": (cell.attacked, there["attacker_test"], "images to reconstruct"),
        "attacker_size": (cell.attacker_size, there["attacker_train"], "images for the attacker"),
    }
    for key, (value, most, what) in wanted.items():
        if value is not None and value > most:
            raise UserError(
                f"{key} is {value}, but under protocol {name} {cell.settings.data} has {most} {what}; ask for fewer"
            )


def check(settings: config.TrainConfig) -> None:
    """Check a training as far as it can be done without its images and its network.

    Raises:
        UserError: unknown data or protocol; defenses of bad values, given twice, or acting after the last epoch; more
            images than there are.
    """
    from ..data.protocol import PROTOCOLS
    from ..defenses.base import Stack
    from ..registry import Registry
    from ..training.loop import check_epochs

    Registry("data").get(settings.data.partition(":")[0])
    if settings.protocol not in PROTOCOLS:
        raise unknown("protocol", settings.protocol, PROTOCOLS)
    check_epochs(Stack(*(spec.make("defenses") for spec in settings.defense)), settings.epochs)
    for part in ("train", "test"):
        wanted, full = getattr(settings, f"{part}_size"), PUBLISHED.get(settings.data)
        if wanted and full and wanted > getattr(full, part):
            raise UserError(f"{part}_size is {wanted}; {settings.data} has {getattr(full, part)} {part} images")


def check_network(cell: Cell, images: ImageSet | None = None) -> None:
    """Build the network with its defenses, where the size of the images is known; else only look for its name.

    Args:
        cell: whose network it is.
        images: the cell's, where the caller has them.

    Raises:
        UserError: an unknown name, a cut or bottleneck that does not fit the images, defenses that do not fit both,
            attacks that cannot take the wire.
    """
    import torch

    from .. import runs
    from ..evaluation import stage
    from ..registry import Registry

    settings, size = cell.settings, published(cell.settings)
    images = images or (random_images(replace(size, train=2, test=2)) if size else None)
    if images is None:
        family, colon, _ = settings.arch.partition(":")
        names = Registry("zoo").names()
        if (f"{family}:NAME@LAYER" if colon else settings.arch) not in names:
            raise unknown("model", settings.arch, names)
        return
    with torch.random.fork_rng():  # layers draw their weights from torch's global generator
        stage.check_wire(runs.build_model(settings, images), cell.attacks.values(), images)


def workload_key(settings: config.TrainConfig) -> str:
    """Return a key that trainings share whose steps cost the same: same images, network and kinds of defense.

    >>> from splitveil import config
    >>> parsed = (config.parse({"data": "digits", "defense": [f"gaussian:{s}"]}).resolve() for s in (0, 0.1, 0.2))
    >>> keys = [workload_key(settings) for settings in parsed]
    >>> keys[0] == keys[1], keys[1] == keys[2]
    (False, True)
    """
    kept = {"data", "root", "arch", "cut", "batch_size", "optimizer", "precision", "devices", "crop_padding"}
    kept |= {"flip", "rotate", "cutout"}
    kept |= {name for name in type(settings).model_fields if name.startswith("bottleneck")}
    values = settings.model_dump(mode="json", include=kept)
    values["defense"] = [[spec.name, _cost(spec.parameters)] for spec in settings.defense]
    return json.dumps(values, sort_keys=True, default=str)


def _cost(parameters: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in parameters.items() if key not in COSTLESS}
    return kept | ({"sigma": parameters["sigma"] > 0} if "sigma" in parameters else {})  # CEM needs some noise
