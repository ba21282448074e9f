"""CIFAR-100 (Krizhevsky 2009)."""

from __future__ import annotations

from pathlib import Path

from ..ranges import Images
from ..registry import plugin
from ._cifar import load_cifar
from ._folders import DEFAULT_ROOT
from .base import ImageSet

# Published statistics of the 50,000 training images: mean and standard deviation over all pixels.
STATISTICS = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))

NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
CLASSES = tuple(NAMES.split())


@plugin("cifar100")
def cifar100(
    root: str | Path | None = DEFAULT_ROOT,
    *,
    download: bool = False,
    train_size: Images | None = None,
    test_size: Images | None = None,
) -> ImageSet:
    """Load CIFAR-100 (32x32): the official archive, or folders train/<class>/ and test/<class>/.

    ``root`` may be the folder with the archive or its unpacked files, or with the class folders, or the parent of a
    folder ``cifar100`` of either kind, which counts more; ``data`` by default. Class folders have the names of
    CIFAR-100, not necessarily all. Nothing is downloaded without ``download=True``.
    """
    sizes = (train_size, test_size)
    return load_cifar("cifar100", "CIFAR100", STATISTICS, CLASSES, root=root, download=download, sizes=sizes)
