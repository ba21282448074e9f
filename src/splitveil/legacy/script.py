"""A published-style run_exp.sh: its loops become a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from .options import NAMES, read_flags
from .shell import Call, walk
from .translate import Reading, Translation, comments, decoder_network, translate
from .words import LOOSE, readable, unknown

MAX_BYTES = 2**20
OTHER = "{} (line {}) is another Python script: it is not read, and what it may train is not here"


@dataclass(frozen=True)
class Grid:
    """The trainings of a script.

    Attributes:
        runs: one translation for each different training.
        base: settings that all share.
        axes: setting -> its values; the runs are their product or, if not (`zipped`), their rows.
    """

    runs: list[Translation]
    base: dict[str, Any]
    axes: dict[str, list[Any]]
    zipped: bool = False

    @property
    def notes(self) -> list[str]:
        """The notes of all runs, each once."""
        return list(dict.fromkeys(note for run in self.runs for note in run.notes))

    def to_yaml(self) -> str:
        """One training: YAML for `splitveil train --config`; several: `base` and `grid` (or `zip`)."""
        if not self.axes:
            return self.runs[0].to_yaml()
        values = {"base": self.base, "zip" if self.zipped else "grid": self.axes}
        return comments(self.notes, self.runs[0].attack) + yaml.dump(values, Dumper=_Plain, sort_keys=False)


def read_script(path: str | Path, *, reading: Reading = "paper") -> Grid:
    """Read a script of the published kind, without running anything.

    Read are variables, `for X in a b c; do`, `if` and `&&` with tests of words, and the calls of `main_MIA*.py` and
    `main_test_MIA*.py` (docs/legacy.md lists it all). A script that has other shell is refused, as that may decide what
    is trained.

    Raises:
        UserError: no such file, no training in it, or, with the line, shell or options that are not read.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
    ...     _ = file.write('for s in 1 2; do python main_MIA.py --dataset cifar10 --random_seed $s; done')
    ...     file.flush()
    ...     read_script(file.name).axes
    {'seed': [1, 2]}
    """
    text = _text(Path(path))
    try:
        found = walk(text)
        runs = _runs(found.calls, reading)
    except UserError as error:
        raise UserError(f"{path}, {error}") from None
    if not runs:
        raise UserError(f"{path} calls no main_MIA.py that would run; expected a published run_exp.sh")
    runs[0].notes.extend(dict.fromkeys(OTHER.format(name, line) for line, name in found.others))
    return _grid(runs)


def _runs(found: Sequence[Call], reading: Reading) -> list[Translation]:
    runs: list[Translation] = []
    for call in found:
        if "test" in call.script:
            if runs and runs[-1].attack is None:
                notes = list(runs[-1].notes)
                runs[-1] = Translation(runs[-1].settings, notes, _attack(call, notes))
        else:
            runs.append(_training(call, reading))
    return runs


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} has {path.stat().st_size} bytes; expected a shell script of at most {MAX_BYTES}")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; expected a published run_exp.sh") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text; expected a published run_exp.sh") from None
    if "\0" in text:
        raise UserError(f"{path} is no text; expected a published run_exp.sh")
    return text


def _training(call: Call, reading: Reading) -> Translation:
    try:
        return translate(_flags(call, attack=False), reading)
    except UserError as error:
        raise UserError(f"line {call.line}: {error}") from None


def _flags(call: Call, *, attack: bool) -> dict[str, Any]:
    name = before = ""
    for word in call.argv:
        plain = readable(word)
        name = plain.removeprefix("--").partition("=")[0] if plain.startswith("--") else name
        if unknown(word) and name not in NAMES and name:
            shown = plain.removeprefix(f"--{name}=")
            raise UserError(
                f"--{name} takes its value from {shown}, which is not known without a shell; write the value"
            )
        if unknown(word) and not plain.startswith("--") and before != f"--{name}":
            raise UserError(f"{plain} is not known without a shell; write the options that it stands for")
        if LOOSE in word:
            raise UserError(
                f"--{name} takes its value from {plain}, which may be several words; write it, or put it in quotes"
            )
        before = word
    return read_flags([readable(word) for word in call.argv], attack=attack)


def _attack(call: Call, notes: list[str]) -> str:
    """The decoder attack that the published attack script runs; its decoder's name is the last one given."""
    try:
        flags = _flags(call, attack=True)
    except UserError as error:
        raise UserError(f"line {call.line}: {error}") from None
    parts = {
        "epochs": flags.get("attack_epochs"),
        "network": decoder_network(flags["gan_AE_type"], notes) if "gan_AE_type" in flags else None,
        "lr": flags.get("MIA_lr"),
    }
    given = ",".join(f"{key}={value}" for key, value in parts.items() if value is not None)
    return f"decoder:{given}" if given else "decoder"


def _grid(runs: Sequence[Translation]) -> Grid:
    different: list[Translation] = []
    for run in runs:
        if all(run.settings != other.settings for other in different):
            different.append(run)
    keys = list(dict.fromkeys(key for run in different for key in run.settings))
    rows = {key: [run.settings.get(key) for run in different] for key in keys}
    axes = {key: _once(values) for key, values in rows.items() if len(_once(values)) > 1}
    base = {key: values[0] for key, values in rows.items() if key not in axes}
    size = 1
    for values in axes.values():
        size *= len(values)
    if size == len(different):  # all different, so as many as the product has are the product
        return Grid(different, base, axes)
    return Grid(different, base, {key: rows[key] for key in axes}, zipped=True)


def _once(values: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        if value not in kept:
            kept.append(value)
    return kept


def cells(grid: Grid) -> list[dict[str, Any]]:
    """The settings of each cell as a reader of the grid file gets them.

    >>> cells(Grid([], {"data": "digits"}, {"seed": [0, 1]}))
    [{'data': 'digits', 'seed': 0}, {'data': 'digits', 'seed': 1}]
    """
    columns = zip(*grid.axes.values(), strict=True) if grid.zipped else product(*grid.axes.values())
    return [grid.base | dict(zip(grid.axes, values, strict=True)) for values in columns]


class _Plain(yaml.SafeDumper):
    """No anchors: a list that occurs twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
