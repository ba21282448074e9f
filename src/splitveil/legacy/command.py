"""`splitveil legacy`: a script, a checkpoint folder or bare options -> text to print."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError, did_you_mean, shown
from ..ranges import whole
from ..storage.files import expanded, write_text
from .checkpoint import import_checkpoint
from .options import SWITCHES
from .script import read_script
from .tensors import is_stored
from .translate import read_options

ALIASES = {"data": "dataset", "cut": "cutlayer", "bottleneck": "bottleneck_option", "seed": "random_seed"}
"""Our names of published options."""
OWN = ("reading", "out", "root", "train-size", "test-size", "checkpoint", "normalization")
PLACES = ("out", "root")
"""Our own options that are paths."""
USAGE = "expected run_exp.sh, a checkpoint folder or options such as --AT_regularization gan_adv_step1"


def run(argv: Sequence[str]) -> str:
    """Run `splitveil legacy` with the words after it, and return the text to print.

    `--out` names the run folder of an imported checkpoint, or a file for the YAML of a script or of options.

    Args:
        argv: words after `splitveil legacy`.

    Raises:
        UserError: bad input; nothing is written then.

    >>> print(run(["--lambd", "0"]).splitlines()[-2])
    seed: 125
    """
    own, places, published = _sort(argv)
    reading = own.get("reading", "paper")
    if len(places) > 1:
        raise UserError(f"got {len(places)} paths ({', '.join(places)}); give one script or one folder")
    if not places and not published:
        raise UserError(f"nothing to translate; {USAGE}")
    if places and (Path(places[0]).is_dir() or is_stored(Path(places[0]))):
        return _import(places[0], own, published)
    for name in ("root", "train-size", "test-size", "checkpoint", "normalization"):
        if name in own:
            raise UserError(f"--{name} is for checkpoint folders; leave it out for a script or options")
    if not places:
        text, several = read_options(published, reading=reading).to_yaml(), False  # type: ignore[arg-type]
    elif published:
        raise UserError(f"{places[0]} is a script and {published[0]} an option of its own; leave the option out")
    else:
        script = read_script(places[0], reading=reading)  # type: ignore[arg-type]
        text, several = script.to_yaml(), bool(script.axes)
    return _out(text, several, own)


def _sort(argv: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Return our own options, the paths, and what is left for the published grammar."""
    own, places, published = {}, [], []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            places.append(str(expanded(word)))
            continue
        if name in SWITCHES:
            published.append(word)
            continue
        if not equals:
            if not words or words[0].startswith("--"):
                published.append(word)  # the grammar says what is wrong with it
                continue
            value = words.pop(0)
        if name in OWN:
            own[name] = str(expanded(value)) if name in PLACES else value
        else:
            if name == "bottleneck" and re.fullmatch(r"\d+", value):
                value = f"noRELU_C{value}S1"
            published.append(f"--{ALIASES.get(name, name)}={value}")
    if (reading := own.get("reading", "paper")) not in ("paper", "code"):
        hint = did_you_mean(reading, ("paper", "code")) or ";"
        raise UserError(f"--reading is '{reading}'{hint} expected paper or code")
    return own, places, published


def _import(folder: str, own: dict[str, str], published: list[str]) -> str:
    if "out" not in own:
        raise UserError(
            f"{folder} is a checkpoint{' folder' * Path(folder).is_dir()}; say where the run goes: --out RUN"
        )
    sizes = {}
    for name in ("train-size", "test-size"):
        if name in own:
            if (size := whole(own[name])) is None:
                raise UserError(f"--{name} is {shown(own[name])}; expected a whole number of images")
            sizes[name.replace("-", "_")] = size
    result = import_checkpoint(
        folder,
        own["out"],
        options=published,
        reading=own.get("reading", "paper"),  # type: ignore[arg-type]
        root=own.get("root"),
        checkpoint=own.get("checkpoint", "best"),
        normalization=own.get("normalization", "published"),  # type: ignore[arg-type]
        **sizes,
    )
    accuracy = result.summary["accuracy"]
    measured = (
        "accuracy not measured (the images were not found)" if accuracy is None else f"accuracy {accuracy['mean']:.4f}"
    )
    lines = [f"imported {folder} into {own['out']}: {measured}", *(f"note: {note}" for note in result.notes)]
    return "\n".join([*lines, f"next: splitveil attack {shlex.quote(own['out'])} --attack decoder"]) + "\n"


def _out(text: str, several: bool, own: dict[str, str]) -> str:
    """Write the YAML of one training, or of several, where it is asked for; say what comes next, as a comment in YAML.

    A comment, since the text may be sent into a file.
    """
    place = shlex.quote(own.get("out", "FILE"))
    command = f"splitveil bench {place} --out runs/grid" if several else f"splitveil train --config {place} --out RUN"
    if "out" not in own:
        return f"{text}# next, with this in FILE: {command}\n"
    if Path(own["out"]).exists():
        raise UserError(f"{own['out']} exists; choose another --out for the YAML")
    write_text(own["out"], text)
    return f"wrote {own['out']}\nnext: {command}\n"
