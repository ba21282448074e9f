"""The way from a name, as a user writes it, to an ImageSet."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError, unknown
from ..ranges import value_of
from ..registry import Registry
from .base import ImageSet


def load(
    name: str,
    *,
    root: str | Path | None = None,
    download: bool = False,
    train_size: int | None = None,
    test_size: int | None = None,
) -> ImageSet:
    """Load a data set.

    Args:
        name: a registered name; ``name:value`` sets the first parameter of the loader (``folder:DIR``),
            ``name:key=value,key=value`` any (``folder:root=DIR,size=64``).
        root: where the files are; see the loader for the layout.
        download: whether missing files may be fetched.
        train_size: number of training images, class-balanced, the first of each class in name order; None: all.
        test_size: number of test images, as ``train_size``.

    Raises:
        UserError: unknown name or parameter, missing or broken files, sizes beyond what there is.

    >>> images = load("digits", train_size=100)
    >>> len(images.train), len(images.test), images.size
    (100, 360, 32)
    """
    key, _, text = name.partition(":")
    loader = Registry("data").get(key)
    options = _parse(key, text, loader) if text else {}
    given = {"root": root, "train_size": train_size, "test_size": test_size}
    for option, value in given.items():
        if value is not None:
            if option in options:
                raise UserError(f"{option} is given twice: in '{name}' and as {value}; give it once")
            options[option] = value
    options["download"] = download or bool(options.get("download", False))
    try:
        return loader(**options)
    except OSError as error:
        where = error.filename or root or name
        raise UserError(f"cannot read {where}: {error.strerror}; check the path and its rights") from error


def _parse(key: str, text: str, loader: Callable[..., ImageSet]) -> dict[str, Any]:
    parameters = list(inspect.signature(loader).parameters)
    if not text.partition("=")[0].isidentifier() or "=" not in text:
        return {parameters[0]: text}
    options: dict[str, Any] = {}
    for pair in text.split(","):
        option, _, value = pair.partition("=")
        if option not in parameters:
            raise unknown(f"parameter of {key}", option, parameters)
        options[option] = value if option == "root" else value_of(loader, option, value, key)
    return options
