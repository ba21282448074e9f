"""The command: parses, calls, prints. Everything it does can be done from Python too."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import __version__, bars, config
from .errors import UserError, unknown
from .registry import Registry

app = App(
    name="splitveil",
    help="Train split networks whose wire gives nothing away, attack them, and show what an attacker sees.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # main prints what was kept
)
LISTS = {
    "models": "zoo",
    "decoders": "zoo.decoders",
    "data": "data",
    "defenses": "defenses",
    "attacks": "attacks",
}
out_console, error_console = Console(), Console(stderr=True)
FLAGS = config.flags()


@app.command
def demo(*, out: Path = Path("demo"), seed: int = 0) -> None:
    """Train two small models on digits, noise alone and noise with CEM; attack both; write OUT/report.html.

    Parameters
    ----------
    out
        Folder of the report; an earlier demo in it is replaced.
    seed
        Of everything that is drawn.
    """
    from .demo import run_demo

    with bars.bars() as bar:
        page = run_demo(out, seed=seed, bar=bar)
    _say(f"open {page.absolute()} in a browser")


@app.command
def train(
    *,
    out: Path,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    download: Annotated[bool, Parameter(negative="")] = False,
    tensorboard: Annotated[bool, Parameter(negative="")] = False,
    flags: Annotated[FLAGS | None, Parameter(name="*")] = None,  # type: ignore[valid-type]
) -> None:
    """Train a split classifier. Settings come from --config and, over it, from the flags.

    Parameters
    ----------
    out
        Folder of the run.
    config_file
        YAML file of settings, e.g. the config.yaml of another run.
    resume
        Go on with the run in --out from its last epoch.
    download
        Fetch the image set where it is published in one archive.
    tensorboard
        Write the curves of OUT/metrics.jsonl for TensorBoard too, under OUT/tensorboard.
    """
    from . import runs
    from .training import fit

    values = config.load(config_file) if config_file else {}
    values |= flags.model_dump(exclude_none=True) if flags else {}  # type: ignore[attr-defined]
    settings = config.parse(values).resolve()
    images = runs.load_images(settings, download=download)
    with bars.bars() as bar:
        show = bars.training(bar, "training", settings.epochs)
        summary = fit(settings, images, out, resume=resume, progress=show, tensorboard=tensorboard)
    table = Table("", "value", title=str(out))
    accuracy = summary["accuracy"]
    table.add_row("test accuracy", _interval(accuracy, percent=True))
    table.add_row("chosen epoch (on validation images)", f"{summary['epoch'] + 1} of {settings.epochs}")
    if summary["leakage_nats"] is not None:
        table.add_row("leakage estimate", f"{summary['leakage_nats']:.0f} nats per image")
    table.add_row("wire", f"{tuple(summary['wire']['shape'])}, {summary['wire']['bytes']} bytes")
    table.add_row("parameters on the device", f"{summary['parameters']['encoder']:,}")
    table.add_row("seconds", f"{summary['seconds']:.0f}")
    out_console.print(table)
    _say(f"attack it: splitveil attack {out} --attack decoder")


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
    root
        Folder of the images, where they have moved since the training.
    seed
        Of the attack.
    """
    from . import runs, suites
    from .evaluation import attack_run

    if bool(attack) == bool(suite):
        raise UserError("name what attacks: either --attack NAME (several times if you like) or --suite quick-v1")
    if suite and epochs is not None:
        raise UserError("a suite is frozen; leave --epochs out, or name the attacks with --attack")
    opened = runs.Run.open(run)
    specs = [_with_epochs(_spec(text), epochs).resolve("attacks") for text in attack or ()]
    options: dict[str, Any] = {"protocol_name": protocol or opened.settings.protocol, "seed": seed}
    options |= {"attacker_size": attacker_size, "attacked": attacked}
    named = suites.labels(tuple(specs))
    images = runs.load_images(opened.settings.model_copy(update={"root": root}) if root else opened.settings)
    with bars.bars() as bar:
        if suite:
            found = suites.run_suite(opened, suite, images, progress=lambda name: bars.attack(bar, name), **options)
            _show_suite(opened, found)
            return
        rows = {
            label: attack_run(opened, spec, images, label=label, progress=bars.attack(bar, label), **options)
            for label, spec in named.items()
        }
    out_console.print(_attack_table(opened, rows, next(iter(rows.values()))))
    for label in rows:
        _say(f"look at {run / 'attacks' / label / 'reconstructions.png'}")
    _show_flags(f"{label}: {flag}" for label, row in rows.items() for flag in row["flags"])


def _show_suite(run: Any, found: dict[str, Any]) -> None:
    rows = found["attacks"] | {"worst case": found["worst_case"] | {"seconds": found["seconds"]}}
    out_console.print(_attack_table(run, rows, found))
    wins = ", ".join(f"{name} {count}" for name, count in found["wins"].items() if count)
    _say(f"lowest error, images won: {wins}")
    for name, reason in found["skipped"].items():
        _say(f"left out: {name}: {reason}")
    _say(f"all of it: {run.path / 'attacks' / ('suite-' + found['suite'] + '.json')}")
    _show_flags(found["flags"])


def _say(line: str) -> None:
    """A line as it is: a path must survive copying."""
    out_console.print(line, markup=False, highlight=False, soft_wrap=True)


def _show_flags(flags: Iterable[str]) -> None:
    for flag in flags:
        error_console.print(f"[yellow]flag[/yellow] {escape(flag)}")


@app.command
def legacy(*tokens: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Read the published code's scripts, option strings and checkpoints (docs/legacy.md).

    Parameters
    ----------
    tokens
        run_exp.sh, a checkpoint folder with --out RUN, or options: --AT_regularization gan_adv_step1 ...
    """
    from .legacy import command

    _say(command.run(list(tokens)))


@app.command(name="list")
def list_(what: str | None = None, /) -> None:
    """Show what can be named: models, decoders, data, defenses, attacks.

    Parameters
    ----------
    what
        One of these; all without it.
    """
    if what is not None and what not in LISTS:
        raise unknown("list", what, LISTS)
    for title, kind in LISTS.items():
        if what in (None, title):
            registry = Registry(kind)
            settings = kind in ("defenses", "attacks")
            table = Table("name", "what it is", *(["settings"] * settings), title=title, title_justify="left")
            for name, line in registry.describe():
                table.add_row(name, escape(line), *([escape(_settings(registry.get(name)))] * settings))
            out_console.print(table)


def _settings(kind: Any) -> str:
    parameters = inspect.signature(kind).parameters.values()
    return ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default}" for p in parameters)


def main(tokens: list[str] | None = None) -> None:
    """Entry point: bad input is one line on standard error and exit code 2, Ctrl-C is 130."""
    try:
        app(tokens, exit_on_error=False, print_error=False)
    except (UserError, CycloptsError) as error:
        cause = error.__cause__
        line = " ".join((config.explain(cause) if isinstance(cause, ValidationError) else str(error)).split())
        print(f"splitveil: {line}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        training = (tokens or sys.argv[1:])[:1] == ["train"]
        kept = "finished epochs are kept, --resume goes on" if training else "nothing half-written is left"
        print(f"splitveil: stopped; {kept}", file=sys.stderr)
        raise SystemExit(130) from None


def _attack_table(run: Any, rows: dict[str, dict[str, Any]], about: dict[str, Any]) -> Table:
    known = run.summary["accuracy"]  # an imported checkpoint has none where its images were not at hand
    accuracy = _interval(known, percent=True) if known else "not measured"
    table = Table("attack", "MSE", "SSIM", "PSNR dB", "seconds", title=f"{run.path}: accuracy {accuracy}")
    for name, row in rows.items():
        table.add_row(name, *(_interval(row[key]) for key in ("mse", "ssim", "psnr")), f"{row['seconds']:.0f}")
    table.add_row("mean image", f"{about['baseline_mse']:.4g}", "", "", "")
    counts = about["images"]
    table.caption = f"{about['protocol']}: {counts['attacked']} images attacked, {counts['attacker']} to learn from"
    return table


def _interval(value: dict[str, Any], *, percent: bool = False) -> str:
    numbers = (value["mean"], *value["ci95"])
    mean, low, high = (f"{v:.2%}" if percent else f"{v:.4g}" for v in numbers)
    return rf"{mean} \[{low}, {high}]"


def _spec(text: str) -> config.Spec:
    from .suites import PRESETS

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
