"""CIFAR-10 (Krizhevsky 2009)."""

from __future__ import annotations

from pathlib import Path

from ..ranges import Images
from ..registry import plugin
from ._cifar import load_cifar
from ._folders import DEFAULT_ROOT
from .base import ImageSet

# Published statistics of the 50,000 training images: mean and standard deviation over all pixels.
STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@plugin("cifar10")
def cifar10(
    root: str | Path | None = DEFAULT_ROOT,
    *,
    download: bool = False,
    train_size: Images | None = None,
    test_size: Images | None = None,
) -> ImageSet:
    """Load CIFAR-10 (32x32): the official archive, or folders train/<class>/ and test/<class>/.

    ``root`` may be the folder with the archive or its unpacked files, or with the class folders, or the parent of a
    folder ``cifar10`` of either kind, which counts more; ``data`` by default. Class folders have the names of CIFAR-10,
    not necessarily all. Nothing is downloaded without ``download=True``.
    """
    sizes = (train_size, test_size)
    return load_cifar("cifar10", "CIFAR10", STATISTICS, CLASSES, root=root, download=download, sizes=sizes)
