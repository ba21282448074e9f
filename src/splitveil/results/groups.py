"""What a set of records says: which may be compared, which trade-offs are best, how sure a mean over seeds is.

A *setup* is a configuration with all its training seeds. An *arena* holds the setups that may be compared: the same
image set, protocol, attacks and numbers of images.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..statistics.evidence import combined
from ..statistics.intervals import Interval
from ..statistics.noise_curve import resampled
from .records import attacker

RESAMPLES = 2000  # as metrics.bootstrap_ci
SILENT = ("seed", "root", "devices", "defense")
"""Settings that do not tell two setups apart, or that are shown in their own way."""
CEM, NOISE = "cem", "gaussian"


@dataclass(frozen=True)
class Setup:
    """One configuration, trained with several seeds.

    Attributes:
        records: one for each seed.
        name: the stack and whatever else differs between the setups of a grid.
        family: the defenses beside noise and CEM, for colors: "noise", "dropout", "adversarial + patrol", ...
        stack: the defenses without CEM, as text.
        cem: the CEM of the stack as text; empty without, and where its weight is 0.
        sigma: standard deviation of the Gaussian noise, 0 without.
        accuracy, mse: means over the seeds; the interval is Student's over the seeds, and for one seed that of the
            images.
    """

    records: tuple[dict[str, Any], ...]
    name: str
    family: str
    stack: str
    cem: str
    sigma: float
    accuracy: Interval
    mse: Interval


@dataclass(frozen=True)
class Arena:
    """Setups that may be compared with each other.

    Attributes:
        front: places in ``setups`` of those that no other beats in accuracy and error, by rising accuracy.
        baseline_mse: error of always answering the mean image; a mean over the records.
    """

    name: str
    setups: tuple[Setup, ...]
    front: tuple[int, ...]
    baseline_mse: float

    def records(self) -> list[dict[str, Any]]:
        """All records, setup by setup."""
        return [record for setup in self.setups for record in setup.records]


def arenas(records: Sequence[dict[str, Any]]) -> list[Arena]:
    """Sort records into arenas, and each arena into setups with its Pareto front."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[_arena_key(record)].append(record)
    return [_arena(name, group) for name, group in zip(_arena_names(groups), groups.values(), strict=True)]


def noise_alone(arena: Arena) -> dict[str, dict[float, Setup]]:
    """Noise alone by its strength, rising, for each combination of all other settings that vary.

    Of each strength the first setup is taken: a CEM of weight 0 changes nothing.
    """
    found: dict[str, dict[float, Setup]] = defaultdict(dict)
    for setup in sorted(arena.setups, key=lambda one: one.sigma):
        if setup.family == NOISE and not setup.cem:
            found[setup.stack.partition(" · ")[2]].setdefault(setup.sigma, setup)
    return dict(found)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points that no other one reaches in both coordinates and passes in one; by the first coordinate.

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
    """`metrics.bootstrap_ci` of each row of (rows, images), with the same resampled images for all rows.

    >>> paired_intervals(np.array([[1.0, 1.0], [2.0, 2.0]]))[1]
    Interval(mean=2.0, lo=2.0, hi=2.0, level=0.95)
    """
    values = torch.as_tensor(differences, dtype=torch.float64)
    means = resampled(values, RESAMPLES, torch.Generator().manual_seed(0))
    tails = torch.tensor([0.025, 0.975], dtype=torch.float64)
    ends = means.quantile(tails, dim=0).T.tolist()
    return [Interval(row.mean().item(), low, high) for row, (low, high) in zip(values, ends, strict=True)]


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation (Spearman 1904); NaN where one of the two is constant.

    >>> spearman([1, 2, 3, 4], [10, 20, 40, 30])
    0.8
    """
    one, other = _ranks(x), _ranks(y)
    if 0 in (np.std(one), np.std(other)):
        return math.nan
    return round(float(np.corrcoef(one, other)[0, 1]), 10)


def _ranks(values: Sequence[float]) -> np.ndarray:
    """From 1; equal values share the mean of their ranks."""
    _, place, count = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def interval(value: dict[str, Any]) -> Interval:
    """A record's mean and interval as an `Interval`."""
    return Interval(value["mean"], *value["ci95"])


def strongest(record: dict[str, Any]) -> str:
    """Label of the attack with the lowest mean error."""
    return min(record["attacks"], key=lambda label: record["attacks"][label]["mse"]["mean"])


def _arena_key(record: dict[str, Any]) -> str:
    attacks = {label: attack["attack"] for label, attack in record["attacks"].items()}
    parts = [record["config"]["data"], record["protocol"], record["attacker_size"], record["attacked"], attacks]
    return json.dumps([*parts, record["config"].get("test_size")], sort_keys=True)


def _arena_names(groups: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The image set and what else tells the arenas apart, such as the attacks; if nothing that has a name, a number."""
    parts = [
        (
            record["config"]["data"],
            record["protocol"],
            *(
                f"{what} {record[key] or 'all'}"
                for key, what in (("attacker_size", "attacker"), ("attacked", "attacked"))
            ),
            f"by {' and '.join(record['attacks'])}",
        )
        for record in (group[0] for group in groups.values())
    ]
    kept = [place for place in range(len(parts[0])) if place == 0 or len({part[place] for part in parts}) > 1]
    names = [", ".join(part[place] for place in kept) for part in parts]
    return [f"{name} ({names[:i].count(name) + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _arena(name: str, records: list[dict[str, Any]]) -> Arena:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in sorted(records, key=lambda r: (r["config"]["seed"], r["id"])):
        groups[_setup_key(record)].append(record)
    varying = _varying(records)
    setups = sorted((_setup(group, varying) for group in groups.values()), key=_order)
    front = pareto([(setup.accuracy.mean, setup.mse.mean) for setup in setups])
    baselines = [attack["baseline_mse"] for record in records for attack in record["attacks"].values()]
    return Arena(name, tuple(setups), tuple(front), float(np.mean(baselines)))


def _order(setup: Setup) -> tuple[Any, ...]:
    weight = cem_weight(setup.records[0]["config"])
    return (setup.family != NOISE, setup.family, setup.stack, weight, setup.name)


def _setup_key(record: dict[str, Any]) -> str:
    settings = {key: value for key, value in record["config"].items() if key not in ("seed", "root", "devices")}
    return json.dumps(settings, sort_keys=True)


def _varying(records: list[dict[str, Any]]) -> list[str]:
    """Settings, beside the defenses and the seed, that differ between the records."""
    keys = dict.fromkeys(key for record in records for key in record["config"])
    values = {key: {json.dumps(r["config"].get(key), sort_keys=True) for r in records} for key in keys}
    return [key for key in keys if key not in SILENT and len(values[key]) > 1]


def _setup(records: list[dict[str, Any]], varying: list[str]) -> Setup:
    first = records[0]
    config = first["config"]
    names = [next(iter(spec)) for spec in config["defense"]]
    texts = dict(zip(names, first["defense"], strict=True))
    cem = texts.get(CEM, "") if cem_weight(config) > 0 else ""
    stack = " + ".join(text for name, text in zip(names, first["defense"], strict=True) if name != CEM) or "none"
    others = " + ".join(sorted({name for name in names if name not in (CEM, NOISE)}))
    more = [f"{key} {config.get(key)}" for key in varying]
    accuracy = [interval(record["accuracy"]) for record in records]
    error = [interval(attacker(record)["mse"]) for record in records]
    return Setup(
        records=tuple(records),
        name=" · ".join([f"{stack} + {cem}" if cem else stack, *more]),
        family=others or (NOISE if NOISE in names else "none"),
        stack=" · ".join([stack, *more]),
        cem=cem,
        sigma=noise(config),
        accuracy=combined(accuracy, 0, 1),
        mse=combined(error, 0),
    )


def cem_weight(config: dict[str, Any]) -> float:
    """λ of a configuration's CEM; 0 without."""
    return next((float(spec[CEM]["weight"]) for spec in config["defense"] if CEM in spec), 0.0)


def noise(config: dict[str, Any]) -> float:
    """σ of a configuration's Gaussian noise, of several together; 0 without."""
    return math.sqrt(sum(float(spec[NOISE]["sigma"]) ** 2 for spec in config["defense"] if NOISE in spec))
