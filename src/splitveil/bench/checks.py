"""What can be found wrong with the cells of a grid before any of them runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import UserError, unknown

if TYPE_CHECKING:
    from .. import config
    from ..data import ImageSet
    from .cells import Cell

NETWORKS = 64
"""Different networks that are built to check a grid; what is wrong with further ones is said when they run."""
COSTLESS = frozenset({"sigma", "weight", "label_weight", "scale", "epsilon", "threshold", "ratio", "bandwidth", "lr"})
"""Parameters of defenses whose size changes no training's speed."""


@dataclass(frozen=True)
class DatasetSize:
    """Numbers of training and test images and of classes, and the images' side in pixels."""

    train: int
    test: int
    classes: int
    side: int


PUBLISHED = {
    "cifar10": DatasetSize(50_000, 10_000, 10, 32),
    "cifar100": DatasetSize(50_000, 10_000, 100, 32),
    "tinyimagenet": DatasetSize(100_000, 10_000, 200, 64),
    # Published as links, many of them dead: the counts of the CEM code.
    "facescrub": DatasetSize(39_969, 4_170, 530, 48),
    "digits": DatasetSize(1_437, 360, 10, 32),
}


def trainable(cells: Iterable[Cell]) -> None:
    """Check settings, defenses and networks, and how many images attackers want, as far as the images are known.

    Raises:
        UserError: of the first cell that cannot be.
    """
    checked: set[Any] = set()
    networks: dict[str, Cell] = {}
    for cell in cells:
        about, key = cell.settings, workload_key(cell.settings)
        networks.setdefault(key, cell)
        values = [spec.model_dump_json() for spec in about.defense]
        values.append(json.dumps([key, about.protocol, about.epochs, about.train_size, about.test_size]))
        if checked.issuperset(values):
            continue
        checked.update(values)
        with named(cell.axes):
            check(about)
            if size := published(about):
                check_counts(cell, size)
    for cell in list(networks.values())[:NETWORKS]:
        with named(cell.axes):
            check_network(cell)


def images(cells: Iterable[Cell]) -> None:
    """Load each image set once, and check whether attackers want more than there is.

    Raises:
        UserError: images that are not there, too small to score, or too few.
    """
    from .. import metrics, runs

    sizes: dict[Any, DatasetSize] = {}
    for cell in cells:
        key = source(cell.settings)
        if key not in sizes:
            found = runs.load_images(cell.settings)
            metrics.check_size(found.size)
            sizes[key] = size_of(found)
        with named(cell.axes):
            check_counts(cell, sizes[key])


@contextmanager
def named(axes: dict[str, Any]) -> Iterator[None]:
    """Say which cell an error is about."""
    try:
        yield
    except UserError as error:
        shown = ", ".join(f"{key}={value}" for key, value in axes.items())
        raise UserError(f"cell {shown}: {error}" if shown else str(error)) from None


def source(settings: config.TrainConfig) -> tuple[Any, ...]:
    """Return what tells the image set of a training from others."""
    return settings.data, settings.root, settings.train_size, settings.test_size


def published(settings: config.TrainConfig) -> DatasetSize | None:
    """Return the size of the image set as it is published, cut to what is asked for; None where it is not known."""
    full = PUBLISHED.get(settings.data)
    if full is None:
        return None
    return replace(full, train=settings.train_size or full.train, test=settings.test_size or full.test)


def size_of(images: ImageSet) -> DatasetSize:
    """Return the size of an image set."""
    return DatasetSize(len(images.train), len(images.test), len(images.classes), images.size)


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
    images = images or (stand_in(replace(size, train=2, test=2)) if size else None)
    if images is None:
        family, colon, _ = settings.arch.partition(":")
        names = Registry("zoo").names()
        if (f"{family}:NAME@LAYER" if colon else settings.arch) not in names:
            raise unknown("model", settings.arch, names)
        return
    with torch.random.fork_rng():  # layers draw their weights from torch's global generator
        stage.check_wire(runs.build_model(settings, images), cell.attacks.values(), images)


def stand_in(size: DatasetSize) -> ImageSet:
    """Return random images with labels; what is timed or built does not depend on what they show."""
    import torch

    from ..data import ImageSet, Split

    rng = torch.Generator().manual_seed(0)

    def part(count: int) -> Split:
        pixels = torch.randint(256, (count, 3, size.side, size.side), generator=rng, dtype=torch.uint8)
        return Split(pixels, torch.arange(count) % size.classes)

    names = [str(number) for number in range(size.classes)]
    return ImageSet("random", part(size.train), part(size.test), names, (0.5,) * 3, (0.25,) * 3, size.side)


def workload_key(settings: config.TrainConfig) -> str:
    """Return a key that trainings share whose steps cost the same: same images, network and kinds of defense.

    >>> from splitveil import config
    >>> parsed = (config.parse({"data": "digits", "defense": [f"gaussian:{s}"]}).resolve() for s in (0, 0.1, 0.2))
    >>> keys = [workload_key(settings) for settings in parsed]
    >>> keys[0] == keys[1], keys[1] == keys[2]
    (False, True)
    """
    kept = {"data", "root", "arch", "cut", "batch_size", "precision", "devices", "crop_padding", "flip", "rotate"}
    kept |= {name for name in type(settings).model_fields if name.startswith("bottleneck")}
    values = settings.model_dump(mode="json", include=kept)
    values["defense"] = [[spec.name, _cost(spec.parameters)] for spec in settings.defense]
    return json.dumps(values, sort_keys=True, default=str)


def _cost(parameters: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in parameters.items() if key not in COSTLESS}
    return kept | ({"sigma": parameters["sigma"] > 0} if "sigma" in parameters else {})  # CEM needs some noise
