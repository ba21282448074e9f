"""A trained run, hardened into a run folder of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired

import torch
from pydantic import ConfigDict, Field, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from typing_extensions import TypedDict

from .. import config
from ..data import ImageSet, protocol
from ..defenses.base import Stack
from ..errors import CostlyError, UserError
from ..memory import placed
from ..model import SplitModel
from ..nn.copies import copy_of
from ..randomness import stream
from ..recipe import TEST, precision
from ..runs import SERVED, Run, environment, parameter_counts, save_weights, write_summary
from ..statistics.intervals import binomial_ci
from ..storage import reading
from ..storage.claims import claimed
from ..storage.files import is_lost, remove_unfinished, write_json, write_safetensors, write_text
from ..storage.folders import foreign
from ..training import pins
from ..training.trainer import predict
from .picture import draw
from .search import Hardening, Search, Step, staying

FILE, PICTURE = "hardening.json", "hardening.png"


class _Kept(TypedDict):
    """The content of `FILE`: what is hardened, how far, and what was tried so far."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    of: str
    weights: str
    max_drop: reading.Number
    before: reading.Number | None
    mean_image: reading.Number | None
    steps: list[dict[str, Any]] = Field(max_length=1000)  # type: ignore[misc]
    chosen: int | None
    seconds: NotRequired[reading.Number]


_KEPT = TypeAdapter(_Kept)


def harden(
    run: Run,
    images: ImageSet,
    out: Path,
    *,
    max_drop: float,
    resume: bool = False,
    show: Callable[[int, int], None] = lambda *_: None,
    kind: type[Hardening] = Hardening,
) -> dict[str, Any]:
    """Put water-filled noise on the wire of a run, as much as a loss of accuracy allows, and leave a new run folder.

    The encoder stays bit for bit what it was. The tail is trained anew on the run's training images, the accuracy
    compared on its validation images, and the test images are scored once at the end.

    Args:
        run: trained model in its folder, which stays as it is.
        images: image set of the run.
        out: new run folder.
        max_drop: allowed loss of accuracy on the validation images, in points.
        resume: go on with a hardening that was stopped.
        show: called after each step with the steps done and their number.
        kind: the search; another noise than `Waterfill` is a subclass of it.

    Returns:
        What summary.json of the new folder holds; ``hardening`` in it says what was tried.

    Raises:
        UserError: a folder that holds something else, images of another run, or no noise that costs so little.
    """
    if not 0 < max_drop <= 100:
        raise UserError(f"max drop is {max_drop}; expected points of accuracy above 0, at most 100")
    pins.check(run.summary, images, run.path)
    start = _Kept(
        of=str(run.path), weights=run.digest(), max_drop=max_drop, before=None, mean_image=None, steps=[], chosen=None
    )
    _check(out, start, resume)
    with claimed(out, "hardening"):
        remove_unfinished(out)
        _check(out, start, resume)  # again: another one may have come before the claim
        if (out / "summary.json").is_file():
            _check_whole(out)
            return Run.open(out).summary
        return _harden(run, images, out, start, show, kind)


def _harden(
    run: Run, images: ImageSet, out: Path, start: _Kept, show: Callable[[int, int], None], kind: type[Hardening]
) -> dict[str, Any]:
    began, settings = time.perf_counter(), run.settings
    earlier = (_read(out).get("seconds") or 0.0) if (out / FILE).is_file() else 0.0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = placed(run.model(images), device)
    parts = protocol(settings.protocol, images, seed=settings.seed)
    work = kind(
        model,
        parts.defender_train,
        parts.utility_val,
        start["max_drop"],
        seed=settings.seed,
        augmentation=settings.augmentation,
        bf16=precision(settings.precision, device) == "bf16-mixed",
    )

    def found(search: Search) -> dict[str, Any]:
        return start | search.as_dict() | {"seconds": earlier + time.perf_counter() - began}

    def keep(search: Search, tail: nn.Module) -> None:
        # The tail first, under the number of the step that made it: a kill in between loses a step and no tail.
        save_tail(tail, _tail(out, search))
        write_json(out / FILE, found(search))
        _remove_tails(out, but=_tail(out, search))

    search, tail = _begun(out, model)
    try:
        hardened, search = work.run(search, tail, keep, show)
    except CostlyError:  # nothing is left to go on with, and nothing that would be in the way of a larger loss
        (out / FILE).unlink(missing_ok=True)
        _remove_tails(out)
        raise
    write_json(out / FILE, found(search))
    draw(search, out / PICTURE)
    test = parts.utility_test
    predicted = predict(hardened, test.images, stream(device, settings.seed, TEST, 0, 0))
    save_weights(hardened, out / "model.safetensors")
    rows = enumerate(zip(test.labels.tolist(), predicted.tolist(), strict=True))
    lines = [f"{image},{label},{answer}\n" for image, (label, answer) in rows]
    write_text(out / "test.csv", "image,label,predicted\n" + "".join(lines))
    write_text(out / "config.yaml", config.dump(_settings(run, model, hardened), hardened_from=run.path))
    hits = int((predicted == test.labels.cpu()).sum())
    summary = _summary(run, hardened, search, found(search)["seconds"])
    summary["accuracy"] = binomial_ci(hits, len(predicted)).as_dict()
    summary = write_summary(out, summary)  # last: it marks the run as finished
    _remove_tails(out)
    return summary


def _summary(run: Run, hardened: SplitModel, search: Search, seconds: float) -> dict[str, Any]:
    chosen, shape = search.chosen, list(hardened.wire_shape)
    assert chosen is not None
    kept = {name: value for name, value in run.summary.items() if not name.startswith("retrain")}
    return kept | {
        "accuracy_val": chosen.accuracy,
        "leakage_nats": None,
        "seconds": seconds,
        "parameters": parameter_counts(hardened),
        "wire": {"shape": shape, "bytes": hardened.bytes_sent},
        "environment": environment(),
        "hardening": {"of": str(run.path), "accuracy_before": run.summary["accuracy"], **search.as_dict()},
    }


def _settings(run: Run, model: SplitModel, hardened: SplitModel) -> config.TrainConfig:
    """Return the settings of the run with the defenses that stay, and the noise in the place of the others."""
    stay = {id(part) for part in staying(model.defense)}
    stack = model.defense
    assert isinstance(stack, Stack)
    specs = [spec for spec, part in zip(run.settings.defense, stack, strict=True) if id(part) in stay]
    assert isinstance(hardened.defense, Stack)
    *_, noise = hardened.defense
    specs.append(config.spec_of(noise, "defenses"))
    return run.settings.model_copy(update={"defense": tuple(specs)})


def _check(out: Path, start: _Kept, resume: bool) -> None:
    """Refuse a folder that holds something else, or a hardening that is not to be gone on with."""
    if not (out / FILE).is_file():
        # What a hardening that was killed before its first step was kept may leave.
        tails = {path.name for path in out.glob("tail-*.safetensors") if path.is_file()}
        if foreign(out, tails):
            raise UserError(f"{out} exists and holds no hardening; choose an empty or new folder for --out")
        return
    if not resume:
        raise UserError(f"{out} holds a hardening already; add --resume to go on with it, or choose another --out")
    kept = _read(out)
    if kept["weights"] != start["weights"]:
        raise UserError(
            f"{out} was begun with another run, or with other weights of this one; give those, or choose another --out"
        )
    if kept["max_drop"] != start["max_drop"]:
        raise UserError(f"{out} was begun with --max-drop {kept['max_drop']:g}; repeat it, or choose another --out")


def _check_whole(out: Path) -> None:
    """Draw the picture of a finished hardening again where it is lost; other files that are lost are refused."""
    if gone := [name for name in (SERVED, "config.yaml", "test.csv") if is_lost(out / name)]:
        raise UserError(
            f"{out} is a finished hardening that has lost {', '.join(gone)}; put back what was lost, or harden the run "
            "again into another folder"
        )
    if is_lost(out / PICTURE):
        kept = _read(out)
        steps = [Step(**step) for step in kept["steps"]]
        draw(Search(kept["before"], kept["mean_image"], steps), out / PICTURE)  # type: ignore[arg-type]


def _read(out: Path) -> _Kept:
    return reading.read_json(out / FILE, _KEPT, "harden the run again into another folder")


def _begun(out: Path, model: SplitModel) -> tuple[Search | None, nn.Module | None]:
    """Return the search that was stopped in a folder, and the tail of its last accepted step."""
    if not (out / FILE).is_file():
        return None, None
    kept = _read(out)
    try:
        # The last step, on all images, is made again: its model was not kept.
        steps = [step for step in (Step(**step) for step in kept["steps"]) if not step.whole]
        search = Search(kept["before"], kept["mean_image"], steps)  # type: ignore[arg-type]
        tail = copy_of(model.tail)
        tail.load_state_dict(load_file(_tail(out, search)))
    except (OSError, SafetensorError, *reading.UNUSABLE) as error:
        raise UserError(f"{out} cannot go on: {error}; harden the run again into another folder") from None
    return search, tail


def _tail(out: Path, search: Search) -> Path:
    return out / f"tail-{sum(not step.whole for step in search.steps)}.safetensors"


def _remove_tails(out: Path, but: Path | None = None) -> None:
    for left in out.glob("tail-*.safetensors"):
        if left != but:
            left.unlink()


def save_tail(tail: nn.Module, path: Path) -> None:
    """Write the weights of a tail in one rename.

    Args:
        tail: of the last accepted step.
        path: file that is made.
    """
    write_safetensors(path, tail.state_dict())
