"""The translation of a run_exp.sh of the published kind, whose loops become a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from . import notes as say
from .attack import attack_spec
from .options import NAMES, Reading, read_flags
from .shell import Call, walk
from .translate import Translation, comments, taken, translate
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
        """Return the notes of all runs, each once."""
        return list(dict.fromkeys(note for run in self.runs for note in run.notes))

    @property
    def attacks(self) -> tuple[str, ...]:
        """Return the attacks of all runs, each once."""
        return tuple(dict.fromkeys(attack for run in self.runs for attack in run.attacks))

    def to_yaml(self) -> str:
        """Return YAML: one training for `splitveil train --config`, several as `base` and `grid` (or `zip`)."""
        if not self.axes:
            return self.runs[0].to_yaml()
        values = {"base": self.base, "zip" if self.zipped else "grid": self.axes}
        return comments(self.notes, self.attacks) + yaml.dump(values, Dumper=_Plain, sort_keys=False)


def read_script(path: str | Path, *, reading: Reading = "paper") -> Grid:
    """Read a script of the published kind without running anything.

    It reads variables, `for X in a b c; do`, `if` and `&&` with tests of words, and the calls of `main_MIA*.py` and
    `main_test_MIA*.py` (docs/legacy.md lists it all). A script with other shell commands is refused, as they may decide
    what is trained.

    Args:
        path: file of the script.
        reading: "paper" or "code".

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
        runs, notes = _runs(found.calls, reading)
    except UserError as error:
        raise UserError(f"{path}, {error}") from None
    if not runs:
        raise UserError(f"{path} calls no main_MIA.py that would run; expected a published run_exp.sh")
    runs[0].notes.extend([*notes, *dict.fromkeys(OTHER.format(name, line) for line, name in found.others)])
    return _grid(runs)


def _runs(found: Sequence[Call], reading: Reading) -> tuple[list[Translation], list[str]]:
    """Return the trainings with their attacks, and notes on attacks that belong to none."""
    runs: list[tuple[dict[str, Any], Translation]] = []
    strangers: list[list[str]] = []
    for call in found:
        try:
            if "test" in call.script:
                strangers += [stranger] if (stranger := _attack(call, runs, reading)) else []
            else:
                flags = _flags(call, attack=False)
                runs.append((flags, translate(flags, reading)))
        except UserError as error:
            raise UserError(f"line {call.line}: {error}") from None
    if strangers and not runs:
        more = f"; {others} more calls attack networks alike" if (others := len(strangers) - 1) else ""
        raise UserError("; ".join(strangers[0]) + more)  # what the proposed command leaves out is said with it
    return [run for _, run in runs], [note for notes in strangers for note in notes]


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


def _attack(call: Call, runs: list[tuple[dict[str, Any], Translation]], reading: Reading) -> list[str]:
    """Give the attack to the training whose files it names; return notes where none does."""
    flags = _flags(call, attack=True)
    found = next((at for at in reversed(range(len(runs))) if _same_files(flags, runs[at][0])), None)
    if found is None:
        name = f"{flags.get('folder', 'saves')}/{flags['filename']}" if "filename" in flags else "a network"
        notes: list[str] = []
        return [say.STRANGER.format(call.line, name, attack_spec(flags, {}, reading, notes)), *notes]
    trained, run = runs[found]
    notes = list(run.notes)
    spec = attack_spec(flags, taken(trained), reading, notes)
    runs[found] = trained, replace(run, notes=_once(notes), attacks=tuple(_once([*run.attacks, spec])))
    return []


def _same_files(attack: dict[str, Any], training: dict[str, Any]) -> bool:
    """Return whether all that both name is the same."""
    return all(attack[name] == training[name] for name in ("folder", "filename") if name in attack.keys() & training)


def _grid(runs: Sequence[Translation]) -> Grid:
    different: list[Translation] = []
    for run in runs:
        at = next((i for i, other in enumerate(different) if other.settings == run.settings), None)
        if at is None:
            different.append(run)
        else:
            known = different[at]
            notes, attacks = _once([*known.notes, *run.notes]), _once([*known.attacks, *run.attacks])
            different[at] = Translation(known.settings, notes, tuple(attacks))
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
    """Return the settings of each cell as a reader of the grid file gets them.

    >>> cells(Grid([], {"data": "digits"}, {"seed": [0, 1]}))
    [{'data': 'digits', 'seed': 0}, {'data': 'digits', 'seed': 1}]
    """
    columns = zip(*grid.axes.values(), strict=True) if grid.zipped else product(*grid.axes.values())
    return [grid.base | dict(zip(grid.axes, values, strict=True)) for values in columns]


class _Plain(yaml.SafeDumper):
    """A dumper without anchors: a list that occurs twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
