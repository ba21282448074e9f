"""A grid file as written: its sections checked, its lists counted and multiplied out."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, get_origin

from ..config import MAX_SEED, TrainConfig
from ..errors import UserError, did_you_mean

MAX_CELLS = 100_000
LABEL = "label"
"""The axis that only names cells in tables: neither a setting nor used in a text."""
SETTINGS = TrainConfig.model_fields
LISTS = frozenset(name for name, field in SETTINGS.items() if get_origin(field.annotation) is tuple)
"""Settings whose one value is a list: in a grid their axis is a list of lists."""
KEYS = (
    *("name", "description", "base", "grid", "zip", "exclude", "include", "seeds"),
    *("attacks", "suite", "attacker_size", "attacked", "margin"),
)
PLACEHOLDER = re.compile(r"\{(\w+)\}")
BRACES = re.compile(r"\{[^{}]*\}")
TEXTS = {"name": "my-grid", "description": "one line for tables", "suite": "quick-v1"}
"""Keys that hold a text, each with an example."""
MAX_LETTERS = 200
"""Of a text: names become part of file names and of tables."""
Axes = dict[str, list[Any]]


class Row(NamedTuple):
    """A cell as written: its axes, those that vary, the settings as plain values, and whether ``include`` has it."""

    values: dict[str, Any]
    axes: dict[str, Any]
    settings: dict[str, Any]
    included: bool


@dataclass(frozen=True)
class GridFile:
    """The sections of a grid file.

    Attributes:
        base: settings of all cells. base_axes: those of them that were given as lists.
        grid: axis -> values; the cells are their product. zip: axis -> values, all as long; the cells are their rows.
        include: cells besides, each as settings over ``base``. exclude: partial settings of cells to leave out.
        seeds: of every cell that names none itself; empty: what ``base`` says.
        rest: name, description, and how every cell is attacked.
    """

    base: dict[str, Any]
    base_axes: Axes
    grid: Axes
    zip: Axes
    include: list[dict[str, Any]]
    exclude: list[dict[str, Any]]
    seeds: list[int]
    rest: dict[str, Any]

    @property
    def counts(self) -> list[int]:
        """Cells of the product and of each entry of ``include``, found by multiplying."""
        seeds = max(1, len(self.seeds))
        rows = len(next(iter(self.zip.values()), [None]))
        main = seeds * rows * math.prod(map(len, (self.base_axes | self.grid).values()))
        return [main, *((1 if "seed" in item else seeds) * _size(self._over(item)) for item in self.include)]

    def rows(self) -> Iterator[Row]:
        """Axes and settings of each cell, placeholders filled in; a seed is finished before the next begins."""
        zipped = [dict(zip(self.zip, values, strict=True)) for values in zip(*self.zip.values(), strict=True)] or [{}]
        main = self.base_axes | self.grid
        for seed in self.seeds or [None]:
            seeded = {} if seed is None else {"seed": seed}
            for row in zipped:
                for values in product(*main.values()):
                    yield self._row(row | dict(zip(main, values, strict=True)) | seeded)
            for number, item in enumerate(self.include, 1):
                if seed in (None, *self.seeds[:1]) or "seed" not in item:
                    axes = self._over(item)
                    for values in product(*axes.values()):
                        yield self._row(seeded | dict(zip(axes, values, strict=True)), number)

    @property
    def _varying(self) -> set[str]:
        axes = self.base_axes | self.grid | self.zip | ({"seed": self.seeds} if self.seeds else {})
        return {name for name, values in axes.items() if len(values) > 1}

    def _over(self, item: dict[str, Any]) -> Axes:
        fixed, axes = lists_of(item)
        return self.base_axes | {key: [value] for key, value in fixed.items()} | axes

    def _row(self, axes: dict[str, Any], number: int = 0) -> Row:
        """``number``: of the entry of ``include`` that it comes from; 0: of none."""
        known = self.base | axes
        if number:
            self._check_included(known, number)
        filled = {key: fill(value, known, key) for key, value in known.items()}
        # An empty value (null) is the default's place: scripts whose runs differ in what they set are written so.
        settings = {key: value for key, value in filled.items() if key in SETTINGS and value is not None}
        values = {key: filled[key] for key in axes}
        varying = {*self._varying, *(self.include[number - 1] if number else ())}
        return Row(values, {key: values[key] for key in axes if key in varying}, settings, included=number > 0)

    def _check_included(self, known: dict[str, Any], number: int) -> None:
        for key, value in known.items():
            for name in names_in(value):
                if name not in known and (name in self.grid or name in self.zip):
                    raise UserError(
                        f"include {number}: {key} names {{{name}}}, but include takes no axes of grid and zip; "
                        f"write its value: {name}: {_short((self.grid | self.zip)[name][0])}"
                    )


def read(values: dict[str, Any]) -> GridFile:
    """Check the sections of a grid file and count its cells; a file of settings alone is a grid of one cell.

    Raises:
        UserError: unknown keys, sections of another kind, empty or unequal lists, axes that nothing uses,
            placeholders without an axis, more than MAX_CELLS cells.
    """
    if values and all(key in SETTINGS for key in values):
        values = {"base": values}
    for key in values:
        if key not in KEYS:
            where = "; it is a setting: put it under base" if key in SETTINGS else did_you_mean(key, KEYS)
            raise UserError(f"{key}: no such key of a grid file{where or '; expected one of: ' + ', '.join(KEYS)}")
    _check_texts(values)
    base, base_axes = lists_of(_stacked(_mapping(values, "base")))
    file = GridFile(
        base=base,
        base_axes=_axes("base", base_axes),
        grid=_axes("grid", _mapping(values, "grid")),
        zip=_axes("zip", _mapping(values, "zip")),
        include=_items(values, "include"),
        exclude=_items(values, "exclude"),
        seeds=_seeds(values.get("seeds")),
        rest={key: values[key] for key in values if key in ("name", "description", *KEYS[-5:])},
    )
    _check_axes(file)
    _check_names(file)
    _check_count(file)
    return file


def _check_texts(values: dict[str, Any]) -> None:
    for key, example in TEXTS.items():
        text = values.get(key)
        if text is None:
            continue
        if not isinstance(text, str):
            raise UserError(f"{key} is {_short(text)}; expected one text, such as {key}: {example}")
        if len(text) > MAX_LETTERS:
            raise UserError(f"{key} has {len(text)} letters; expected at most {MAX_LETTERS}")
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text.strip()):
            raise UserError(f"{key} is {_short(text)}; expected one line without control characters")
    for name in sorted(names_in(values.get("attacks"))):
        raise UserError(
            f"attacks names {{{name}}}, but attacks are the same for the whole grid and take no axes; write the value"
        )


def _check_count(file: GridFile) -> None:
    total, (main, *included) = sum(file.counts), file.counts
    if total <= MAX_CELLS:
        return
    axes = [*(len(v) for v in (file.base_axes | file.grid).values()), len(next(iter(file.zip.values()), [0]))]
    how = " × ".join(f"{n:,}" for n in (*axes, len(file.seeds)) if n > 1) or f"{main:,}"
    how += f", and {sum(included):,} of include" if included else ""
    raise UserError(
        f"the grid has {total:,} cells ({how}); expected at most {MAX_CELLS:,}: shorten a list or divide the file"
    )


def lists_of(settings: dict[str, Any]) -> tuple[dict[str, Any], Axes]:
    """Settings with one value, and those with a list of values where one is expected.

    >>> lists_of({"epochs": [5, 10], "defense": ["cem:16"]})
    ({'defense': ['cem:16']}, {'epochs': [5, 10]})
    """
    axes = {key: value for key, value in settings.items() if isinstance(value, list) and key not in LISTS}
    return {key: value for key, value in settings.items() if key not in axes}, axes


def fill(value: Any, axes: dict[str, Any], where: str = "", within: tuple[str, ...] = ()) -> Any:
    """``value`` with every ``{axis}`` replaced.

    A text that is nothing but ``{axis}`` becomes the axis' value itself; in a list, a value that is a list takes the
    place of its item, and null removes it.

    >>> fill(["gaussian:{s}", "{more}", "cem:{l}"], {"s": 0.1, "l": 16, "more": ["nopeek:0.3", "dropout:0.2"]})
    ['gaussian:0.1', 'nopeek:0.3', 'dropout:0.2', 'cem:16']
    """

    def value_of(name: str) -> Any:
        if name not in axes:
            hint = did_you_mean(name, axes) or f"; add it: grid: {{{name}: [...]}}"
            raise UserError(f"{where}: '{value}' names {{{name}}}, which is no axis{hint}")
        if name in within:
            raise UserError(f"{where}: the axis {name} names itself; write its values out")
        return fill(axes[name], axes, where, (*within, name))

    if isinstance(value, str):
        if whole := PLACEHOLDER.fullmatch(value):
            return value_of(whole[1])
        return PLACEHOLDER.sub(lambda found: _text(where, value, found[0], value_of(found[1])), value)
    if isinstance(value, dict):
        return {key: fill(part, axes, where, within) for key, part in value.items()}
    if not isinstance(value, list):
        return value
    filled: list[Any] = []
    for item in value:
        part = fill(item, axes, where, within)
        if isinstance(item, str) and PLACEHOLDER.fullmatch(item):
            filled += part if isinstance(part, list) else [part] if part is not None else []
        else:
            filled.append(part)
    return filled


def names_in(value: Any, pattern: re.Pattern[str] = PLACEHOLDER) -> set[str]:
    """The axes that the texts in ``value`` name, or what else of them fits ``pattern``."""
    if isinstance(value, str):
        return set(pattern.findall(value))
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*(names_in(part, pattern) for part in parts))


def _text(where: str, whole: str, name: str, value: Any) -> str:
    if value is None or isinstance(value, list | dict):
        raise UserError(f"{where}: {name} in '{whole}' is {value!r}; expected a number or text, or {name} alone")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _size(axes: Axes) -> int:
    return math.prod(map(len, axes.values()))


def _mapping(values: dict[str, Any], key: str) -> dict[str, Any]:
    section = {} if values.get(key) is None else values[key]
    if not isinstance(section, dict) or not all(isinstance(name, str) for name in section):
        raise UserError(f"{key} is {_short(section)}; expected settings by name, such as {key}: {_example(key)}")
    return section


def _example(key: str) -> str:
    return "{data: cifar10}" if key == "base" else "{epochs: [60, 240]}"


def _axes(section: str, axes: dict[str, Any]) -> Axes:
    for name, values in axes.items():
        if not isinstance(values, list):
            raise UserError(
                f"{section}: {name} is {_short(values)}; expected a list of values, such as [{_short(values)}]"
            )
        if not values:
            raise UserError(f"{section}: {name} is an empty list, so there is no cell; give it values or leave it out")
    lengths = {name: len(values) for name, values in axes.items()}
    if section == "zip" and len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(f"zip: its lists are not equally long ({shown}); each row takes one value of every list")
    return {name: [_stacked({name: v})[name] for v in values] for name, values in axes.items()}


def _stacked(settings: dict[str, Any]) -> dict[str, Any]:
    """The same, where one defense is a stack of one."""
    one = settings.get("defense")
    return settings | {"defense": [one]} if isinstance(one, str | dict) else settings


def _items(values: dict[str, Any], key: str) -> list[dict[str, Any]]:
    items = [] if values.get(key) is None else values[key]
    if not isinstance(items, list) or not all(isinstance(item, dict) and item for item in items):
        raise UserError(f"{key} is {_short(items)}; expected a list of settings, such as {key}: [{{seed: 1}}]")
    for number, item in enumerate(items, 1):
        _axes(f"{key} {number}", lists_of(item)[1])
    return [_stacked(item) for item in items]


def _seeds(seeds: Any) -> list[int]:
    if seeds is None:
        return []
    if type(seeds) is int and seeds > MAX_CELLS:  # before the seeds are written out
        raise UserError(f"the grid has {seeds:,} seeds; expected at most {MAX_CELLS:,} cells")
    if type(seeds) is int and seeds > 0:
        return list(range(seeds))
    if isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds):
        if max(seeds) > MAX_SEED:
            raise UserError(f"seeds has {max(seeds)}; expected seeds from 0 to {MAX_SEED}")
        return seeds
    raise UserError(f"seeds is {_short(seeds)}; expected how many (3 for 0, 1, 2) or a list of them, such as [0, 7]")


def _check_axes(file: GridFile) -> None:
    seen: dict[str, str] = {}
    for section, axes in (("base", file.base_axes), ("grid", file.grid), ("zip", file.zip)):
        for name in axes:
            if name in seen:
                raise UserError(f"{name} has values in {seen[name]} and in {section}; give them once")
            seen[name] = section
    if file.seeds and ("seed" in seen or "seed" in file.base):
        raise UserError(f"seed is in {seen.get('seed', 'base')}, and seeds is given; give one of the two")


def _check_names(file: GridFile) -> None:
    texts: list[Any] = [file.base, file.base_axes, file.grid, file.zip, file.include]
    used = names_in(texts)
    for key in (*file.base, *file.base_axes):
        if key not in SETTINGS:
            raise UserError(f"base: {key}: no such setting{did_you_mean(key, SETTINGS)}")
    sections = [("grid", file.grid), ("zip", file.zip)]
    sections += [(f"include {number}", item) for number, item in enumerate(file.include, 1)]
    for section, axes in sections:
        for key in axes:
            if key not in SETTINGS and key not in used and key != LABEL:
                hint = _unused(key, used, names_in(texts, BRACES))
                raise UserError(f"{section}: {key} is no setting, and no text names {{{key}}}{hint}")
    known = {*file.base_axes, *file.grid, *file.zip, *SETTINGS, *(key for item in file.include for key in item), LABEL}
    for number, item in enumerate(file.exclude, 1):
        for key in item:
            if key not in known:
                hint = did_you_mean(key, known)
                raise UserError(f"exclude {number}: {key} is neither a setting nor an axis{hint}")


def _unused(key: str, used: set[str], braces: set[str]) -> str:
    """What to do about an axis that nothing uses."""
    for text in sorted(braces):
        if key in text and not PLACEHOLDER.fullmatch(text):
            right = re.sub(r"\W", "_", key)
            return f"; {text} is no placeholder, which has letters, digits and _ alone, such as {{{right}}}"
    # A name of one's own, such as lambda, is a little like many settings: only what is very like it was meant.
    close = difflib.get_close_matches(key, {*SETTINGS, *used, LABEL}, n=1, cutoff=0.7)
    hint = f"did you mean '{close[0]}'? or " if close else ""
    return f"; {hint}write {{{key}}} where its values belong"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
