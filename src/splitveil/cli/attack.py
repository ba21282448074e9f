"""`splitveil attack`."""

from __future__ import annotations

import functools
import inspect
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import ValidationError
from rich.markup import escape
from rich.table import Column, Table

from .. import config, progress_bars
from ..errors import UserError
from ..registry import Registry
from ._shared import (
    LOOK,
    WIDE,
    MaybePlace,
    Place,
    app,
    coded,
    duration,
    in_two_lines,
    interval,
    out_console,
    say,
    show_flags,
)

TITLES = {"mse": "MSE", "ssim": "SSIM", "psnr": "PSNR dB"}


@Parameter(name="*")
@dataclass(frozen=True)
class Terms:
    """The threat model of the attack.

    Args:
        protocol: train_time, inference_time or auxiliary; by default that of the run's training.
        attacker_size: Let the attacker train on only this many images.
        attacked: Reconstruct only this many images.
        observed: Wires of each image that the attacker sees and combines, as when a request is sent again.
        seed: Seed of the attack.
    """

    protocol: str | None = None
    attacker_size: int | None = None
    attacked: int | None = None
    observed: int = 1
    seed: int = 0

    def agreed(self, protocol: str) -> dict[str, Any]:
        """Return the arguments of a `ThreatModel`; without a protocol that of the run's training."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "protocol"}
        return {"protocol_name": self.protocol or protocol, **named}


@Parameter(name="*")
@dataclass(frozen=True)
class Scores:
    """The metrics beside MSE, PSNR and SSIM.

    Args:
        lpips: Score the perceptual distance too, with these weights of torchvision's alexnet, vgg16 or squeezenet1_1.
        reidentify: Score how often a classifier of clean images, trained once for the run, sees the class in the
            reconstruction.
    """

    lpips: MaybePlace = None
    reidentify: Annotated[bool, Parameter(negative="")] = False


@app.command
def attack(
    run: Place,
    *,
    attack: Annotated[list[str] | None, Parameter(negative="")] = None,
    suite: str | None = None,
    epochs: int | None = None,
    budget: str | None = None,
    codec: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    root: MaybePlace = None,
    terms: Terms | None = None,
    scores: Scores | None = None,
) -> None:
    """Attack a finished run and leave RUN/attacks/NAME/ with summary.json, per_image.csv, reconstructions.png.

    Args:
        run: Run folder that `splitveil train` made.
        attack: Attack, name:value or name:key=value,..., or published/decoder, published/gan, he2019/rmle; may be
            repeated.
        suite: Frozen suite of attacks: standard-v4, or quick-v4 for two cores; reports the best attacker, the worst
            case, and how often the right photo is found.
        epochs: Epochs of trained attacks.
        budget: Limit of each attack: steps of each optimization as 500, or time as 90s, 5m.
        codec: Attack what a deployed device sends with this codec: auto, uint8, uint4, uint2, float16; the attacks are
            then in RUN/coded/CODEC, a run folder like any other.
        dry_run: Take two steps of everything, print what would be done and how long it takes, write nothing.
        root: Folder of the images, where they have moved since the training.
        terms: Threat model of the attack.
        scores: Metrics beside MSE, PSNR and SSIM.
    """
    from .. import runs
    from ..evaluation import stage, suites
    from ..runtime import Budget
    from ..training import pins

    _check(attack, suite, epochs, budget, dry_run)
    spent = Budget.parse(budget) if budget else None
    opened = runs.Run.open(run)
    named = suites.labels(tuple(_with_epochs(_spec(text), epochs).resolve("attacks") for text in attack or ()))
    images = runs.load_images(opened.settings.model_copy(update={"root": root}) if root else opened.settings)
    pins.check(opened.summary, images, run)  # before a judge is trained on them
    agreed = (terms or Terms()).agreed(opened.settings.protocol)
    if dry_run:
        with tempfile.TemporaryDirectory() as place:
            opened = coded(opened, images, codec, Path(place)) if codec else opened
            if named:
                stage.check(opened, named.values(), images, stage.ThreatModel(**agreed))
            _dry_run(opened, images, suite, named, agreed)
        return
    opened = coded(opened, images, codec) if codec else opened
    if named:
        stage.check(opened, named.values(), images, stage.ThreatModel(**agreed))
    with progress_bars.bars() as bar:
        more = {**agreed, "extra": _more_metrics(opened, images, scores or Scores(), bar)}
        shown = functools.partial(progress_bars.attack, bar)
        if suite:
            found = suites.run_suite(opened, suite, images, progress=shown, **more)
        else:
            found = _run_named(opened, images, named, bar, budget=spent, **more)
    (_show_suite if suite else _show_named)(opened, found)


def _check(attack: list[str] | None, suite: str | None, epochs: int | None, budget: str | None, dry_run: bool) -> None:
    if bool(attack) == bool(suite):
        raise UserError("name what attacks: either --attack NAME (several times if you like) or --suite quick-v4")
    if suite and (epochs is not None or budget is not None):
        raise UserError("a suite is frozen; leave --epochs and --budget out, or name the attacks with --attack")
    if dry_run and budget is not None:
        raise UserError("a dry run estimates how long attacks take without a limit; leave --dry-run or --budget out")
    if epochs is not None and not any(_has_epochs(_spec(text)) for text in attack or ()):
        named = ", ".join(attack or ())
        raise UserError(f"--epochs is {epochs}, but there are none in {named}; leave --epochs out")


def _dry_run(run: Any, images: Any, suite: str | None, named: dict[str, config.Spec], terms: dict[str, Any]) -> None:
    from ..evaluation import suites
    from ..evaluation.rehearsal import rehearse
    from ..evaluation.stage import parts

    left_out: dict[str, str] = {}
    if suite:
        given = parts(run.settings, images, terms["protocol_name"], terms["attacker_size"], terms["attacked"])
        named, left_out = suites.possible(suite, run, images, given)
    out_console.print(_rehearsals({name: rehearse(run, spec, images, **terms) for name, spec in named.items()}))
    _say_skipped(left_out)


def _run_named(run: Any, images: Any, named: dict[str, config.Spec], bar: Any, **more: Any) -> dict[str, Any]:
    from ..evaluation.evaluate import attack_run

    more["fits"] = {}  # a decoder that several of them begin with is trained once
    return {
        label: attack_run(run, spec, images, label=label, progress=progress_bars.attack(bar, label), **more)
        for label, spec in named.items()
    }


def _show_named(run: Any, rows: dict[str, dict[str, Any]]) -> None:
    from ..evaluation.evaluate import place
    from ..evaluation.flags import together

    out_console.print(_attack_table(run, rows, next(iter(rows.values()))))
    for label, row in rows.items():
        say(f"look at {place(run, label, row['protocol']) / 'reconstructions.png'}")
    show_flags(together({label: row["flags"] for label, row in rows.items()}))


def _more_metrics(run: Any, images: Any, scores: Scores, bar: Any) -> dict[str, Any]:
    from ..evaluation import perceptual, reidentification

    extra: dict[str, Any] = {}
    if scores.lpips:
        extra["lpips"] = perceptual.Lpips.load(scores.lpips)
    if scores.reidentify:
        show = progress_bars.training(bar, "judge of clean images", reidentification.EPOCHS)
        extra |= reidentification.judge_for(run, images, progress=show).metrics()
    return extra


def _rehearsals(found: dict[str, dict[str, Any]]) -> Table:
    first = next(iter(found.values()))
    table = Table("attack", "access", "steps", "time, estimated", title="dry run: nothing was written")
    for label, row in found.items():
        steps = ", ".join(f"{name} {count}" for name, count in row["loops"]) or "closed form"
        table.add_row(escape(label), ", ".join(row["needs"]) or "none", steps, duration(row["seconds"]))
    table.add_row("all", "", "", duration(sum(row["seconds"] for row in found.values())))
    counts = first["images"]
    table.caption = f"{first['protocol']}: {counts['attacked']} images attacked, {counts['attacker']} to learn from"
    return table


def _show_suite(run: Any, found: dict[str, Any]) -> None:
    from ..evaluation import evaluate, suites

    all_seconds = {"seconds": found["seconds"]}
    best = found["best_attacker"]
    rows = found["attacks"] | ({f"best attacker: {best['attack']}": best | all_seconds} if best else {})
    rows |= {"worst case, knows the truth": found["worst_case"] | all_seconds}
    out_console.print(_attack_table(run, rows, found))
    if not best:
        say("best attacker: not known, as the attacker has too few images to keep some for judging the attacks")
    wins = ", ".join(f"{name} {count}" for name, count in found["wins"].items() if count)
    say(f"lowest error, images won: {wins}")
    _say_skipped(found["skipped"])
    _say_linkage(found.get("linkage"))
    left = evaluate.place(run, f"suite-{found['suite']}", found["protocol"])
    say(f"all of it: {left.with_name(left.name + '.json')}")
    if note := suites.superseded(found["suite"]):
        say(note)
    show_flags(found["flags"])


def _say_linkage(found: list[dict[str, Any]] | str | None) -> None:
    if isinstance(found, str):
        say(f"linkage: {found}")
    for one in found if isinstance(found, list) else []:
        if one["quantity"] == "success":
            say(f"linkage: {one['about']}: found in {100 * one['value']:.1f} % of cases")


def _say_skipped(skipped: dict[str, str]) -> None:
    for name, reason in skipped.items():
        say(f"left out: {name}: {reason}")


def _attack_table(run: Any, rows: dict[str, dict[str, Any]], about: dict[str, Any]) -> Table:
    known = run.summary["accuracy"]  # an imported checkpoint has none where its images were not at hand
    accuracy = interval(known, percent=True) if known else "not measured"
    shares = [key for key in ("reidentified", "recognized") if any(key in row for row in rows.values())]
    more = ["lpips"] if any("lpips" in row for row in rows.values()) else []
    # Folded, as a figure with its end cut off is another figure.
    columns = [Column(title, overflow="fold") for title in ("attack", *TITLES.values(), *more, *shares, "seconds")]
    table = Table(*columns, title=f"{escape(str(run.path))}: accuracy {accuracy}", **LOOK)
    shown = in_two_lines if out_console.width < WIDE else str
    for name, row in rows.items():
        figures = [interval(row[key]) if key in row else "" for key in (*TITLES, *more)]
        figures += [interval(row[key], percent=True) if key in row else "" for key in shares]
        table.add_row(escape(name), *map(shown, figures), f"{row['seconds']:.0f}")
    table.add_row("mean image", f"{about['baseline_mse']:.4g}")
    if about.get("class_mean_mse") is not None:  # attacks of earlier versions have none
        table.add_row("mean image of the true class", f"{about['class_mean_mse']:.4g}")
    counts = about["images"]
    table.caption = f"{about['protocol']}: {counts['attacked']} images attacked, {counts['attacker']} to learn from"
    return table


def _spec(text: str) -> config.Spec:
    from ..evaluation.suites import PRESETS

    if text in PRESETS:
        return PRESETS[text]
    try:
        return config.Spec.model_validate(text)
    except ValidationError as error:
        raise UserError(config.explain(error)) from None


def _has_epochs(spec: config.Spec) -> bool:
    return "epochs" in inspect.signature(Registry("attacks").get(spec.name)).parameters


def _with_epochs(spec: config.Spec, epochs: int | None) -> config.Spec:
    kind = Registry("attacks").get(spec.name)
    if epochs is None or not _has_epochs(spec):
        return spec
    if (instead := getattr(kind, "instead_of_epochs", None)) and spec.parameters.get(instead) is not None:
        raise UserError(
            f"--epochs is {epochs}, but {spec.name} has {instead}={spec.parameters[instead]} in place of epochs; "
            "leave one of them out"
        )
    return config.Spec(name=spec.name, parameters={**spec.parameters, "epochs": epochs})
