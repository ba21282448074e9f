"""The image sets of a grid, and random ones in their place where only their size is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from .. import config
    from ..data import ImageSet


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


class ImageSets:
    """The image sets of a grid, of which the last one is kept.

    Args:
        random: take random images of the published size where the real ones cannot be loaded.

    Attributes:
        notes: what had to be assumed.
    """

    def __init__(self, random: bool = False):
        self.notes: list[str] = []
        self._random = random
        self._last: dict[Any, ImageSet] = {}
        self._sizes: dict[Any, DatasetSize] = {}

    def of(self, settings: config.TrainConfig) -> ImageSet:
        """Return the images of a training.

        Raises:
            UserError: they cannot be loaded, and have no published size.
        """
        if (key := _source(settings)) not in self._last:
            self._last.clear()  # not two at once
            images = self._last[key] = self._load(settings)
            self._sizes[key] = DatasetSize(len(images.train), len(images.test), len(images.classes), images.size)
        return self._last[key]

    def size(self, settings: config.TrainConfig) -> DatasetSize:
        """Return the size of the images of a training; those that were loaded before are not loaded again."""
        if _source(settings) not in self._sizes:
            self.of(settings)
        return self._sizes[_source(settings)]

    def _load(self, settings: config.TrainConfig) -> ImageSet:
        from .. import metrics, runs

        try:
            images = runs.load_images(settings)
        except UserError as error:
            known = published(settings)
            if known is None or not self._random:
                raise
            note = f"{settings.data} is taken to have its published size: {error}"
            self.notes += [note] if note not in self.notes else []
            return random_images(known)
        metrics.check_size(images.size)
        return images


def published(settings: config.TrainConfig) -> DatasetSize | None:
    """Return the size of the image set as it is published, cut to what is asked for; None where it is not known."""
    full = PUBLISHED.get(settings.data)
    if full is None:
        return None
    return replace(full, train=settings.train_size or full.train, test=settings.test_size or full.test)


def random_images(size: DatasetSize) -> ImageSet:
    """Return random images with labels; what is timed or built does not depend on what they show."""
    import torch

    from ..data import ImageSet, Split

    rng = torch.Generator().manual_seed(0)

    def part(count: int) -> Split:
        pixels = torch.randint(256, (count, 3, size.side, size.side), generator=rng, dtype=torch.uint8)
        return Split(pixels, torch.arange(count) % size.classes)

    names = [str(number) for number in range(size.classes)]
    return ImageSet("random", part(size.train), part(size.test), names, (0.5,) * 3, (0.25,) * 3, size.side)


def _source(settings: config.TrainConfig) -> tuple[Any, ...]:
    return settings.data, settings.root, settings.train_size, settings.test_size
