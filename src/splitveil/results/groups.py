"""What a set of records says: which may be compared, which trade-offs are best, how sure a mean over seeds is.

A *configuration* is a set of settings with all its training seeds. A *comparison group* holds the configurations that
may be compared: the same image set, protocol, attacks and numbers of images.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ..statistics.evidence import combined
from ..statistics.intervals import Interval, expansion
from ..statistics.noise_curve import RESAMPLES, resampled
from .record_types import CEM, NOISE, Record, cem_weight, noise_sigma

TRAININGS = ("seed", "root", "devices")
"""Settings that tell trainings of one configuration apart, or only where they were made."""


@dataclass(frozen=True)
class Configuration:
    """One set of settings, trained with several seeds.

    Attributes:
        records: one for each seed.
        name: the stack and whatever else differs between the configurations of a grid.
        family: the defenses beside noise and CEM, for colors: "noise", "dropout", "adversarial + patrol", ...
        defense: the defenses without CEM, as text.
        others: what else differs between the configurations of a grid, as text.
        cem: the CEM of the stack as text; empty without, and where its weight is 0.
        sigma: standard deviation of the Gaussian noise, 0 without.
        accuracy, mse: means over the seeds; the interval is Student's over the seeds, and for one seed that of the
            images.
    """

    records: tuple[Record, ...]
    name: str
    family: str
    defense: str
    others: str
    cem: str
    sigma: float
    accuracy: Interval
    mse: Interval

    @cached_property
    def by_seed(self) -> dict[int, Record]:
        """The records by their seed."""
        return {record.seed: record for record in self.records}

    @property
    def stack(self) -> str:
        """The defenses without CEM, and what else differs."""
        return " · ".join(filter(None, [self.defense, self.others]))

    @classmethod
    def of(cls, records: Sequence[Record], varying: Sequence[str]) -> Configuration:
        """Gather the trainings of one configuration; ``varying`` are settings that others of its group have else."""
        first = records[0]
        texts = [(name, text) for (name, _), text in zip(first.stack, first.defense, strict=True)]
        cem = dict(texts).get(CEM, "") if cem_weight(first.config) > 0 else ""
        defense = " + ".join(text for name, text in texts if name != CEM) or "none"
        beside = " + ".join(sorted({name for name, _ in texts} - {CEM, NOISE}))
        others = " · ".join(f"{key} {first.config.get(key)}" for key in varying)
        return cls(
            records=tuple(records),
            name=" · ".join(filter(None, [f"{defense} + {cem}" if cem else defense, others])),
            family=beside or (NOISE if NOISE in dict(texts) else "none"),
            defense=defense,
            others=others,
            cem=cem,
            sigma=noise_sigma(first.config),
            accuracy=combined([record.accuracy for record in records], 0, 1, shared=same(records, "test_digest")),
            mse=combined([record.attacker.mse for record in records], 0, shared=same(records, "images_digest")),
        )


def same(records: Sequence[Record], digest: str) -> bool:
    """Return whether records name the same images: "images_digest" those attacked, "test_digest" those classified."""
    first = getattr(records[0], digest)
    return bool(first) and all(getattr(record, digest) == first for record in records)


@dataclass(frozen=True)
class ComparisonGroup:
    """Configurations that may be compared with each other.

    Attributes:
        front: places in ``configurations`` of those that no other beats in accuracy and error, by rising accuracy.
        baseline_mse: error of always answering the mean image; a mean over the records.
        class_mean_mse: error of answering the mean image of the true class; a mean over the records that have it.
    """

    name: str
    configurations: tuple[Configuration, ...]
    front: tuple[int, ...]
    baseline_mse: float
    class_mean_mse: float | None = None

    @property
    def best(self) -> list[Configuration]:
        """The configurations on the front, by rising accuracy."""
        return [self.configurations[place] for place in self.front]

    @property
    def records(self) -> list[Record]:
        """All records, configuration by configuration."""
        return [record for configuration in self.configurations for record in configuration.records]

    @property
    def families(self) -> list[str]:
        """The families of defenses, noise first."""
        names = dict.fromkeys(configuration.family for configuration in self.configurations)
        return sorted(names, key=lambda name: (name != NOISE, name))

    def noise_alone(self) -> dict[str, list[Configuration]]:
        """Noise alone by its strength, rising, for each combination of all other settings that vary.

        Of each strength the first configuration is taken: a CEM of weight 0 changes nothing. Noise of 0 has no place on
        the curve, whose strengths are on a logarithmic scale.
        """
        found: dict[str, dict[float, Configuration]] = defaultdict(dict)
        for one in sorted(self.configurations, key=lambda one: one.sigma):
            if one.family == NOISE and not one.cem and one.sigma > 0:
                found[one.others].setdefault(one.sigma, one)
        return {others: list(line.values()) for others, line in found.items()}


def comparison_groups(records: Iterable[Record]) -> list[ComparisonGroup]:
    """Sort records into comparison groups, and each of them into configurations with its Pareto front."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        attacks = {label: attack.attack for label, attack in record.attacks.items()}
        parts = [record.data, record.protocol, record.attacker_size, record.attacked, attacks]
        groups[json.dumps([*parts, record.config.get("test_size")], sort_keys=True)].append(record)
    names = _names([group[0] for group in groups.values()])
    return [_group(name, group) for name, group in zip(names, groups.values(), strict=True)]


def configuration_key(record: Record, without: Sequence[str] = TRAININGS) -> str:
    """Return all settings but those that tell trainings of one configuration apart, as a key."""
    return json.dumps({key: value for key, value in record.config.items() if key not in without}, sort_keys=True)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the places of the points that no other one reaches in both coordinates and passes in one.

    They are sorted by the first coordinate.

    >>> pareto([(0.3, 0.1), (0.2, 0.2), (0.2, 0.1), (0.1, 0.3)])
    [3, 1, 0]
    """
    best, front = -math.inf, []
    for place in sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1])):
        if points[place][1] > best:
            best = points[place][1]
            front.append(place)
    return front[::-1]


def paired_intervals(differences: np.ndarray) -> list[Interval]:
    """Return `bootstrap_ci` of each row of (rows, images), with the same resampled images for all rows.

    >>> paired_intervals(np.array([[1.0, 1.0], [2.0, 2.0]]))[1]
    Interval(mean=2.0, lo=2.0, hi=2.0, level=0.95)
    """
    values = torch.as_tensor(differences, dtype=torch.float64)
    means = resampled(values, RESAMPLES, torch.Generator().manual_seed(0))
    tails = torch.tensor([0.025, 0.975], dtype=torch.float64)
    middle = values.mean(1)
    ends = middle + expansion(values.shape[1]) * (means.quantile(tails, dim=0) - middle)
    return [Interval(*found) for found in zip(middle.tolist(), *ends.tolist(), strict=True)]


def _names(firsts: Sequence[Record]) -> list[str]:
    """Return the image set and what else tells the groups apart, such as the attacks, or else a number."""
    parts = [
        (
            record.data,
            record.protocol,
            f"attacker {record.attacker_size or 'all'}",
            f"attacked {record.attacked or 'all'}",
            f"by {' and '.join(record.attacks)}",
        )
        for record in firsts
    ]
    kept = [place for place in range(5) if place == 0 or len({part[place] for part in parts}) > 1]
    names = [", ".join(part[place] for place in kept) for part in parts]
    return [f"{name} ({names[:i].count(name) + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _group(name: str, records: Sequence[Record]) -> ComparisonGroup:
    trainings: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.seed, record.id)):
        trainings[configuration_key(record)].append(record)
    keys = dict.fromkeys(key for record in records for key in record.config if key not in (*TRAININGS, "defense"))
    values = {key: {json.dumps(record.config.get(key), sort_keys=True) for record in records} for key in keys}
    varying = [key for key in keys if len(values[key]) > 1]
    found = sorted((Configuration.of(group, varying) for group in trainings.values()), key=_order)
    front = pareto([(one.accuracy.mean, one.mse.mean) for one in found])
    baselines = [attack.baseline_mse for record in records for attack in record.attacks.values()]
    ceilings = [record.class_mean_mse for record in records if record.class_mean_mse is not None]
    ceiling = float(np.mean(ceilings)) if ceilings else None
    return ComparisonGroup(name, tuple(found), tuple(front), float(np.mean(baselines)), ceiling)


def _order(one: Configuration) -> tuple[bool, str, str, float, str]:
    return one.family != NOISE, one.family, one.stack, cem_weight(one.records[0].config), one.name
