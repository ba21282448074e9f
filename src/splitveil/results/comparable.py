"""What of two run folders may be compared, and what may not and why: the same attack, images and tools."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Spec, TrainConfig, renewed
from ..evaluation.floors import CLASS_MEAN
from ..evaluation.scores import PRIVACY, SHARES, read_values
from ..evaluation.suites import worst_case
from ..registry import Registry
from ..statistics.best_attacker import best_attacker
from ..statistics.intervals import Interval, binomial_ci, unpaired_difference
from ..storage import reading
from .comparison_rows import ACCURACIES, BEST, NETWORK, WORST, Pending, Way
from .records import METRICS, judged, short

TOOLS = {"lpips": "sha256", "reidentified": "fingerprint"}
"""Metrics that need a tool, and what tells two of its kind apart (in a summary's ``about_METRIC``)."""
OTHER_SETTINGS = "other settings"
OTHER_IMAGES = "other images were attacked"
REMEDY = "delete it and make it again"
Tables = Mapping[str, Mapping[str, Tensor]]
"""Attack -> metric -> value of each image."""
Taken = Callable[[dict[str, Tensor], str], Tensor]
"""From attack -> value of each image, and the metric, to one value for each image."""


@dataclass(frozen=True)
class Side:
    """What a run folder left, and what to call it: its summary, and those of its attacks by label."""

    name: str
    path: Path
    summary: dict[str, Any]
    attacks: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, path: Path, name: str | None = None) -> Side:
        """Return what a run folder holds, called ``name`` or by its path; attacks of before as they would be now."""
        left = sorted(path.glob("attacks/*/summary.json"))
        attacks = {file.parent.name: reading.read_json(file, reading.ATTACK, REMEDY) for file in left}
        attacks = {label: found | {"attack": renewed(found["attack"], "attacks")} for label, found in attacks.items()}
        return cls(name or str(path), path, reading.read_json(path / "summary.json", reading.RUN, REMEDY), attacks)


def attack_rows(one: Side, other: Side) -> tuple[list[Pending], dict[str, str], list[str]]:
    """Rows of the attacks that can be compared and of their worst case; the others with the reason; notes."""
    refused: dict[str, str] = {}
    pending: list[Pending] = []
    values: tuple[dict[str, dict[str, Tensor]], ...] = ({}, {})
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
        values[0][label], values[1][label] = pair
        pending += [
            Pending(
                label,
                name,
                Interval.from_dict(first[name]),
                Interval.from_dict(second[name]),
                pair[1][name] - pair[0][name],
                first["images_digest"],
                _hits_of(name, pair[0][name], pair[1][name]),
                _on_the_way(name, pair[0][name], pair[1][name], *pair),
            )
            for name in PRIVACY
            if name in pair[0] and name in pair[1]
        ]
    if not _on_the_same_images(one, values[0]):  # `best_rows` says so
        return pending, refused, list(notes)
    worst = _together(WORST, values[0], values[1], worst_case, pending[0].images if pending else None)
    return [*pending, *worst], refused, list(notes)


def _on_the_same_images(side: Side, labels: Iterable[str]) -> bool:
    """Return whether attacks were made on the same images; only then there is a best one of each image."""
    return len({side.attacks[label]["images_digest"] for label in labels}) <= 1


def _together(
    what: str,
    one: Tables,
    other: Tables,
    taken: Taken,
    images: str | None,
    also: Taken | None = None,
) -> list[Pending]:
    """Return rows of what is taken of several attacks on each image, by each metric that all attacks have.

    Args:
        what: name of the rows.
        one: attack -> metric -> value of each image, of the first side.
        other: the same of the other side.
        taken: what is taken from the attacks of a side.
        images: digest of the attacked images.
        also: what is taken from those of the other side, where that is something else.
    """
    rows = []
    for name in PRIVACY:
        if one and all(name in values for values in (*one.values(), *other.values())):
            a = taken({label: values[name] for label, values in one.items()}, name)
            b = (also or taken)({label: values[name] for label, values in other.items()}, name)
            way, hits = _on_the_way(name, a, b, *one.values(), *other.values()), _hits_of(name, a, b)
            rows.append(Pending(what, name, _side(name, a), _side(name, b), b - a, images, hits, way))
    return rows


def _on_the_way(metric: str, a: Tensor, b: Tensor, *tables: Mapping[str, Tensor]) -> Way | None:
    """Return the errors of both sides with that of the mean image of the class, which the images determine."""
    known = [table[CLASS_MEAN] for table in tables if CLASS_MEAN in table]
    return Way(b, a, known[-1]) if metric == "mse" and known else None


def best_rows(one: Side, other: Side, labels: Sequence[str], images: str | None) -> tuple[list[Pending], str]:
    """Return the best attacker who does not know the truth on each side, by each metric that all attacks have.

    See `statistics.best_attacker`.

    Args:
        one: the first side.
        other: the other side.
        labels: attacks that can be compared.
        images: digest of the attacked images.

    Returns:
        The rows, and who is best; no rows where attacks were not judged on held-out images, and why.
    """
    if not labels:
        return [], ""
    if not _on_the_same_images(one, labels):
        counts = ", ".join(f"{label}: {one.attacks[label]['images']['attacked']}" for label in labels)
        return [], (
            f"{BEST} and {WORST} left out: the attacks were made on different images ({counts}); make all of them with "
            "the same --attacked"
        )
    chosen, values, names = [], [], []
    for side in (one, other):
        table = {label: _per_image(side, label) for label in labels}
        if len(labels) == 1:
            names, index = [labels[0]], torch.zeros(len(table[labels[0]]["mse"]), dtype=torch.long)
        elif best := best_attacker(*reversed(judged(side.path, labels, "run the attack again"))):
            names, index = [*names, best.name], torch.tensor([labels.index(name) for name in best.chosen])
        else:
            return [], f"{BEST} left out: not all attacks on {side.name} were judged on held-out images; run them again"
        chosen.append(index)
        values.append(table)
    rows = _together(BEST, values[0], values[1], _at(chosen[0]), images, _at(chosen[1]))
    only = f"{BEST}: {labels[0]}, the only attack that both have"
    return rows, only if len(labels) == 1 else f"{BEST}: {names[0]} on A, {names[1]} on B"


def _at(index: Tensor) -> Taken:
    return lambda table, _: torch.stack(list(table.values())).gather(0, index[None])[0]


def _obstacle(one: Side, other: Side, label: str) -> str | None:
    """Why the figures of an attack cannot be held against each other; None where they can."""
    first, second = one.attacks[label], other.attacks[label]
    if first["attack"] != second["attack"]:
        return f"{OTHER_SETTINGS} ({_differing(first['attack'], second['attack'])})"
    terms = {
        "protocol": [found["protocol"] for found in (first, second)],
        "wires observed": [found.get("observed", 1) for found in (first, second)],
        "images to learn from": [found["images"]["attacker"] for found in (first, second)],
        "budget in steps": [found.get("budget", {}).get("steps") for found in (first, second)],
        "budget in seconds": [found.get("budget", {}).get("seconds") for found in (first, second)],
    }
    for name, (ours, theirs) in terms.items():
        if ours != theirs:
            return f"{name}: {_or_none(ours)} and {_or_none(theirs)}"
    made = [found.get("revision") for found in (first, second)]
    if made[0] != made[1]:
        older = min(zip(made, (one, other), strict=True), key=lambda found: found[0] or [])[1]
        return f"the attack on {older.name} was made by an earlier version of its code; run it again"
    silent = [side.name for side, found in ((one, first), (other, second)) if not found.get("images_digest")]
    if silent:
        return f"it is not known which images were attacked on {' and '.join(silent)}; run the attack again"
    return OTHER_IMAGES if first["images_digest"] != second["images_digest"] else None


def _or_none(value: Any) -> Any:
    return "none" if value is None else value


def _differing(first: dict[str, Any], second: dict[str, Any]) -> str:
    ((name, ours),), ((other, theirs),) = first.items(), second.items()
    if name != other:
        return f"{name} and {other}"
    keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    return ", ".join(f"{key} {ours.get(key)} and {theirs.get(key)}" for key in keys)


def why_nothing(one: Side, other: Side, refused: dict[str, str], settings: Sequence[TrainConfig]) -> str:
    """Why two runs of these settings have no attack to compare, and what to do."""
    for side, beside in ((one, other), (other, one)):
        if not side.attacks:
            return (
                f"{side.path} has no finished attack; make one: "
                f"splitveil attack {shlex.quote(str(side.path))} --attack {shlex.quote(_like(beside))}"
            )
    if not refused:
        names = [", ".join(side.attacks) for side in (one, other)]
        return f"{one.path} ({names[0]}) and {other.path} ({names[1]}) share no attack; make the same one on both"
    alike = {why: [label for label in refused if refused[label] == why] for why in refused.values()}
    reasons = "; ".join(f"{', '.join(labels)}: {why}" for why, labels in alike.items())
    hint = _other_division(settings) if OTHER_IMAGES in refused.values() else ""
    if any(why.startswith(OTHER_SETTINGS) for why in alike):
        hint += "; make one attack with the same settings on both, or the same suite"
    return f"{one.path} and {other.path} cannot be compared: {reasons}{hint}"


def _like(side: Side) -> str:
    """Return the first attack on a run, as one would type it; one that anybody can make where there is none."""
    made = [Spec.model_validate(found["attack"]) for found in side.attacks.values()]
    known = Registry("attacks").names()
    return next((short(spec, "attacks") for spec in made if spec.name in known), "decoder")


def _other_division(settings: Sequence[TrainConfig]) -> str:
    """Return why two runs have other images under attack, and what to do; nothing where that is not known."""
    differing = {
        "seed": [one.seed for one in settings],
        "number of training images": [one.train_size or "all" for one in settings],
    }
    named = [f"{name} ({one} and {other})" for name, (one, other) in differing.items() if one != other]
    if not named:
        return ""
    return (
        f"; which ones depends on the run's {' and its '.join(named)}: --protocol train_time without --attacked takes "
        "the whole test set"
    )


def _same_tool(metric: str, first: dict[str, Any], second: dict[str, Any]) -> bool:
    known = [found.get(f"about_{metric}", {}).get(TOOLS[metric]) for found in (first, second)]
    return known[0] is not None and known[0] == known[1]


def accuracy_rows(one: Side, other: Side) -> tuple[list[Pending], list[str]]:
    """Return the accuracy, and that of retrained tails where both have it; notes.

    Image by image where both kept their answers on the same test images, else unpaired.
    """
    rows, notes = [], []
    for name in ACCURACIES:
        lacking = [side for side in (one, other) if not side.summary.get(name)]
        if lacking and name == "accuracy":
            notes.append(f"accuracy left out: that of {lacking[0].name} was not measured")
        elif len(lacking) == 1:
            make = f"splitveil tail {shlex.quote(str(lacking[0].path))}"
            notes.append(f"accuracy of a retrained tail left out: that of {lacking[0].name} was not measured ({make})")
        if lacking:
            continue
        a, b = (Interval.from_dict(side.summary[name]) for side in (one, other))
        if why := _why_unpaired(one, other, reading.ANSWERS[name]):
            rows.append(Pending(NETWORK, name, a, b, unpaired_difference(b, a)))
            notes.append(f"accuracy compared unpaired (Newcombe 1998, from Wilson intervals): {why}")
        else:
            first, second = (_hits(side, reading.ANSWERS[name]) for side in (one, other))
            images = one.summary["test_digest"]
            rows.append(Pending(NETWORK, name, a, b, second - first, images, (first, second)))
    return rows, list(dict.fromkeys(notes))


def _why_unpaired(one: Side, other: Side, answers: str) -> str | None:
    for side in (one, other):
        if not (side.path / answers).is_file() or not side.summary.get("test_digest"):
            return f"{side.name} did not keep its answers ({answers})"
    same = one.summary["test_digest"] == other.summary["test_digest"]
    return None if same else "the test images are not the same"


def _per_image(side: Side, label: str) -> dict[str, Tensor]:
    """Each metric of an attack per image, and the error of the mean image of the class where it is known, (N,)."""
    file, summary = side.path / "attacks" / label / "per_image.csv", side.attacks[label]
    table = read_values(file, set(METRICS), "run the attack again", summary["images"]["attacked"], summary)
    names = [name for name in (*PRIVACY, CLASS_MEAN) if name in table and name in summary]
    return {name: torch.from_numpy(table[name]) for name in names}


def _hits(side: Side, answers: str) -> Tensor:
    file, remedy = side.path / answers, "delete it, and the accuracy is compared unpaired"
    table = reading.read_columns(file, {"label", "predicted"}, remedy, side.summary["images"]["test"])
    return torch.from_numpy(table["label"] == table["predicted"]).double()


def _hits_of(metric: str, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor] | None:
    return (one, other) if metric in SHARES else None


def _side(metric: str, values: Tensor) -> Interval | Tensor:
    return binomial_ci(int(values.sum()), len(values)) if metric in SHARES else values
