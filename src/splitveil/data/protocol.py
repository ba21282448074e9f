"""Protocols: who trains on which images, and what the attacker may access."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError, unknown
from ._select import balanced, held_out
from .base import ImageSet, Split

VALIDATION_SHARE, VALIDATION_LIMIT = 0.1, 5000
PARTS = ("defender_train", "utility_val", "utility_test", "attacker_train", "attacker_test")


class Access(enum.Enum):
    """Access that an attack may need and a protocol may grant."""

    QUERY = "query"  # send images of its own through the encoder and read what arrives on the wire
    WEIGHTS = "weights"  # the encoder itself, with gradients
    LABELS = "labels"  # the true class of the images under attack
    LOGITS = "logits"  # what the tail answers


@dataclass(frozen=True, eq=False)
class Protocol:
    """The five image sets of an experiment and the attacker's rights.

    Attributes:
        name: name of the protocol.
        defender_train: images that the protected network trains on.
        utility_val: images held out of the training, on which the epoch is chosen.
        utility_test: images that the accuracy is scored on; nothing is chosen on them.
        attacker_train: images that the attacker trains on (plain, not augmented).
        attacker_test: images that the attacker reconstructs.
        grants: access that the attacker has.

    Raises:
        UserError: a part is empty, or an image of attacker_test (by its pixels) is in attacker_train.
    """

    name: str
    defender_train: Split
    utility_val: Split
    utility_test: Split
    attacker_train: Split
    attacker_test: Split
    grants: frozenset[Access]

    def __post_init__(self) -> None:
        for part in PARTS:
            if not len(getattr(self, part)):
                counts = ", ".join(f"{len(getattr(self, other))} for {other}" for other in PARTS if other != part)
                raise UserError(
                    f"protocol {self.name}: {part} is empty; load more images (--train-size, --test-size): "
                    f"these leave {counts}"
                )
        shared = int(contained(self.attacker_train.images, self.attacker_test.images).sum())
        if shared:
            raise UserError(
                f"protocol {self.name}: attacker_train and attacker_test share {shared} images; "
                "expected none: remove them from attacker_train"
            )


def protocol(name: str, images: ImageSet, *, seed: int = 0, attacker_test_size: int | None = None) -> Protocol:
    """Divide a data set; the same seed always gives the same parts.

    ``utility_val`` is the same for all protocols: a class-balanced tenth of the training images, at
    most 5,000.

    - ``train_time``: the attacker has the defender's training images and reconstructs the whole test set.
    - ``inference_time``: the attacker has 90 % of the test set and reconstructs the rest. Published as the
      last tenth in file order, which in class-sorted folders leaves classes out; here both are balanced.
    - ``auxiliary``: the attacker has half of the training images, which the defender then does without, and
      reconstructs the whole test set. The network must therefore be trained under this protocol.

    Images of the attacker's training part whose pixels are also in the part it reconstructs are dropped
    (``auxiliary``: also those the defender has), and images of the defender's training part whose pixels are also
    among those that validate or test.

    Args:
        name: ``train_time``, ``inference_time`` or ``auxiliary``.
        images: the data set.
        seed: of the division.
        attacker_test_size: reconstruct only this many images, class-balanced.

    Raises:
        UserError: unknown name, ``attacker_test_size`` beyond what there is, or too few images to divide.

    >>> from splitveil.data import load
    >>> parts = protocol("inference_time", load("digits"))
    >>> len(parts.defender_train), len(parts.utility_val), len(parts.attacker_train), len(parts.attacker_test)
    (1293, 144, 324, 36)
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    rng = torch.Generator().manual_seed(seed)
    size = protocol_sizes(name, len(images.train), len(images.test))["utility_val"]
    utility_val, rest = divide(images.train, size, rng)
    defender_train, attacker_train, attacker_test = PROTOCOLS[name](rest, images.test, rng)
    alike = "training images has the same pixels as one that validates or tests"
    defender_train = _left(name, defender_train, [utility_val, images.test], images, alike)
    if attacker_test_size is not None:
        if not 1 <= attacker_test_size <= len(attacker_test):
            raise UserError(
                f"attacker test size {attacker_test_size}: protocol {name} has {len(attacker_test)} images "
                "to reconstruct; ask for 1 to that many"
            )
        attacker_test, _ = divide(attacker_test, attacker_test_size, rng)
    known = [attacker_test] if name != "auxiliary" else [attacker_test, defender_train, utility_val]
    alike = "images for the attacker has the same pixels as one that it is to reconstruct"
    alike += " or that the defender has" if len(known) > 1 else ""
    attacker_train = _left(name, attacker_train, known, images, alike)
    return Protocol(
        name, defender_train, utility_val, images.test, attacker_train, attacker_test,
        frozenset({Access.QUERY, Access.WEIGHTS, Access.LABELS, Access.LOGITS}),
    )  # fmt: skip


def _train_time(train: Split, test: Split, rng: torch.Generator) -> tuple[Split, Split, Split]:
    return train, train, test


def _inference_time(train: Split, test: Split, rng: torch.Generator) -> tuple[Split, Split, Split]:
    attacker_test, attacker_train = divide(test, round(0.1 * len(test)), rng)
    return train, attacker_train, attacker_test


def _auxiliary(train: Split, test: Split, rng: torch.Generator) -> tuple[Split, Split, Split]:
    attacker_train, defender_train = divide(train, len(train) // 2, rng)
    return defender_train, attacker_train, test


# Remaining training images, test images -> defender_train, attacker_train, attacker_test.
PROTOCOLS: dict[str, Callable[[Split, Split, torch.Generator], tuple[Split, Split, Split]]] = {
    "train_time": _train_time,
    "inference_time": _inference_time,
    "auxiliary": _auxiliary,
}


def protocol_sizes(name: str, train: int, test: int) -> dict[str, int]:
    """Return how many images each part of a protocol has, before duplicates are taken from the attacker.

    Args:
        name: of the protocol.
        train: training images of the data set.
        test: its test images.

    >>> protocol_sizes("inference_time", 50_000, 10_000)["attacker_train"]
    9000
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    validation = min(round(train * VALIDATION_SHARE), VALIDATION_LIMIT)
    rest, attacked = train - validation, round(0.1 * test)
    counts = {"train_time": (rest, rest, test), "inference_time": (rest, test - attacked, attacked)}
    counts["auxiliary"] = (rest - rest // 2, rest // 2, test)
    defender, attacker, attacked = counts[name]
    return dict(zip(PARTS, (defender, validation, test, attacker, attacked), strict=True))


def divide(
    split: Split, count: int, rng: torch.Generator, choose: Callable[[Tensor, int, torch.Generator], Tensor] = held_out
) -> tuple[Split, Split]:
    """Return a random part of ``count`` images, and the rest.

    By default the part is class-balanced, or in proportion to the classes where the rest would lose a rare one
    (`held_out`).

    Args:
        split: images to divide.
        count: size of the first part.
        rng: generator of the choice.
        choose: chooses the images of the part by their labels.
    """
    part = torch.zeros(len(split), dtype=torch.bool)
    part[choose(split.labels, count, rng)] = True
    return split.subset(part.nonzero().flatten()), split.subset((~part).nonzero().flatten())


def divided_as_ever(images: ImageSet) -> bool:
    """Return whether versions up to 0.2.0 divided these images as this one does.

    They took equally many of every class, whatever that left of a rare one, and left copies of test images among those
    that the defender learns from.

    Args:
        images: the data set.
    """
    train, test = images.train, images.test
    validation = protocol_sizes("train_time", len(train), len(test))["utility_val"]
    for labels, count in ((train.labels, validation), (train.labels, len(train) // 2), (test.labels, len(test) // 10)):
        one, other = (choose(labels, count, torch.Generator().manual_seed(0)) for choose in (held_out, balanced))
        if not torch.equal(one, other):
            return False
    return len(fingerprints(train.images).unique()) == len(train) and not contained(train.images, test.images).any()


def some(split: Split, count: int, rng: torch.Generator) -> Split:
    """Return at most ``count`` of the images, drawn at random, in their order; they may be sorted by class.

    Args:
        split: images.
        count: how many are drawn; all where there are no more.
        rng: generator of the choice, on the CPU; not used where there are no more.
    """
    if len(split) <= count:
        return split
    return split.subset(torch.randperm(len(split), generator=rng)[:count].sort().values)


def without(split: Split, others: list[Split]) -> Split:
    """Return ``split`` less the images whose pixels are in one of ``others``; the same object if there are none.

    Args:
        split: images.
        others: images whose copies are dropped.
    """
    drop = torch.zeros(len(split), dtype=torch.bool)
    for other in others:
        drop |= contained(split.images, other.images)
    return split.subset((~drop).nonzero().flatten()) if drop.any() else split


def _left(name: str, split: Split, others: list[Split], images: ImageSet, alike: str) -> Split:
    """Return `without`; where nothing is left, say so, or what the images are like instead."""
    left = without(split, others)
    if len(split) and not len(left):
        _check_pixels(images)
        raise UserError(
            f"protocol {name}: each of the {len(split)} {alike}, and these are dropped; remove the duplicates from the "
            "image set"
        )
    return left


def _check_pixels(images: ImageSet) -> None:
    """Refuse images that are all the same."""
    first = images.train.images[:1]
    if all(torch.equal(part.images, first.expand_as(part.images)) for part in (images.train, images.test)):
        count = len(images.train) + len(images.test)
        raise UserError(
            f"all {count} images of {images.name} have the same pixels, so an attacker has nothing to reconstruct; "
            "look at the files: are they blank, or drawn in white on a transparent ground, which is shown on white?"
        )


def contained(images: Tensor, others: Tensor) -> Tensor:
    """Return which of ``images`` (uint8, (N, C, S, S)) have exactly the pixels of one of ``others``: bool (N,).

    Args:
        images: uint8, (N, C, S, S).
        others: uint8, (M, C, S, S).
    """
    if images.shape[1:] != others.shape[1:]:
        return torch.zeros(len(images), dtype=torch.bool)
    ours, theirs = fingerprints(images), fingerprints(others)
    mask = torch.isin(ours, theirs)
    # Equal fingerprints are only likely to mean equal pixels: compare those few for real.
    rows = {_pixels(image) for image in others[torch.isin(theirs, ours[mask])]}
    for index in mask.nonzero().flatten().tolist():
        mask[index] = _pixels(images[index]) in rows
    return mask


def fingerprints(images: Tensor) -> Tensor:
    """Return, for every image, a weighted sum of its bytes, modulo 2^64; equal for equal pixels: int64 (N,).

    Args:
        images: uint8, (N, C, S, S).
    """
    rows = images.cpu().contiguous().flatten(1)
    if rows.shape[1] % 8 == 0:
        rows = rows.view(torch.int64)  # eight pixels at a time
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=generator) | 1
    return torch.cat([(part.long() * weights).sum(1) for part in rows.split(1024)])


def _pixels(image: Tensor) -> bytes:
    return image.cpu().contiguous().numpy().tobytes()
