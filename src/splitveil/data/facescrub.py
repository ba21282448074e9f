"""FaceScrub (Ng and Winkler 2014): face crops of 530 persons."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..ranges import Images
from ..registry import plugin
from ._folders import DEFAULT_ROOT, find_root, image_set, list_parts
from .base import ImageSet

SIZE = 48
LAYOUT = "train/<identity>/*.jpg and validate/<identity>/*.jpg"


@plugin("facescrub")
def facescrub(
    root: str | Path | None = DEFAULT_ROOT,
    *,
    download: bool = False,
    train_size: Images | None = None,
    test_size: Images | None = None,
) -> ImageSet:
    """Load FaceScrub, resized to 48x48, from folders train/<identity>/ and validate/<identity>/.

    ``root`` is the folder that holds the two, or the parent of a folder ``facescrub`` that does; ``data`` by
    default. The statistics are computed. Nothing is downloaded: the data set is published as links only.
    """
    if download:
        raise UserError("facescrub is published as links only; collect the images and pass --root DIR")
    folder = find_root(root, "facescrub", ("train", "validate"), LAYOUT)
    train, test, classes = list_parts(folder, "train", "validate")
    sizes = (train_size, test_size)
    return image_set("facescrub", (train, test), classes, size=SIZE, resize=True, sizes=sizes)
