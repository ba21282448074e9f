"""Reports in a folder: what several attacks achieved together, by the file of a suite and the attacks beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from .config import renewed
from .errors import UserError
from .evaluation import suites
from .evaluation.flags import together
from .evaluation.scores import METRICS
from .model import SplitModel
from .outcomes import Report, Result
from .storage import reading
from .storage.files import write_json

REMEDY = "make its suite again, or remove the file"
TERMS = ("protocol", "seed", "observed", "images")
"""What all attacks of a suite have in common."""


class _Figures(TypedDict):
    """The entry of an attack in the file of a suite."""

    __pydantic_config__ = reading.OPEN  # type: ignore[misc]
    attack: Annotated[dict[str, dict[str, Any]], Field(min_length=1, max_length=1)]
    mse: reading.Interval


class _Suite(TypedDict):
    """``RUN/attacks/suite-SUITE.json``."""

    __pydantic_config__ = reading.OPEN  # type: ignore[misc]
    suite: str
    protocol: NotRequired[str]
    attacks: Annotated[dict[str, _Figures], Field(min_length=1)]
    skipped: dict[str, str]
    flags: list[str]
    doubts: NotRequired[list[str]]


_KIND = TypeAdapter(_Suite)


class Reports(dict[str, Report]):
    """Reports by the name of their suite, and ``SUITE@PROTOCOL`` where the protocol is not the run's own.

    Attributes:
        refused: files of suites that do not tell the figures of the attacks beside them, by the same names, with the
            reason. Whoever asks for such a report is told; the results and the other reports are as good as before.
    """

    def __init__(self) -> None:
        """Begin without reports."""
        super().__init__()
        self.refused: dict[str, str] = {}

    def __missing__(self, name: str) -> Report:
        """Say why there is no such report."""
        known = ", ".join([*self, *self.refused]) or "none"
        raise UserError(self.refused.get(name) or f"there is no report '{name}'; there are: {known}")


def read_reports(path: Path, results: dict[str, Result], model: SplitModel | None) -> Reports:
    """Return the reports of a folder, each of the results that were made under its own protocol.

    Args:
        path: the run folder.
        results: results of the attacks in it, by the name of their folder.
        model: as of `Report`.

    Raises:
        UserError: the file of a suite is damaged.
    """
    found = Reports()
    for file in sorted(path.glob("attacks/suite-*.json")):
        said = reading.read_json(file, _KIND, REMEDY)
        ending = f"@{said.get('protocol')}"  # as of `evaluate.place`
        ending = ending if file.stem.endswith(ending) else ""
        name = said["suite"] + ending
        made = {label: results[label + ending] for label in said["attacks"] if label + ending in results}
        if why := _difference(said, made):
            found.refused[name] = f"{file} is not of the attacks beside it ({why}); {REMEDY}"
            continue
        alone = together({label: result.flags for label, result in made.items()})
        doubts = said.get("doubts", [flag for flag in said["flags"] if flag not in alone])
        found[name] = Report(said["suite"], made, said["skipped"], doubts, model)
    return found


def _difference(said: dict[str, Any], made: dict[str, Result]) -> str | None:
    """Return how the file of a suite differs from the results of its attacks; None where it does not."""
    for label, entry in said["attacks"].items():
        if label not in made:
            return f"{label} is missing"
        summary, values = made[label].outcome.summary, made[label].outcome.values
        for term in TERMS:
            if term in said and term in summary and said[term] != summary[term]:
                return f"{label}: {term} {said[term]}, there {summary[term]}"
        if renewed(entry["attack"], "attacks") != renewed(summary["attack"], "attacks"):
            return f"{label}: other settings"
        for metric in METRICS:
            if metric in entry and metric in values:
                told, there = float(entry[metric]["mean"]), float(values[metric].double().mean())
                if not math.isclose(told, there, rel_tol=1e-5, abs_tol=1e-8):
                    return f"{label}: {metric} {told:.6g}, there {there:.6g}"
    return None


def check_report(report: Report, path: Path) -> bool:
    """Return whether a folder holds a report already.

    Args:
        report: results of several attacks.
        path: the run folder.

    Raises:
        UserError: it holds another one of the same name, which would be lost.
    """
    file = _file(report, path)
    if not file.is_file():
        return False
    kept, new = reading.read_json(file, _KIND, REMEDY), json.loads(json.dumps(_summary(report)))
    alike = all(kept.get(key, new[key]) == new[key] for key in ("suite", *TERMS, "skipped", "doubts"))
    if not alike or _compared(kept) != _compared(new):
        raise UserError(f"{file} is of another report of {report.suite}; choose an empty or new folder")
    return True


def write_report(report: Report, path: Path) -> None:
    """Write the file of a report.

    Args:
        report: results of several attacks.
        path: the run folder, which holds these attacks.
    """
    write_json(_file(report, path), _summary(report))


def _file(report: Report, path: Path) -> Path:
    return path / "attacks" / f"suite-{report.suite.replace(' ', '-')}.json"


def _compared(said: dict[str, Any]) -> dict[str, Any]:
    return {label: (entry["attack"], entry["mse"]) for label, entry in said["attacks"].items()}


def _summary(report: Report) -> dict[str, Any]:
    outcomes = {label: result.outcome for label, result in report.results.items()}
    first = next(iter(outcomes.values())).summary
    combined = suites.combined(
        {label: outcome.summary for label, outcome in outcomes.items()},
        {label: outcome.values for label, outcome in outcomes.items()},
        {label: outcome.held_out for label, outcome in outcomes.items()},
    )
    about = {"suite": report.suite, **{key: first[key] for key in ("protocol", "seed", "observed")}}
    seconds = sum(outcome.summary["seconds"] for outcome in outcomes.values())
    summary = {**about, **combined, "skipped": report.skipped, "doubts": report.doubts, "seconds": seconds}
    summary["flags"] += report.doubts
    return summary
