"""The attacks of an audit: a suite on a run, with everything per image that the card needs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import data
from ..data import ImageSet, Protocol
from ..errors import UserError
from ..evaluation import evaluate, stage, suites
from ..evaluation.interception import hold_out
from ..evaluation.scores import interval
from ..pictures import Shown, checked, load_shown
from ..runs import Run
from ..runtime import Progress
from ..statistics.best_attacker import best_attacker
from .record import Attack, Best, Picture, Scores, Seen

METRICS = ("mse", "psnr", "ssim", "reidentified", "recognized")


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The scores of several attacks on the same wires.

    Attributes:
        made: attack -> what its summary holds.
        values: attack -> metric -> one number for each attacked image.
        name: the best attacker who does not know the truth.
        chosen: label of the attack whose answer that attacker gives, for each image.
        given: images of both sides.
    """

    made: dict[str, dict[str, Any]]
    values: suites.Values
    name: str
    chosen: list[str]
    given: Protocol

    def best(self, metric: str) -> Tensor:
        """Return the best attacker's metric on each attacked image, (N,).

        Args:
            metric: of `METRICS`.
        """
        labels = list(self.values)
        index = torch.tensor([[labels.index(label) for label in self.chosen]])
        return torch.stack([self.values[label][metric] for label in labels]).gather(0, index)[0]

    @property
    def judged(self) -> bool:
        """Return whether a judge of clean images has scored the reconstructions."""
        return all("reidentified" in value for value in self.values.values())

    def best_scores(self) -> Best:
        """Return the best attacker's scores."""
        return Best(name=self.name, **_scores({m: self.best(m) for m in METRICS[: 4 if self.judged else 3]}))

    def seen(self) -> Seen | None:
        """Return the attack whose reconstructions are recognized most often; None where no judge was asked."""
        if not self.judged:
            return None
        name = max(self.values, key=lambda label: float(self.values[label]["reidentified"].mean()))
        return Seen(attack=name, share=interval(self.values[name]["reidentified"].bool(), "reidentified"))

    def worst_case(self) -> Scores:
        """Return the scores of the strongest attack on each image, which only somebody who has the image can choose."""
        names = METRICS[: 4 if self.judged else 3]
        found = {m: suites.worst_case({n: v[m] for n, v in self.values.items()}, m) for m in names}
        return Scores(**_scores(found))

    def attacks(self) -> dict[str, Attack]:
        """Return each attack's scores, seconds and flags."""
        found = {}
        for label, about in self.made.items():
            values = {m: self.values[label][m] for m in METRICS[: 4 if self.judged else 3]}
            found[label] = Attack(**_scores(values), seconds=about["seconds"], flags=about["flags"])
        return found


@dataclass(frozen=True, kw_only=True)
class Attacked(Scored):
    """A suite on a run.

    Attributes:
        run: the attacked run.
        summary: what the suite's file holds.
        terms: the threat model.
    """

    run: Run
    summary: dict[str, Any]
    terms: stage.ThreatModel


def attack(
    run: Run,
    suite: str,
    images: ImageSet,
    terms: stage.ThreatModel,
    *,
    extra: dict[str, Any],
    progress: Callable[[str], Progress] | None = None,
) -> Attacked:
    """Run the attacks of a suite that are not done yet, and return all of them.

    Args:
        run: trained model in its folder.
        suite: name of the suite.
        images: image set of the run.
        terms: the threat model.
        extra: metrics of a judge, or none.
        progress: as of `suites.run_suite`.

    Raises:
        UserError: as `suites.run_suite`, or the attacker has too few images to tell which attack is best.
    """
    given = stage.parts(run.settings, images, terms.protocol_name, terms.attacker_size, terms.attacked)
    if not len(hold_out(given.attacker_train, terms.seed)[0]):  # before minutes of attacks
        raise _too_few(given)
    summary = suites.run_suite(run, suite, images, progress=progress, extra=extra, kept=None, **vars(terms))
    values, held = {}, {}
    for label in summary["attacks"]:
        done = suites.finished(run, label, suites.named(suite)[label], given, terms, extra)
        if done is None:
            raise UserError(f"{run.path}: the attack {label} was changed while it was audited; audit it again")
        _, values[label], held[label] = done
    scored = vars(scored_of(summary["attacks"], values, held, given))
    return Attacked(**scored, run=run, summary=summary, terms=terms)


def scored_of(made: dict[str, dict[str, Any]], values: suites.Values, held: suites.Values, given: Protocol) -> Scored:
    """Return the scores of attacks, with the best attacker among them.

    Args:
        made: attack -> what its summary holds.
        values: attack -> metric -> one number for each attacked image.
        held: the same of the attacker's held-out images.
        given: images of both sides.

    Raises:
        UserError: the attacker has too few images to tell which attack is best.
    """
    best = best_attacker(held, values)
    if best is None:
        raise _too_few(given)
    return Scored(made=made, values=values, name=best.name, chosen=best.chosen, given=given)


def _too_few(given: Protocol) -> UserError:
    count = len(given.attacker_train)
    return UserError(f"the attacker has {count} images, too few to tell which attack is best; give 20 or more")


def _scores(values: dict[str, Tensor]) -> dict[str, Any]:
    hits = {name: value.bool() for name, value in values.items() if name in ("reidentified", "recognized")}
    return {name: interval(value, name) for name, value in (values | hits).items()}


Arrays = Mapping[str, Shown]
"""Attack -> originals and reconstructions of attacked images."""


def extremes(found: Scored, arrays: Arrays) -> tuple[dict[str, Picture], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Return the most leaked, the median and the least leaked image, by the best attacker's error.

    Attacks of earlier commands have kept some of their images only; then these are chosen among them.

    Args:
        found: the attacks.
        arrays: of the attacks that the best attacker takes.

    Returns:
        What the record says of each, and the original with its reconstruction, uint8 (C, H, W).
    """
    errors = found.best("mse")
    kept = functools.reduce(np.intersect1d, [shown.places for shown in arrays.values()])
    order = kept[errors.numpy()[kept].argsort(kind="stable")].tolist()
    records, pictures = {}, {}
    for name, place in (("most", 0), ("median", len(order) // 2), ("least", len(order) - 1)):
        image = order[place]
        shown = arrays[found.chosen[image]]
        place = int(np.searchsorted(shown.places, image))
        records[name] = Picture(image=image, mse=float(errors[image]))
        pictures[name] = checked(shown.originals)[place], checked(shown.reconstructions)[place]
    return records, pictures


def kept_arrays(found: Attacked) -> Arrays:
    """Return the pictures that a run's folder holds of the attacks that the best attacker takes.

    Args:
        found: the attacks.
    """
    return {label: _arrays(found, label) for label in sorted(set(found.chosen))}


def _arrays(found: Attacked, label: str) -> Shown:
    folder: Path = evaluate.place(found.run, label, found.terms.protocol_name)
    remedy = f"remove {folder}, and the attack is run again"
    return load_shown(folder / evaluate.ARRAYS, len(found.chosen), remedy)


def grants(found: Scored) -> list[str]:
    """Return what the attacker may access, in the order of `data.Access`.

    Args:
        found: the attacks.
    """
    return [one.value for one in data.Access if one in found.given.grants]
