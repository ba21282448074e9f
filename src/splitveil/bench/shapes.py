"""What a training of a grid looks like before its images are there: sizes, networks that fit, stand-in images."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from .. import config, metrics, runs
from ..data import ImageSet, Split
from ..data.protocol import PROTOCOLS, VALIDATION_LIMIT, VALIDATION_SHARE
from ..defenses.base import Stack
from ..errors import UserError, unknown
from ..evaluation import evaluate
from ..registry import Registry
from ..training.loop import check_epochs

if TYPE_CHECKING:
    from .grid import Cell

COSTLESS = frozenset({"sigma", "weight", "label_weight", "scale", "epsilon", "threshold", "ratio", "bandwidth", "lr"})
"""Parameters of defenses whose size changes no training's speed."""


@dataclass(frozen=True)
class Size:
    """Numbers of training and test images and of classes, and the images' side in pixels."""

    train: int
    test: int
    classes: int
    side: int


PUBLISHED = {
    "cifar10": Size(50_000, 10_000, 10, 32),
    "cifar100": Size(50_000, 10_000, 100, 32),
    "tinyimagenet": Size(100_000, 10_000, 200, 64),
    "facescrub": Size(39_969, 4_170, 530, 48),  # published as links, many of them dead: the counts of the CEM code
    "digits": Size(1_437, 360, 10, 32),
}


def published(settings: config.TrainConfig) -> Size | None:
    """Size of the image set as it is published, cut to the sizes that are asked for; None where it is not known."""
    full = PUBLISHED.get(settings.data)
    if full is None:
        return None
    return replace(full, train=settings.train_size or full.train, test=settings.test_size or full.test)


def loaded(settings: config.TrainConfig) -> Size:
    """Size of the images themselves.

    Raises:
        UserError: they cannot be loaded, or are too small to score.
    """
    images = runs.load_images(settings)
    metrics.check_size(images.size)
    return Size(len(images.train), len(images.test), len(images.classes), images.size)


@dataclass(frozen=True)
class Parts:
    """How many images each part of a cell has.

    >>> from splitveil.bench.grid import Cell
    >>> cell = Cell(config.parse({"data": "digits"}).resolve(), {}, attacked=20)
    >>> Parts.of(cell, PUBLISHED["digits"])
    Parts(size=Size(train=1437, test=360, classes=10, side=32), train=1293, validation=144, attacker=324, attacked=20)
    """

    size: Size
    train: int
    validation: int
    attacker: int
    attacked: int

    @classmethod
    def of(cls, cell: Cell, size: Size) -> Parts:
        """As `data.protocol` divides them; images that occur twice are not looked for.

        Raises:
            UserError: the cell's attacker wants more images than there are.
        """
        validation = min(round(size.train * VALIDATION_SHARE), VALIDATION_LIMIT)
        train = size.train - validation
        attacked = round(0.1 * size.test)
        attacker = size.test - attacked
        if cell.settings.protocol == "train_time":
            attacker, attacked = train, size.test
        elif cell.settings.protocol == "auxiliary":
            attacker, attacked = train // 2, size.test
            train -= attacker
        there = f"under protocol {cell.settings.protocol} {cell.settings.data} has"
        if cell.attacked is not None and cell.attacked > attacked:
            raise UserError(f"attacked is {cell.attacked}, but {there} {attacked} images to reconstruct; ask for fewer")
        if cell.attacker_size is not None and cell.attacker_size > attacker:
            raise UserError(
                f"attacker_size is {cell.attacker_size}, but {there} {attacker} images for the attacker; ask for fewer"
            )
        return cls(size, train, validation, cell.attacker_size or attacker, cell.attacked or attacked)


def stand_in(size: Size, train: int, test: int = 20) -> ImageSet:
    """Random images with labels; what is timed or built does not depend on what they show."""
    rng = torch.Generator().manual_seed(0)

    def part(count: int) -> Split:
        pixels = torch.randint(256, (count, 3, size.side, size.side), generator=rng, dtype=torch.uint8)
        return Split(pixels, torch.arange(count) % size.classes)

    names = [str(number) for number in range(size.classes)]
    return ImageSet("random", part(train), part(test), names, (0.5,) * 3, (0.25,) * 3, size.side)


def shape(settings: config.TrainConfig) -> str:
    """A key that trainings share which cost the same per step: same images, network and kinds of defense.

    >>> keys = [shape(config.parse({"data": "digits", "defense": [f"gaussian:{s}"]}).resolve()) for s in (0, 0.1, 0.2)]
    >>> keys[0] == keys[1], keys[1] == keys[2]
    (False, True)
    """
    kept = {"data", "root", "arch", "cut", "batch_size", "precision", "devices", "crop_padding", "flip", "rotate"}
    kept |= {name for name in config.TrainConfig.model_fields if name.startswith("bottleneck")}
    values = settings.model_dump(mode="json", include=kept)
    values["defense"] = [[spec.name, _cost(spec.parameters)] for spec in settings.defense]
    return json.dumps(values, sort_keys=True, default=str)


def _cost(parameters: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in parameters.items() if key not in COSTLESS}
    return kept | ({"sigma": parameters["sigma"] > 0} if "sigma" in parameters else {})  # CEM needs some noise


def check(settings: config.TrainConfig) -> None:
    """What can be found wrong about a training without its images and its network.

    Raises:
        UserError: unknown data or protocol; defenses of bad values, given twice, or acting after the last epoch; more
            images than there are.
    """
    Registry("data").get(settings.data.partition(":")[0])
    if settings.protocol not in PROTOCOLS:
        raise unknown("protocol", settings.protocol, PROTOCOLS)
    stack = Stack(*(spec.make("defenses") for spec in settings.defense))
    check_epochs(stack, settings.epochs)
    for part in ("train", "test"):
        wanted, full = getattr(settings, f"{part}_size"), PUBLISHED.get(settings.data)
        if wanted and full and wanted > getattr(full, part):
            raise UserError(f"{part}_size is {wanted}; {settings.data} has {getattr(full, part)} {part} images")


def check_network(cell: Cell, images: ImageSet | None = None) -> None:
    """Build the network with its defenses, where the size of the images is known; else only look for its name.

    Args:
        images: the cell's, where the caller has them.

    Raises:
        UserError: an unknown name, a cut or bottleneck that does not fit the images, defenses that do not fit both,
            attacks that cannot take the wire.
    """
    settings, size = cell.settings, published(cell.settings)
    images = images or (stand_in(size, 2, 2) if size else None)
    if images is None:
        family, colon, _ = settings.arch.partition(":")
        names = Registry("zoo").names()
        if (f"{family}:NAME@LAYER" if colon else settings.arch) not in names:
            raise unknown("model", settings.arch, names)
        return
    with torch.random.fork_rng():  # layers draw their weights from torch's global generator
        evaluate.check_wire(runs.build_model(settings, images), cell.attacks.values(), images)


def acting(settings: config.TrainConfig) -> int:
    """How many weights of the defenses are not 0: a loss that is switched off costs nothing."""
    return sum(bool(spec.parameters.get("weight")) for spec in settings.defense)


def title(settings: config.TrainConfig) -> str:
    """A line that names the images, the network and the defenses."""
    cut = "" if settings.cut is None else f"/{settings.cut}"
    channels = "" if settings.bottleneck is None else f" C{settings.bottleneck}"
    defenses: Any = "+".join(spec.name for spec in settings.defense) or "no defense"
    return f"{settings.data} {settings.arch}{cut}{channels} {defenses}"
