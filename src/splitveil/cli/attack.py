"""`splitveil attack`."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import ValidationError
from rich.markup import escape
from rich.table import Column, Table

from .. import bars, config
from ..errors import UserError
from ..registry import Registry
from ._shared import app, duration, interval, out_console, say, show_flags

TITLES = {"mse": "MSE", "ssim": "SSIM", "psnr": "PSNR dB"}


@app.command
def attack(
    run: Path,
    *,
    attack: Annotated[list[str] | None, Parameter(negative="")] = None,
    suite: str | None = None,
    protocol: str | None = None,
    epochs: int | None = None,
    attacker_size: int | None = None,
    attacked: int | None = None,
    observed: int = 1,
    budget: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    lpips: Path | None = None,
    reidentify: Annotated[bool, Parameter(negative="")] = False,
    root: Path | None = None,
    seed: int = 0,
) -> None:
    """Attack a finished run and leave RUN/attacks/NAME/ with summary.json, per_image.csv, reconstructions.png.

    Parameters
    ----------
    run
        Run folder that `splitveil train` made.
    attack
        Attack, name:value or name:key=value,..., or published/decoder, published/gan, he2019/rmle; may be repeated.
    suite
        Frozen suite of attacks: standard-v1, or quick-v1 for two cores; reports the worst case image by image.
    protocol
        train_time, inference_time or auxiliary; by default the one that the run was trained under.
    epochs
        Epochs of trained attacks.
    attacker_size
        Let the attacker train on only this many images.
    attacked
        Reconstruct only this many images.
    observed
        Wires of each image that the attacker sees and averages, as of a request sent again.
    budget
        What each attack may spend: steps of an optimisation as 500, or time as 90s, 5m.
    dry_run
        Take two steps of everything, print what would be done and how long it takes, write nothing.
    lpips
        Score the perceptual distance too, with these weights of torchvision's alexnet, vgg16 or squeezenet1_1.
    reidentify
        Score how often a classifier of clean images, trained once for the run, sees the class in the reconstruction.
    root
        Folder of the images, where they have moved since the training.
    seed
        Of the attack.
    """
    from .. import runs, suites
    from ..attacks.work import Budget
    from ..evaluation import attack_run, parts, rehearse

    if bool(attack) == bool(suite):
        raise UserError("name what attacks: either --attack NAME (several times if you like) or --suite quick-v1")
    if suite and (epochs is not None or budget is not None):
        raise UserError("a suite is frozen; leave --epochs and --budget out, or name the attacks with --attack")
    spent = Budget.parse(budget) if budget else None
    opened = runs.Run.open(run)
    named = suites.labels(tuple(_with_epochs(_spec(text), epochs).resolve("attacks") for text in attack or ()))
    terms: dict[str, Any] = {"protocol_name": protocol or opened.settings.protocol, "seed": seed, "observed": observed}
    terms |= {"attacker_size": attacker_size, "attacked": attacked}
    images = runs.load_images(opened.settings.model_copy(update={"root": root}) if root else opened.settings)
    if dry_run:
        left_out: dict[str, str] = {}
        if suite:
            given = parts(opened.settings, images, terms["protocol_name"], attacker_size, attacked)
            named, left_out = suites.granted(suite, given)
        out_console.print(_rehearsals({name: rehearse(opened, spec, images, **terms) for name, spec in named.items()}))
        _say_skipped(left_out)
        return
    with bars.bars() as bar:
        extra = _more_metrics(opened, images, lpips, reidentify, bar)
        if suite:
            show = functools.partial(bars.attack, bar)
            found = suites.run_suite(opened, suite, images, progress=show, extra=extra, **terms)
            _show_suite(opened, found)
            return
        rows = {}
        for label, spec in named.items():
            show = bars.attack(bar, label)
            rows[label] = attack_run(
                opened, spec, images, label=label, budget=spent, progress=show, extra=extra, **terms
            )
    out_console.print(_attack_table(opened, rows, next(iter(rows.values()))))
    for label in rows:
        say(f"look at {run / 'attacks' / label / 'reconstructions.png'}")
    show_flags(f"{label}: {flag}" for label, row in rows.items() for flag in row["flags"])


def _more_metrics(run: Any, images: Any, lpips: Path | None, reidentify: bool, bar: Any) -> dict[str, Any]:
    from .. import perceptual, reidentification

    extra: dict[str, Any] = {}
    if lpips:
        extra["lpips"] = perceptual.Lpips.load(lpips)
    if reidentify:
        show = bars.training(bar, "judge of clean images", reidentification.EPOCHS)
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
    rows = found["attacks"] | {"worst case": found["worst_case"] | {"seconds": found["seconds"]}}
    out_console.print(_attack_table(run, rows, found))
    wins = ", ".join(f"{name} {count}" for name, count in found["wins"].items() if count)
    say(f"lowest error, images won: {wins}")
    _say_skipped(found["skipped"])
    say(f"all of it: {run.path / 'attacks' / ('suite-' + found['suite'] + '.json')}")
    show_flags(found["flags"])


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
    table = Table(*columns, title=f"{escape(str(run.path))}: accuracy {accuracy}")
    for name, row in rows.items():
        figures = [interval(row[key]) if key in row else "" for key in (*TITLES, *more)]
        figures += [interval(row[key], percent=True) if key in row else "" for key in shares]
        table.add_row(escape(name), *figures, f"{row['seconds']:.0f}")
    table.add_row("mean image", f"{about['baseline_mse']:.4g}")
    counts = about["images"]
    table.caption = f"{about['protocol']}: {counts['attacked']} images attacked, {counts['attacker']} to learn from"
    return table


def _spec(text: str) -> config.Spec:
    from ..suites import PRESETS

    if text in PRESETS:
        return PRESETS[text]
    try:
        return config.Spec.model_validate(text)
    except ValidationError as error:
        raise UserError(config.explain(error)) from None


def _with_epochs(spec: config.Spec, epochs: int | None) -> config.Spec:
    if epochs is None or "epochs" not in inspect.signature(Registry("attacks").get(spec.name)).parameters:
        return spec
    return config.Spec(name=spec.name, parameters={**spec.parameters, "epochs": epochs})
