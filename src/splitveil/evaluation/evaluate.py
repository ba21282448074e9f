"""Attacks on a finished run, scored image by image and saved in the run folder."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import config, metrics
from ..attacks.base import BATCH, Attack
from ..data import Access, ImageSet, Split, to_float
from ..errors import UserError
from ..model import digest_of
from ..pictures import image_grid_png, save_arrays, spread
from ..randomness import stream
from ..recipe import HELD_OUT
from ..runs import Run, environment
from ..runtime import Budget, Progress, Runtime
from ..statistics.best_attacker import DISTANCE
from ..storage import reading
from ..storage.claims import claimed
from ..storage.files import is_lost, json_text, remove_file, remove_unfinished, write_json, write_text
from . import masks, reliability
from .floors import CLASS_MEAN, class_mean_error, linear_error, mean_image_error
from .interception import Interception, hold_out, wire_distance
from .scores import METRICS, Metric, interval, scored
from .stage import Stage, ThreatModel, check_wire, parts, set_up

__all__ = ["METRICS", "Metric", "Outcome", "Terms", "ThreatModel", "attack_run", "check_wire", "evaluate", "parts"]
Terms = ThreatModel  # the name in earlier versions
SHOWN = 10
"""Number of images in the picture: evenly spread over the attacked images, chosen by place and not by beauty."""
ARRAYS = "reconstructions.npz"
"""The images of the picture: ``originals`` and ``reconstructions``, uint8 (K, C, S, S), and their ``places``."""
PARTIAL = "partial"
"""Folder in which a stopped attack keeps what it needs to go on."""


@dataclass(frozen=True)
class Outcome:
    """The result of an attack.

    Attributes:
        summary: what summary.json holds.
        values: each metric per image, (N,).
        held_out: error and distance on the wire of each of the attacker's held-out images.
        originals: uint8 (N, C, S, S), in the order of ``values``.
        reconstructions: as ``originals``.
        class_mean: error of the mean image of the true class, (N,); None: an earlier version made the attack.
    """

    summary: dict[str, Any]
    values: dict[str, Tensor]
    held_out: dict[str, Tensor]
    originals: Tensor
    reconstructions: Tensor
    class_mean: Tensor | None = None


def attack_run(
    run: Run, spec: config.Spec, images: ImageSet, *, label: str | None = None, **options: Any
) -> dict[str, Any]:
    """Evaluate an attack and save it in the run folder.

    ``RUN/attacks/LABEL/`` then holds summary.json, per_image.csv, held_out.csv and a picture, whose images are also
    there as arrays (`ARRAYS`). An attack that is stopped leaves ``RUN/attacks/LABEL/partial/``, from which the same
    attack goes on. Under another protocol than the run's own the folder is ``RUN/attacks/LABEL@PROTOCOL/``.

    Args:
        run: trained model in its folder.
        spec: name and settings of the attack.
        images: image set of the run.
        label: name of the folder; None: the attack's name.
        options: further arguments of `evaluate` and `run_and_save`.

    Returns:
        What summary.json holds.

    Raises:
        UserError: as `evaluate`; another process makes the same attack.
    """
    label = label or spec.name
    return run_and_save(run, label, spec, images, **options).summary


def run_and_save(
    run: Run,
    label: str,
    spec: config.Spec,
    images: ImageSet,
    kept: int | None = SHOWN,
    replacing: Callable[[str], None] | None = None,
    **options: Any,
) -> Outcome:
    """Evaluate and save an attack while no other process attacks the run under this label.

    Args:
        run: trained model in its folder.
        label: name of the attack's folder.
        spec: name and settings of the attack.
        images: image set of the run.
        kept: as of `save`.
        replacing: called with the label once the attack is made, before the files of an earlier one are replaced.
        options: further arguments of `evaluate`.
    """
    protocol_name = options.get("protocol_name", ThreatModel.protocol_name)
    folder = place(run, label, protocol_name)
    with claimed(folder, "attack"):
        remove_unfinished(folder, folder / PARTIAL)
        outcome = evaluate(run, spec, images, store=folder / PARTIAL, **options)
        if replacing:
            replacing(label)
        save(outcome, run, label, kept, protocol_name=protocol_name)
    return outcome


def place(run: Run, name: str, protocol_name: str | None = None) -> Path:
    """Return the path at which an attack or a suite is saved; each protocol has its own.

    Args:
        run: trained model in its folder.
        name: label of the attack, or name of the suite.
        protocol_name: None: the run's own.
    """
    own = protocol_name in (None, run.settings.protocol)
    return run.path / "attacks" / (name if own else f"{name}@{protocol_name}")


def save(outcome: Outcome, run: Run, name: str, kept: int | None = SHOWN, *, protocol_name: str | None = None) -> None:
    """Write the files of an attack; the summary is the last, so that its presence says that the attack is done.

    Args:
        outcome: result of the attack.
        run: trained model in its folder.
        name: label of the attack.
        kept: number of originals and reconstructions in the arrays beside the picture; None: all.
        protocol_name: as of `place`.

    Raises:
        UserError: as `summary_text`; then nothing is written.
    """
    folder, text = place(run, name, protocol_name), summary_text(outcome, name)
    # An attack that was made here before is gone from its first file on, or its summary would stand beside our figures.
    remove_file(folder / "summary.json")
    shown, places = (spread(len(outcome.originals), most or len(outcome.originals)) for most in (SHOWN, kept))
    rows = [("original", outcome.originals[shown]), (name, outcome.reconstructions[shown])]
    image_grid_png(rows, folder / "reconstructions.png")
    arrays = {"originals": outcome.originals[places], "reconstructions": outcome.reconstructions[places]}
    save_arrays(folder / ARRAYS, **arrays, places=places)
    ceiling = {} if outcome.class_mean is None else {CLASS_MEAN: outcome.class_mean}
    write_text(folder / "per_image.csv", _csv(outcome.values | ceiling))
    write_text(folder / "held_out.csv", _csv(outcome.held_out))
    write_text(folder / "summary.json", text)
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)


def lost(folder: Path, summary: Mapping[str, Any]) -> list[str]:
    """Return the names of files that a finished attack has left, that commands read back, and that are gone or empty.

    Args:
        folder: folder of the attack.
        summary: what its summary.json holds.
    """
    needed = ["per_image.csv"]
    if summary.get("held_out", {}).get("images"):
        needed.append("held_out.csv")
    if "revision" in summary:  # the first versions kept no arrays, and named no revision either
        needed.append(ARRAYS)
    return [name for name in needed if is_lost(folder / name)]


def summary_text(outcome: Outcome, name: str) -> str:
    """Return the text of an attack's summary.json.

    Args:
        outcome: result of the attack.
        name: label of the attack.

    Raises:
        UserError: it holds a number that is not finite, as the error of an attack that diverged, or no plain value.
    """
    try:
        return json_text(outcome.summary)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"the result of {name} cannot be saved as JSON ({error}); expected finite figures and plain values in the "
            "attack's scores, settings and curve()"
        ) from None


def evaluate(
    run: Run,
    spec: config.Spec,
    images: ImageSet,
    *,
    budget: Budget | None = None,
    progress: Progress | None = None,
    store: Path | None = None,
    extra: Mapping[str, Metric] | None = None,
    fits: dict[str, Any] | None = None,
    **threat_model: Any,
) -> Outcome:
    """Fit the attack ``spec`` on what the protocol gives the attacker and score it image by image.

    Args:
        run: trained model in its folder.
        spec: name and settings of the attack.
        images: image set of the run.
        budget: limit on the attack's steps or time.
        progress: called after steps with (steps done, steps in all, current error).
        store: folder in which a stopped attack is kept; the same attack with the same folder goes on.
        extra: further metrics by name: (reconstructions, originals, labels) -> one number per image.
        fits: see `Runtime`; give the same dict to attacks that may share a training.
        threat_model: fields of `ThreatModel`: protocol_name, attacker_size, attacked, seed, observed.

    Returns:
        Summary, values per image and pictures; nothing is written but what ``store`` keeps.

    Raises:
        UserError: unknown names, sizes beyond what there is, access that the protocol does not grant.
    """
    stage, budget = set_up(run, spec, images, ThreatModel(**threat_model)), budget or Budget()
    kept = _kept(store, stage, budget, run)
    return made(stage, Runtime(progress, budget, kept, fits), extra)


def made(stage: Stage, runtime: Runtime, extra: Mapping[str, Metric] | None = None) -> Outcome:
    """Fit the attack of ``stage`` and score it image by image; write nothing but what ``runtime`` keeps.

    Args:
        stage: attack and what it sees.
        runtime: progress, budget and checkpoints.
        extra: further metrics by name.
    """
    given = stage.given
    first = given.attacker_test.subset(torch.arange(min(2, len(given.attacker_test))))
    scored(to_float(first.images), first, extra)  # a metric that cannot score such images is no surprise at the end
    held, own = hold_out(given.attacker_train, stage.seed)
    runtime.tally = stage.victim.tally
    with runtime.share(0.5 if stage.attack.iterates else 1):
        stage.attack.fit(stage.victim.of(stage.attack), own, stage.rng, runtime)
    # Together, so that a budget of time gives both the same.
    asked = held.joined(given.attacker_test)
    found, wires = reconstruct(stage.attack, stage.tap, asked, runtime)
    seconds = runtime.seconds
    baseline = mean_image_error(given.attacker_train, given.attacker_test)
    class_mean = class_mean_error(given.attacker_train, given.attacker_test)
    distance = _distance(stage, found, wires)
    held_out = {"mse": _held_out_error(found, held), **_part(distance, 0, len(held))}
    found = found[len(held) :]
    values = scored(found, given.attacker_test, extra) | _part(distance, len(held), None)
    floor = linear_error(stage.victim, own, given.attacker_test, wires[len(held) :], stage.threat_model.seed)
    flags = _flags(stage, values["mse"], baseline, floor, runtime) + reliability.cut_short(runtime.cut)
    summary = {
        **stage.identity(),
        **{name: interval(value, name).as_dict() for name, value in values.items()},
        "held_out": {"images": len(held), "mse": float(held_out["mse"].mean()) if len(held) else None},
        "baseline_mse": float(baseline.mean()),
        CLASS_MEAN: float(class_mean.mean()),
        "linear_mse": None if floor is None else float(floor.mean()),
        **{f"about_{name}": metric.about for name, metric in (extra or {}).items() if hasattr(metric, "about")},
        "flags": flags,
        "seconds": seconds,
        **({"shared_seconds": runtime.shared_seconds} if runtime.shared_seconds else {}),
        "budget": {"steps": runtime.budget.steps, "seconds": runtime.budget.seconds, "cut": runtime.cut},
        "curve": stage.attack.curve(),
        "environment": environment(),
    }
    answers = torch.round(found * 255).to(torch.uint8)
    return Outcome(summary, values, held_out, given.attacker_test.images, answers, class_mean)


@torch.no_grad()
def reconstruct(
    attack: Attack, tap: Interception, split: Split, runtime: Runtime | None = None
) -> tuple[Tensor, Tensor]:
    """Return reconstructions (N, C, S, S), and one wire (N, ...) of each image that says what was seen; on the CPU.

    Args:
        attack: fitted attack.
        tap: the wires under attack.
        split: images under attack.
        runtime: its time is shared equally between batches.
    """
    found, wires = [], []
    batches = zip(split.images.split(BATCH), split.labels.split(BATCH), strict=True)
    for images, labels in (runtime or Runtime()).each(batches):
        wire = tap.wires(images)
        known = labels.to(wire.device) if Access.LABELS in attack.needs else None
        found.append(attack.reconstruct(wire, known).cpu())
        wires.append(tap.victim.one_wire(wire).cpu())
    return torch.cat(found), torch.cat(wires)


def _distance(stage: Stage, found: Tensor, wires: Tensor) -> dict[str, Tensor]:
    if Access.WEIGHTS not in stage.given.grants:
        return {}
    rng = stream(stage.victim.device, stage.threat_model.seed, HELD_OUT)
    return {DISTANCE: wire_distance(stage.victim, found, wires, rng)}


def _held_out_error(found: Tensor, held: Split) -> Tensor:
    return metrics.mse(found[: len(held)], to_float(held.images)) if len(held) else torch.zeros(0)


def _part(values: dict[str, Tensor], start: int, stop: int | None) -> dict[str, Tensor]:
    return {name: value[start:stop] for name, value in values.items()}


def _kept(store: Path | None, stage: Stage, budget: Budget, run: Run) -> Path | None:
    """Return the folder of checkpoints, emptied where it belongs to another attack or to other weights."""
    if store is None:
        return None
    wanted = json.loads(json.dumps({**stage.identity(), "budget": vars(budget), "weights": run.digest()}))
    note = store / "attack.json"
    remedy = f"remove {store} to begin the attack again"
    if store.is_dir() and (not note.is_file() or reading.read_json(note, reading.ANY, remedy) != wanted):
        shutil.rmtree(store)
    write_json(note, wanted)
    return store


def _flags(stage: Stage, mse: Tensor, baseline: Tensor, floor: Tensor | None, runtime: Runtime) -> list[str]:
    attack, given = stage.attack, stage.given
    failed = [] if attack.floor == "none" else reliability.no_better_than_the_mean(mse, baseline)
    flags = reliability.at_chance(stage.accuracy, given.utility_test.labels) + failed
    if attack.floor == "linear" and floor is not None and not failed:
        flags += reliability.no_better_than_linear(mse, floor)
    if attack.learns:
        flags += reliability.still_falling(attack.curve())
    flags += _of_model(stage, runtime)
    flags += reliability.of_law(stage.model, stage.victim, given.attacker_test)
    flags += masks.of_masks(stage.model, stage.victim, attack, given.attacker_test)
    return flags + reliability.of_queries(stage.model, stage.victim, attack.needs, given.attacker_train)


def _of_model(stage: Stage, runtime: Runtime) -> list[str]:
    """Return the flags of the model, which take thousands of wires: they are found once for all attacks of a suite."""
    images, known = stage.given.attacker_test, runtime.fits
    if known is None:
        return reliability.of_model(stage.model, images)
    key = f"flags of {digest_of(stage.model)} on {images.digest()}"
    if key not in known:
        known[key] = reliability.of_model(stage.model, images)
    return known[key]


def _csv(values: dict[str, Tensor]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *values])
    columns = [value.to(torch.float64).tolist() for value in values.values()]
    writer.writerows(
        [i, *(f"{v:.8g}" if math.isfinite(v) else v for v in row)] for i, row in enumerate(zip(*columns, strict=True))
    )
    return text.getvalue()
