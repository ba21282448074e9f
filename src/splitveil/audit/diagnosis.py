"""The leakage that a training logs, held against what attacks reach on the weights of its epochs."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired

import torch
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from .. import config
from ..bounds.base import BoundError, Channel
from ..bounds.mixture import MixtureBound
from ..data import ImageSet, Protocol
from ..errors import UserError
from ..evaluation import evaluate, stage
from ..evaluation.floors import mean_image_error
from ..memory import placed
from ..runs import Run, environment
from ..runtime import Progress, Runtime
from ..statistics.rank_correlation import LEAST, rank_correlation
from ..storage import reading
from ..storage.claims import claimed
from ..storage.files import remove_unfinished, write_json
from ..storage.folders import foreign
from ..training import pins, snapshots
from .diagnosis_picture import draw

FILE, PICTURE = "diagnosis.json", "diagnosis.png"
REMEDY = "delete it, and the diagnosis begins again"


class Row(TypedDict):
    """One epoch: what the training logged, what a bound says of its weights, and what the attack reached on them."""

    epoch: reading.Count
    weights: str
    leakage_nats: reading.Number
    accuracy_val: reading.Number
    mse: reading.Interval
    ssim: reading.Interval
    flags: list[str]
    bound: NotRequired[reading.Interval]
    density: NotRequired[str]
    without_bound: NotRequired[str]


class _Kept(TypedDict):
    """The content of `FILE`: of what it is, and the epochs that are done."""

    __pydantic_config__ = reading.OPEN  # type: ignore[misc]
    identity: dict[str, Any]
    epochs: list[Row]


_KEPT = TypeAdapter(_Kept)


def diagnose(
    run: Run,
    images: ImageSet,
    out: Path,
    spec: config.Spec,
    threat_model: stage.ThreatModel,
    *,
    show: Callable[[int, int], None] = lambda *_: None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Attack the weights of each kept epoch of a run, bound their leakage, and correlate both with what was logged.

    All epochs meet the same attacker, with the same images and the same noise, so that only the weights differ. Leave
    ``out/diagnosis.json``, in which epochs that are done are kept, and ``out/diagnosis.png``.

    Args:
        run: trained with `splitveil train --snapshots`, and with a defense that logs its leakage.
        images: image set of the run.
        out: new folder, or that of the same diagnosis, which goes on.
        spec: name and settings of the attack.
        threat_model: what the attacker has and sees.
        show: called after each epoch with the epochs done and their number.
        progress: of each attack.

    Returns:
        What diagnosis.json holds: ``identity``, ``epochs`` (`Row`), ``baseline_mse``, and ``correlation``: Spearman's,
        of ``leakage_nats`` and of ``bound`` with the error, with intervals over the epochs.

    Raises:
        UserError: no snapshots, no logged leakage, fewer than four epochs, a folder that holds something else, or as
            `evaluation.evaluate.evaluate`.
    """
    pins.check(run.summary, images, run.path)
    files, logged = _epochs_of(run)
    given = stage.parts(
        run.settings, images, threat_model.protocol_name, threat_model.attacker_size, threat_model.attacked
    )
    identity = _identity(run, spec, given, threat_model)
    _check(out, identity)
    with claimed(out, "diagnosis"):
        remove_unfinished(out)
        rows = {row["epoch"]: row for row in _check(out, identity)}
        for done, (epoch, path) in enumerate(files.items(), 1):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if epoch not in rows or rows[epoch]["weights"] != digest:
                found = _row(run, images, path, spec, given, threat_model, progress)
                rows[epoch] = Row(epoch=epoch, weights=digest, **logged[epoch], **found)
                write_json(out / FILE, {"identity": identity, "epochs": [rows[epoch] for epoch in sorted(rows)]})
            show(done, len(files))
        record = _record(run, identity, [rows[epoch] for epoch in files], given)
        write_json(out / FILE, record)
        draw(record, out / PICTURE)
    return record


def _record(run: Run, identity: dict[str, Any], rows: list[Row], given: Protocol) -> dict[str, Any]:
    errors = [row["mse"]["mean"] for row in rows]
    correlation = {"leakage_nats": rank_correlation([row["leakage_nats"] for row in rows], errors).as_dict()}
    bounds = [row["bound"]["mean"] for row in rows if "bound" in row]
    if len(bounds) == len(rows):
        correlation["bound"] = rank_correlation(bounds, errors).as_dict()
    return {
        "schema": 1,
        "run": str(run.path),
        "defense": [spec.model_dump() for spec in run.settings.defense],
        "identity": identity,
        "epochs": rows,
        "correlation": correlation,
        "baseline_mse": float(mean_image_error(given.attacker_train, given.attacker_test).mean()),
        "environment": environment(),
    }


def _epochs_of(run: Run) -> tuple[dict[int, Path], dict[int, dict[str, float]]]:
    """Return the snapshots, and what the training logged of each."""
    again = ["splitveil", "train", "--config", str(run.path / "config.yaml"), "--snapshots", "1"]
    again += ["--out", f"{run.path}-snapshots"]
    files = snapshots.kept(run.path)
    lines = reading.read_lines(run.path / "metrics.jsonl", reading.EPOCH, "train the run again")
    logged = {line["epoch"] + 1: line for line in lines}
    if not any(line["leakage_nats"] is not None for line in lines):
        stack = [f"{spec.name}:{_settings(spec)}".rstrip(":") for spec in run.settings.defense]
        flags = [part for text in [*stack, "cem:0"] for part in ("--defense", text)]
        raise UserError(
            f"{run.path} logged no leakage: none of its defenses measures it; cem:0 does, and changes nothing else: "
            f"`{shlex.join([*again, *flags])}`"
        )
    if not files:
        raise UserError(f"{run.path} kept no weights of its epochs; train it again with `{shlex.join(again)}`")
    if lost := sorted(files.keys() - logged.keys()):
        raise UserError(f"{run.path / 'metrics.jsonl'} lacks epoch {lost[0]}, whose weights are there; train it again")
    files = {epoch: path for epoch, path in files.items() if logged[epoch]["leakage_nats"] is not None}
    if len(files) < LEAST:
        raise UserError(
            f"{run.path} kept the weights of {len(files)} epochs with a leakage; a rank correlation needs at least "
            f"{LEAST}: train longer, or with a smaller --snapshots"
        )
    return files, {epoch: {key: logged[epoch][key] for key in ("leakage_nats", "accuracy_val")} for epoch in files}


def _settings(spec: config.Spec) -> str:
    return ",".join(f"{key}={value}" for key, value in spec.parameters.items() if value is not None)


def _identity(run: Run, spec: config.Spec, given: Protocol, threat_model: stage.ThreatModel) -> dict[str, Any]:
    """Return what the rows of one diagnosis have in common; the weights stand in each."""
    wanted = stage.identity(spec, given, threat_model)
    digests = {"attacker_digest": given.attacker_train.digest(), "test_digest": given.utility_test.digest()}
    return json.loads(json.dumps({**wanted, **digests, "run_seed": run.settings.seed}))


def _check(out: Path, identity: dict[str, Any]) -> list[Row]:
    """Return the rows that a folder keeps of this diagnosis."""
    path = out / FILE
    if not path.is_file():
        if foreign(out):
            raise UserError(f"{out} exists and holds no diagnosis; choose an empty or new folder for --out")
        return []
    kept = reading.read_json(path, _KEPT, REMEDY)
    if kept["identity"] != identity:
        changed = sorted(key for key in identity if kept["identity"].get(key) != identity[key])
        if "attack" in changed:  # which has a revision of its own
            changed = [key for key in changed if key != "revision"]
        raise UserError(f"{out} holds a diagnosis with another {', '.join(changed)}; choose another --out")
    return kept["epochs"]


def _row(
    run: Run,
    images: ImageSet,
    weights: Path,
    spec: config.Spec,
    given: Protocol,
    threat_model: stage.ThreatModel,
    progress: Progress | None,
) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = placed(run.model(images, weights), device)
    victim = stage.stage_of(model, spec, given, threat_model, run.settings.seed)
    summary = evaluate.made(victim, Runtime(progress)).summary
    found = {key: summary[key] for key in ("mse", "ssim", "flags")}
    try:
        channel = Channel.of(model, given.utility_test, torch.Generator().manual_seed(run.settings.seed))
        (estimate,) = MixtureBound().estimate(channel, torch.Generator(device).manual_seed(run.settings.seed))
    except BoundError as error:
        return found | {"without_bound": str(error)}
    assert estimate.interval is not None
    return found | {"bound": estimate.interval.as_dict(), "density": estimate.about}
