"""Grids: files whose lists become cells, each one training and its attacks, all of them checked before any runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import config
from ..errors import UserError, did_you_mean
from ..statistics.evidence import MARGIN, checked_margin
from . import checks
from .cells import Cell, Grid
from .checks import named
from .grid_file import LISTS, MAX_CELLS, SETTINGS, GridFile, Row, read

PRESETS = Path(__file__).parent / "presets"
BASELINE_SIGMAS = (0.025, 0.05, 0.1, 0.2, 0.4)
"""Noise that a grid's defenses are compared with, where no other is named."""
ATTACKS = ("published/decoder",)
"""How cells are attacked where a file names neither attacks nor a suite."""


def presets() -> list[str]:
    """Return the names of the grids that come with the package.

    >>> presets()[-1]
    'smoke'
    """
    return sorted(path.relative_to(PRESETS).with_suffix("").as_posix() for path in PRESETS.rglob("*.yaml"))


def load_grid(
    path_or_preset: str | Path,
    *,
    baseline: Sequence[float] | None = None,
    root: str | Path | None = None,
    margin: float | None = None,
) -> Grid:
    """Read a grid file or a preset and check every cell; nothing is loaded, trained or written.

    Args:
        path_or_preset: a YAML file, or a name that `presets` gives.
        baseline: add, for every combination of the other settings, the cells of noise alone with these standard
            deviations (`BASELINE_SIGMAS`): ``gaussian:S`` and ``cem:0``, which measures and trains nothing.
        root: folder of the images, whatever the file says.
        margin: as of `Grid`, whatever the file says.

    Raises:
        UserError: what is wrong with the file, or with the first bad cell, which is named by its axes.

    >>> grid = load_grid("smoke")
    >>> len(grid.cells), sorted(grid.cells[0].axes)
    (6, ['lambda', 'more', 'seed'])
    """
    name, values = _open(str(path_or_preset))
    file = read(values)
    options = {"attacks": _attacks(file), "attacker_size": file.attacker_size, "attacked": file.attacked}
    rows = list(_kept(file, {} if root is None else {"root": str(root)}))
    if baseline is not None:
        rows += _noise(rows, _sigmas(baseline))
        if len(rows) > MAX_CELLS:
            raise UserError(f"with its baseline the grid has {len(rows):,} cells; expected at most {MAX_CELLS:,}")
    cells: dict[str, Cell] = {}
    for axes, settings in rows:
        cell = Cell(settings, axes=axes, **options)
        cells.setdefault(cell.id, cell)
    checks.trainable(cells.values())
    named_margin = MARGIN if file.margin is None else file.margin
    margin = checked_margin(named_margin if margin is None else margin)
    return Grid(file.name or name, file.description, tuple(cells.values()), margin)


Settled = tuple[dict[str, Any], config.TrainConfig]
"""The axes and the resolved settings of a cell."""


def _open(source: str) -> tuple[str, dict[str, Any]]:
    if source in presets():
        return source, config.load(PRESETS / f"{source}.yaml")
    if not Path(source).exists() and not source.endswith((".yaml", ".yml")):
        hint = did_you_mean(source, presets()) or ";"
        raise UserError(f"unknown grid '{source}'{hint} expected a YAML file or one of: {', '.join(presets())}")
    return Path(source).stem, config.load(source)


def _kept(file: GridFile, over: dict[str, Any]) -> Iterator[Settled]:
    """Yield the cells that `exclude` leaves."""
    hits, left = [0] * len(file.exclude), 0
    for row in file.rows():
        # An excluded cell may be one that could not be trained, so the values as written are compared first.
        found = _matching(file, row)
        if not found:
            with named(row.axes):
                settings = _resolved(row.settings | over)
            found = _matching(file, row, settings)
            if not found:
                left += 1
                yield row.axes, settings
        for number in found:
            hits[number] += 1
    for number, (item, count) in enumerate(zip(file.exclude, hits, strict=True), 1):
        if not count:
            shown = ", ".join(f"{key}: {value}" for key, value in item.items())
            raise UserError(f"exclude {number} ({shown}) matches no cell; correct it or leave it out")
    if not left:
        raise UserError("exclude leaves no cell of the grid; expected at least one")


def _matching(file: GridFile, row: Row, settings: config.TrainConfig | None = None) -> list[int]:
    """Which entries of `exclude` a cell matches; those of `include` are asked for, and match none."""
    found = []
    for number, item in enumerate([] if row.included else file.exclude):
        try:
            if _matches(item, row, settings):
                found.append(number)
        except UserError as error:
            raise UserError(f"exclude {number + 1}: {error}") from None
    return found


def _matches(item: dict[str, Any], row: Row, settings: config.TrainConfig | None) -> bool:
    for key, value in item.items():
        wanted = _alternatives(key, value)
        if settings is not None and key in SETTINGS:
            if not any(getattr(settings, key) == _as_resolved(settings, key, one) for one in wanted):
                return False
        elif key in SETTINGS:
            if row.settings.get(key) not in wanted:
                return False
        elif key not in row.values or row.values[key] not in wanted:
            return False
    return True


def _as_resolved(settings: config.TrainConfig, key: str, value: Any) -> Any:
    """Return what a setting written so would be in a cell with these images; null is its default."""
    return getattr(_resolved({"data": settings.data} | ({} if value is None else {key: value})), key)


def _alternatives(key: str, value: Any) -> list[Any]:
    return value if isinstance(value, list) and key not in LISTS else [value]


def _resolved(values: dict[str, Any]) -> config.TrainConfig:
    return config.parse(values).resolve()


def _attacks(file: GridFile) -> dict[str, config.Spec]:
    from ..evaluation import suites  # with all that scores an attack

    texts, suite = file.attacks, file.suite
    if texts is not None and suite is not None:
        raise UserError("the file names attacks and a suite; give one of the two")
    if suite is not None:
        if suite not in suites.SUITES:
            names = ", ".join(suites.SUITES)
            raise UserError(f"unknown suite '{suite}'{did_you_mean(suite, suites.SUITES) or ';'} there are: {names}")
        # The labels that `splitveil attack --suite` uses.
        return {label: spec.resolve("attacks") for label, spec in suites.labels(suites.SUITES[suite]).items()}
    texts = list(ATTACKS) if texts is None else texts
    found = [suites.PRESETS.get(text) if isinstance(text, str) else None for text in texts]
    specs = [spec or _spec(text) for spec, text in zip(found, texts, strict=True)]
    for spec in specs:
        spec.make("attacks")  # its constructor checks the values
    return suites.labels(tuple(spec.resolve("attacks") for spec in specs))


def _spec(text: Any) -> config.Spec:
    from pydantic import ValidationError

    try:
        return config.Spec.model_validate(text)
    except ValidationError as error:
        raise UserError(f"attacks: {config.explain(error)}") from None


def _sigmas(baseline: Sequence[float]) -> list[float]:
    if not baseline or not all(0 < sigma < math.inf for sigma in baseline):
        raise UserError(f"baseline is {list(baseline)}; expected standard deviations of noise above 0, such as 0.1")
    return [float(sigma) for sigma in baseline]


def _noise(rows: list[Settled], sigmas: list[float]) -> list[Settled]:
    """Noise alone for each different combination of the settings beside the defenses, where the grid lacks it.

    Where no cell is defended (a network without defense, for reference) there is nothing to compare it with.
    """
    combinations: dict[str, Settled] = {}
    there: set[tuple[str, float]] = set()
    for axes, settings in rows:
        key = settings.model_dump_json(exclude={"defense", "root", "devices"})
        if settings.defense:
            combinations.setdefault(key, (axes, settings))
        if (sigma := _noise_alone(settings.defense)) is not None:
            there.add((key, sigma))
    return [
        (
            {name: value for name, value in axes.items() if name in SETTINGS and name != "defense"}
            | {"baseline": "noise", "sigma": sigma},
            _resolved({**settings.model_dump(mode="json"), "defense": [f"gaussian:{sigma}", "cem:0"]}),
        )
        for key, (axes, settings) in combinations.items()
        for sigma in sigmas
        if (key, sigma) not in there
    ]


def _noise_alone(defense: tuple[config.Spec, ...]) -> float | None:
    """sigma, where nothing but Gaussian noise acts: a CEM of weight 0 only measures."""
    acting = [spec for spec in defense if spec.name != "cem" or spec.parameters["weight"]]
    return acting[0].parameters["sigma"] if [spec.name for spec in acting] == ["gaussian"] else None
