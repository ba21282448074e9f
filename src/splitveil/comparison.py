"""Two runs side by side: differences with intervals, on the same images wherever that can be shown."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import reading
from .errors import UserError
from .metrics import Interval, binomial_ci, bootstrap_ci, unpaired_difference
from .runs import Run

PRIVACY = {"mse": 1, "psnr": -1, "ssim": -1, "ssim_zero": -1, "lpips": 1, "reidentified": -1}
"""Metrics of a reconstruction: 1 where a higher value is more private, -1 where a lower one is."""
TOOLS = {"lpips": "sha256", "reidentified": "fingerprint"}
"""Metrics that need a tool, and what tells two of its kind apart (in a summary's ``about_METRIC``)."""
SHARES = frozenset({"accuracy", "reidentified"})
"""Metrics of which every image has 0 or 1."""
REMEDY = "delete it and make it again"
BASIC = ("mse", "psnr", "ssim")
"""Metrics of every attack, of which a record has the worst case."""
WORST = "worst case"
NETWORK = "network"


@dataclass(frozen=True)
class Row:
    """One metric of both, and B − A with its 95 % interval.

    Attributes:
        what: an attack's label, ``worst case`` (image by image, over the attacks that both have) or ``network``.
        paired: whether the difference was taken image by image.

    >>> zero, tenth = Interval(0, 0, 0), Interval(0.1, 0.05, 0.15)
    >>> [Row("decoder", metric, zero, tenth, tenth, True).verdict for metric in ("mse", "ssim")]
    ['higher: more private', 'higher: less private']
    """

    what: str
    metric: str
    a: Interval
    b: Interval
    difference: Interval
    paired: bool

    @property
    def verdict(self) -> str:
        """In words; a difference whose interval holds zero is none."""
        if self.difference.lo <= 0 <= self.difference.hi:
            return "no difference shown"
        up = self.difference.mean > 0
        if self.metric == "accuracy":
            return "higher: more accurate" if up else "lower: less accurate"
        private = up == (PRIVACY[self.metric] > 0)
        return f"{'higher' if up else 'lower'}: {'more' if private else 'less'} private"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = {key: getattr(self, key).as_dict() for key in ("a", "b", "difference")}
        return {"what": self.what, "metric": self.metric, **values, "paired": self.paired, "verdict": self.verdict}


@dataclass(frozen=True)
class Comparison:
    """Rows, what had to be left out or taken unpaired and why, and what makes the attacks' figures doubtful."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"rows": [row.as_dict() for row in self.rows], "notes": list(self.notes), "flags": list(self.flags)}


def compare_runs(a: Path, b: Path) -> Comparison:
    """Every attack that was made on both in the same way and on the same images, their worst case, and the accuracy.

    Raises:
        UserError: a run that is not finished, other image sets, no attack that both have, or none that can be compared.
    """
    opened = [Run.open(path) for path in (a, b)]
    sets = [run.settings.data.partition(":")[0] for run in opened]  # a folder may have moved: the images tell
    if sets[0] != sets[1]:
        raise UserError(f"{a} was trained on {sets[0]} and {b} on {sets[1]}; compare runs of the same image set")
    one, other = (Side.of(path) for path in (a, b))
    pending, refused, notes = attack_rows(one, other)
    if not pending:
        raise UserError(_why_nothing(one, other, refused, seeds=[run.settings.seed for run in opened]))
    accuracy, unpaired, said = accuracy_row(one, other)
    rows = [row.row(map(bootstrap_ci, row.samples())) for row in [*accuracy, *pending]]
    labels = dict.fromkeys(row.what for row in pending)
    flags = [
        f"{side.path}: {label}: {flag}"
        for side in (one, other)
        for label in labels
        if label in side.attacks
        for flag in side.attacks[label].get("flags", ())
    ]
    notes = [*(f"{label} left out: {why}" for label, why in refused.items()), *notes, *said]
    return Comparison((*unpaired, *rows), tuple(notes), tuple(flags))


@dataclass(frozen=True)
class Pending:
    """A row whose bootstrap intervals are still to be drawn; ``change``: B − A per image, (N,).

    ``a`` and ``b`` are intervals where these are known, else values per image.
    """

    what: str
    metric: str
    a: Interval | Tensor
    b: Interval | Tensor
    change: Tensor

    def samples(self) -> list[Tensor]:
        """All values per image whose mean needs an interval."""
        return [self.change, *(side for side in (self.a, self.b) if isinstance(side, Tensor))]

    def row(self, drawn: Iterator[Interval]) -> Row:
        """The row, with the intervals of `samples` taken from ``drawn``."""
        difference = next(drawn)
        a, b = (next(drawn) if isinstance(side, Tensor) else side for side in (self.a, self.b))
        return Row(self.what, self.metric, a, b, difference, True)


@dataclass(frozen=True)
class Side:
    """What a run folder left, and what to call it: its summary, and those of its attacks by label."""

    name: str
    path: Path
    summary: dict[str, Any]
    attacks: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, path: Path, name: str | None = None) -> Side:
        left = sorted(path.glob("attacks/*/summary.json"))
        attacks = {file.parent.name: reading.read_json(file, reading.ATTACK, REMEDY) for file in left}
        return cls(name or str(path), path, reading.read_json(path / "summary.json", reading.RUN, REMEDY), attacks)


def attack_rows(one: Side, other: Side) -> tuple[list[Pending], dict[str, str], list[str]]:
    """Rows of the attacks that can be compared and of their worst case; the others with the reason; notes."""
    refused: dict[str, str] = {}
    pending: list[Pending] = []
    values: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    notes: dict[str, None] = {}
    for label, first in one.attacks.items():
        if label not in other.attacks:
            continue
        second = other.attacks[label]
        if why := _obstacle(one, other, label):
            refused[label] = why
            continue
        pair = _per_image(one, label), _per_image(other, label)
        for metric in [name for name in TOOLS if name in pair[0] and name in pair[1]]:
            if not _same_tool(metric, first, second):
                notes[f"{metric} left out: it was not measured with the same tool, or the summaries do not say"] = None
                del pair[0][metric], pair[1][metric]
        values.append(pair)
        pending += [
            Pending(label, name, read_interval(first[name]), read_interval(second[name]), pair[1][name] - pair[0][name])
            for name in PRIVACY
            if name in pair[0] and name in pair[1]
        ]
    return pending + _worst(values), refused, list(notes)


def _worst(values: Sequence[tuple[dict[str, Tensor], dict[str, Tensor]]]) -> list[Pending]:
    """The strongest attack of each side on every image, by each metric that all attacks have."""
    rows = []
    for name, sign in PRIVACY.items():
        if values and all(name in side for pair in values for side in pair):
            a, b = (sign * torch.stack([sign * pair[i][name] for pair in values]).min(0).values for i in (0, 1))
            rows.append(Pending(WORST, name, _side(name, a), _side(name, b), b - a))
    return rows


def _obstacle(one: Side, other: Side, label: str) -> str | None:
    """Why the figures of an attack cannot be held against each other; None where they can."""
    first, second = one.attacks[label], other.attacks[label]
    if first["attack"] != second["attack"]:
        return f"other settings ({_differing(first['attack'], second['attack'])})"
    terms = {
        "protocol": [found["protocol"] for found in (first, second)],
        "wires observed": [found.get("observed", 1) for found in (first, second)],
        "images to learn from": [found["images"]["attacker"] for found in (first, second)],
        "budget in steps": [found.get("budget", {}).get("steps") for found in (first, second)],
        "budget in seconds": [found.get("budget", {}).get("seconds") for found in (first, second)],
    }
    for name, (ours, theirs) in terms.items():
        if ours != theirs:
            return f"{name}: {ours} and {theirs}"
    silent = [side.name for side, found in ((one, first), (other, second)) if not found.get("images_digest")]
    if silent:
        return f"it is not known which images were attacked on {' and '.join(silent)}; run the attack again"
    return "other images were attacked" if first["images_digest"] != second["images_digest"] else None


def _differing(first: dict[str, Any], second: dict[str, Any]) -> str:
    ((name, ours),), ((other, theirs),) = first.items(), second.items()
    if name != other:
        return f"{name} and {other}"
    keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    return ", ".join(f"{key} {ours.get(key)} and {theirs.get(key)}" for key in keys)


def _why_nothing(one: Side, other: Side, refused: dict[str, str], seeds: Sequence[int]) -> str:
    for side in (one, other):
        if not side.attacks:
            return (
                f"{side.path} has no finished attack; make one: "
                f"splitveil attack {shlex.quote(str(side.path))} --attack decoder"
            )
    if not refused:
        names = [", ".join(side.attacks) for side in (one, other)]
        return f"{one.path} ({names[0]}) and {other.path} ({names[1]}) share no attack; make the same one on both"
    alike = {why: [label for label in refused if refused[label] == why] for why in refused.values()}
    reasons = "; ".join(f"{', '.join(labels)}: {why}" for why, labels in alike.items())
    hint = ""
    if "other images were attacked" in refused.values() and seeds[0] != seeds[1]:
        hint = (
            f"; which ones depends on the run's seed ({seeds[0]} and {seeds[1]}): --protocol train_time without "
            "--attacked takes the whole test set"
        )
    return f"{one.path} and {other.path} cannot be compared: {reasons}{hint}"


def _same_tool(metric: str, first: dict[str, Any], second: dict[str, Any]) -> bool:
    known = [found.get(f"about_{metric}", {}).get(TOOLS[metric]) for found in (first, second)]
    return known[0] is not None and known[0] == known[1]


def accuracy_row(one: Side, other: Side) -> tuple[list[Pending], list[Row], list[str]]:
    """The accuracy: image by image where both kept their answers on the same test images, else unpaired; notes."""
    for side in (one, other):
        if not side.summary["accuracy"]:
            return [], [], [f"accuracy left out: that of {side.name} was not measured"]
    a, b = (read_interval(side.summary["accuracy"]) for side in (one, other))
    if why := _why_unpaired(one, other):
        row = Row(NETWORK, "accuracy", a, b, unpaired_difference(b, a), False)
        return [], [row], [f"accuracy compared unpaired (Newcombe 1998, from Wilson intervals): {why}"]
    first, second = (_hits(side) for side in (one, other))
    return [Pending(NETWORK, "accuracy", a, b, second - first)], [], []


def _why_unpaired(one: Side, other: Side) -> str | None:
    for side in (one, other):
        if not (side.path / "test.csv").is_file() or not side.summary.get("test_digest"):
            return f"{side.name} did not keep its answers (test.csv)"
    same = one.summary["test_digest"] == other.summary["test_digest"]
    return None if same else "the test images are not the same"


def _per_image(side: Side, label: str) -> dict[str, Tensor]:
    """Each metric of an attack per image, float64 (N,)."""
    file, summary = side.path / "attacks" / label / "per_image.csv", side.attacks[label]
    table = reading.read_columns(file, set(BASIC), "run the attack again", summary["images"]["attacked"])
    return {name: torch.from_numpy(table[name]) for name in PRIVACY if name in table and name in summary}


def _hits(side: Side) -> Tensor:
    file, remedy = side.path / "test.csv", "delete it, and the accuracy is compared unpaired"
    table = reading.read_columns(file, {"label", "predicted"}, remedy, side.summary["images"]["test"])
    return torch.from_numpy(table["label"] == table["predicted"]).double()


def _side(metric: str, values: Tensor) -> Interval | Tensor:
    return binomial_ci(int(values.sum()), len(values)) if metric in SHARES else values


def read_interval(value: dict[str, Any]) -> Interval:
    return Interval(value["mean"], *value["ci95"])
