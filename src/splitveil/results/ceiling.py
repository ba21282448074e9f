"""Where each training of a grid lies between the undefended wire and the ceiling (`statistics.ceiling`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..evaluation.floors import CLASS_MEAN
from ..statistics.ceiling import share_intervals
from ..statistics.evidence import combined
from ..statistics.intervals import Interval
from ..storage import reading
from .attack_files import AttackFiles
from .groups import TRAININGS, ComparisonGroup, Configuration, configuration_key, same
from .record_types import NOISE, Record
from .records import AGAIN

SHARE = "to class mean %"
"""Title of a column of shares of the ceiling."""


@dataclass(frozen=True)
class Share:
    """Where the best attacker's error on one training lies between the undefended wire and the ceiling.

    Attributes:
        reference: what stands for the undefended wire.
        value: share with its interval over the images; None where reference and ceiling are not apart.
    """

    reference: Configuration
    value: Interval | None


Shares = Mapping[str, Share]
"""By the id of a record; those are lacking for which no undefended error or no ceiling is known."""


def shares(folder: str | Path, group: ComparisonGroup, files: AttackFiles | None = None) -> Shares:
    """Return the share of each training of a group, paired with the undefended training of the same seed and images.

    Undefended is, of the configurations with the same other settings, the one without a defense; where there is none,
    the weakest noise alone stands for it, which `name_of` says.

    Args:
        folder: the bench folder, which holds the errors per image.
        group: the configurations that may be compared.
        files: of the attacks in the folder, where some were read already.

    Raises:
        UserError: errors per image are missing or damaged, or of other attacks than the record.
    """
    references, files = _references(group), files or AttackFiles(folder)
    work: dict[int, list[tuple[Record, Configuration, list[np.ndarray]]]] = defaultdict(list)
    for record in group.records:
        reference = references.get(_others(record))
        undefended = reference.by_seed.get(record.seed) if reference else None
        label = next((label for label, one in record.attacks.items() if one.class_mean_mse is not None), None)
        there = undefended and files.kept(record) and files.kept(undefended)
        if reference and undefended and there and label and _same_images(record, undefended):
            file = files.cells / record.id / "attacks" / label / "per_image.csv"
            ceiling = reading.read_columns(file, {CLASS_MEAN}, AGAIN)[CLASS_MEAN]
            work[len(ceiling)].append((record, reference, [files.errors(record), files.errors(undefended), ceiling]))
    found: dict[str, Share] = {}
    for rows in work.values():
        values = share_intervals(*(np.stack(part) for part in zip(*(three for _, _, three in rows), strict=True)))
        found |= {record.id: Share(one, value) for (record, one, _), value in zip(rows, values, strict=True)}
    return found


def of_configuration(one: Configuration, found: Shares) -> Interval | None:
    """Return the mean share over the seeds of a configuration, with Student's interval; of one seed its own.

    Args:
        one: the configuration.
        found: as of `shares`.

    Returns:
        None where the share of one of its trainings is not known.
    """
    parts = [found[record.id].value for record in one.records if record.id in found]
    known = [part for part in parts if part is not None]
    shared = same(one.records, "images_digest")
    return combined(known, shared=shared) if known and len(known) == len(one.records) else None


def name_of(found: Sequence[Share]) -> str:
    """Return in words what stands for the undefended wire: "no defense", or the weakest noise alone.

    Args:
        found: of one group.
    """
    names = dict.fromkeys(
        "no defense" if one.sigma == 0 else f"the weakest noise alone, {one.defense}"
        for one in (share.reference for share in found)
    )
    return " or ".join(names)


def about(found: Shares) -> str:
    """Return a sentence on the column `SHARE` for the end of a caption; empty where no share is known.

    Args:
        found: as of `shares`.
    """
    if not found:
        return ""
    return (
        f" To class mean: where the best attacker's error lies between {name_of(list(found.values()))} (0 %) and the "
        "mean image of the true class (100 %)."
    )


def text(value: Interval | None) -> str:
    """Return a share of the ceiling in percent, without the sign; a dash where it is not known.

    Args:
        value: share of the ceiling.

    >>> text(Interval(0.251, -0.2, 0.31)), text(None)
    ('25 [−20, 31]', '–')
    """
    return "–" if value is None else format(value.scaled(100), "z.0f").replace("-", "−")


def way(before: Interval | None, after: Interval | None) -> str:
    """Return two shares of the ceiling as one text, without their intervals.

    Args:
        before: share of the ceiling.
        after: another one.

    >>> way(Interval(-0.001, -0.1, 0.1), Interval(0.25, 0.2, 0.3)), way(None, None)
    ('0 → 25', '–')
    """
    if before is None or after is None:
        return "–"
    return " → ".join(f"{100 * value.mean:z.0f}".replace("-", "−") for value in (before, after))


def _references(group: ComparisonGroup) -> dict[str, Configuration]:
    """Return the configuration without a defense, or with the least noise alone, by all other settings."""
    found: dict[str, Configuration] = {}
    for one in sorted(group.configurations, key=lambda one: one.sigma):
        if one.family in ("none", NOISE) and not one.cem:
            found.setdefault(_others(one.records[0]), one)
    return found


def _others(record: Record) -> str:
    return configuration_key(record, (*TRAININGS, "defense"))


def _same_images(one: Record, other: Record) -> bool:
    return one.images_digest is not None and one.images_digest == other.images_digest
