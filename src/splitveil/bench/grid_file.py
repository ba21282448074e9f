"""A grid file as written: its sections checked, its lists counted and multiplied out."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Iterator
from itertools import product
from typing import Annotated, Any, NamedTuple, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..config import MAX_SEED, TrainConfig
from ..errors import UserError, did_you_mean
from ..overrides import over

MAX_CELLS = 5_000
LABEL = "label"
"""The axis that only names cells in tables: neither a setting nor used in a text."""
SETTINGS = TrainConfig.model_fields
LISTS = frozenset(name for name, field in SETTINGS.items() if get_origin(field.annotation) is tuple)
"""Settings whose one value is a list: in a grid their axis is a list of lists."""
SEVERAL = frozenset({"base", "grid", "zip", "include"})
"""Sections that the settings of one training do not have."""
PLACEHOLDER = re.compile(r"\{(\w+)\}")
BRACES = re.compile(r"\{[^{}]*\}")


def _of_one_line(text: str) -> str:
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text.strip()):
        raise ValueError
    return text.strip()


def _stacked(settings: Any) -> Any:
    """Return the same settings, where one defense is a stack of one."""
    if isinstance(settings, dict) and isinstance(one := settings.get("defense"), str | dict):
        return settings | {"defense": [one]}
    return settings


def _stacks(axes: Any) -> Any:
    if not isinstance(axes, dict) or not isinstance(axes.get("defense"), list):
        return axes
    return axes | {"defense": [_stacked({"defense": value})["defense"] for value in axes["defense"]]}


def _listed(seeds: Any) -> Any:
    return list(range(seeds)) if type(seeds) is int and 0 < seeds <= MAX_CELLS else seeds


Text = Annotated[str, Field(max_length=200), AfterValidator(_of_one_line)]  # it becomes a part of files' names
Settings = Annotated[dict[str, Any], BeforeValidator(_stacked)]
Axes = Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], BeforeValidator(_stacks)]
Items = list[Annotated[Settings, Field(min_length=1)]]
Seeds = Annotated[list[Annotated[int, Field(ge=0, le=MAX_SEED)]], Field(min_length=1), BeforeValidator(_listed)]
Count = Annotated[int, Field(ge=2)]
ONE_LINE = "one line of at most 200 letters, such as"
IMAGES = "one number of images, at least 2, the same for the whole grid: write a file for each"


class Row(NamedTuple):
    """A cell as written: its axes, those that vary, the settings as plain values, and whether ``include`` has it."""

    values: dict[str, Any]
    axes: dict[str, Any]
    settings: dict[str, Any]
    included: bool


class GridFile(BaseModel):
    """The sections of a grid file; ``description`` says what is expected of each.

    Attributes:
        base: settings of all cells; those that are given as lists are axes.
        grid: axis -> values; the cells are their product.
        zip: axis -> values, all as long; the cells are their rows.
        include: cells besides, each as settings over ``base``.
        exclude: partial settings of cells to leave out.
        seeds: of every cell that names none itself; empty: what ``base`` says.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    name: Text = Field("", description=f"{ONE_LINE} name: my-grid")
    description: Text = Field("", description=f"{ONE_LINE} description: a sweep of noise")
    base: Settings = Field({}, description="settings by name, such as base: {data: cifar10}")
    grid: Axes = Field({}, description="lists of values by name, such as grid: {epochs: [60, 240]}")
    zip: Axes = Field({}, description="lists of values by name, all as long, such as zip: {epochs: [60, 240]}")
    include: Items = Field([], description="a list of settings, such as include: [{seed: 1}]")
    exclude: Items = Field([], description="a list of settings, such as exclude: [{seed: 1}]")
    seeds: Seeds | None = Field(
        None,
        description="how many (3 for 0, 1, 2) or a list of them, such as [0, 7]; "
        f"each from 0 to {MAX_SEED}, at most {MAX_CELLS:,} in all",
    )
    attacks: Annotated[list[Any], Field(min_length=1)] | None = Field(
        None, description="a list, such as [published/decoder, linear]"
    )
    suite: Text | None = Field(None, description="the name of a suite, such as suite: quick-v4")
    attacker_size: Count | None = Field(None, description=IMAGES)
    attacked: Count | None = Field(None, description=IMAGES)
    margin: Any = None

    def model_post_init(self, _: Any) -> None:
        """Check what concerns several sections."""
        for section, settings in (("base", self.base), *_numbered("include", self.include)):
            for name, values in lists_of(settings)[1].items():
                if not values:
                    raise UserError(_empty(f"{section}: {name}"))
        for name in sorted(names_in(self.attacks)):
            raise UserError(
                f"attacks names {{{name}}}, but attacks are the same for the whole grid and take no axes; "
                "write the value"
            )
        _check_axes(self)
        _check_names(self)
        if (total := self.count()) > MAX_CELLS:
            raise UserError(
                f"the grid has {total:,} cells; expected at most {MAX_CELLS:,}: shorten a list or divide the file"
            )

    @property
    def base_axes(self) -> dict[str, list[Any]]:
        """Settings of ``base`` that were given as lists."""
        return lists_of(self.base)[1]

    def count(self) -> int:
        """Return the number of cells, found by multiplying: a grid that is too large is never written out."""
        seeds, rows = len(self.seeds or [None]), len(next(iter(self.zip.values()), [None]))
        main = seeds * rows * _size(self.base_axes | self.grid)
        return main + sum((1 if "seed" in item else seeds) * _size(self._over(item)) for item in self.include)

    def rows(self) -> Iterator[Row]:
        """Yield axes and settings of each cell, placeholders filled in; one seed is finished before the next begins."""
        zipped = [dict(zip(self.zip, values, strict=True)) for values in zip(*self.zip.values(), strict=True)] or [{}]
        main, seeds = self.base_axes | self.grid, self.seeds or [None]
        for seed in seeds:
            seeded = {} if seed is None else {"seed": seed}
            for row in zipped:
                for values in product(*main.values()):
                    yield self._row(row | dict(zip(main, values, strict=True)) | seeded)
            for number, item in enumerate(self.include, 1):
                if seed == seeds[0] or "seed" not in item:
                    axes = self._over(item)
                    for values in product(*axes.values()):
                        yield self._row(seeded | dict(zip(axes, values, strict=True)), number)

    def _over(self, item: dict[str, Any]) -> dict[str, list[Any]]:
        fixed, axes = lists_of(item)
        return self.base_axes | {key: [value] for key, value in fixed.items()} | axes

    def _row(self, axes: dict[str, Any], number: int = 0) -> Row:
        """Return the row of the axes; ``number`` is that of the entry of ``include`` it comes from, or 0."""
        known = lists_of(self.base)[0] | axes
        if number:
            self._check_included(known, number)
        filled = {key: fill(value, known, key) for key, value in known.items()}
        base = {key: filled[key] if key not in axes else value for key, value in lists_of(self.base)[0].items()}
        # An empty value (null) is the default's place: scripts whose runs differ in what they set are written so.
        laid = over(base, {key: value for key, value in filled.items() if key in axes and key in SETTINGS})
        settings = {key: value for key, value in laid.items() if key in SETTINGS and value is not None}
        lists = self.base_axes | self.grid | self.zip | ({"seed": self.seeds} if self.seeds else {})
        varying = {name for name, values in lists.items() if len(values) > 1}
        varying |= {*self.include[number - 1]} if number else set()
        values = {key: filled[key] for key in axes}
        return Row(values, {key: values[key] for key in axes if key in varying}, settings, included=number > 0)

    def _check_included(self, known: dict[str, Any], number: int) -> None:
        main = self.grid | self.zip
        for key, value in known.items():
            for name in names_in(value) & main.keys() - known.keys():
                raise UserError(
                    f"include {number}: {key} names {{{name}}}, but include takes no axes of grid and zip; "
                    f"write its value: {name}: {_short(main[name][0])}"
                )


def read(values: dict[str, Any]) -> GridFile:
    """Check the sections of a grid file; a file of settings alone is a grid of one cell.

    Raises:
        UserError: unknown keys, sections of another kind, empty or unequal lists, axes that nothing uses,
            placeholders without an axis, more than `MAX_CELLS` cells.
    """
    if values and all(key in SETTINGS for key in values):
        values = {"base": values}
    for key in values:
        if key not in (keys := GridFile.model_fields):
            where = "; it is a setting: put it under base" if key in SETTINGS else did_you_mean(key, keys)
            raise UserError(f"{key}: no such key of a grid file{where or '; expected one of: ' + ', '.join(keys)}")
    try:
        return GridFile.model_validate({key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        raise UserError(_explained(error)) from None


def lists_of(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return the settings with one value, and those with a list of values where one is expected.

    >>> lists_of({"epochs": [5, 10], "defense": ["cem:16"]})
    ({'defense': ['cem:16']}, {'epochs': [5, 10]})
    """
    axes = {key: value for key, value in settings.items() if isinstance(value, list) and key not in LISTS}
    return {key: value for key, value in settings.items() if key not in axes}, axes


def fill(value: Any, axes: dict[str, Any], where: str = "", within: tuple[str, ...] = ()) -> Any:
    """Return ``value`` with every ``{axis}`` replaced.

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
    """Return the axes that the texts in ``value`` name, or what else of them fits ``pattern``."""
    if isinstance(value, str):
        return set(pattern.findall(value))
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*(names_in(part, pattern) for part in parts))


def _text(where: str, whole: str, name: str, value: Any) -> str:
    if value is None or isinstance(value, list | dict):
        raise UserError(f"{where}: {name} in '{whole}' is {value!r}; expected a number or text, or {name} alone")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _size(axes: dict[str, list[Any]]) -> int:
    return math.prod(map(len, axes.values()))


def _numbered(section: str, items: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{section} {number}", item) for number, item in enumerate(items, 1)]


def _check_axes(file: GridFile) -> None:
    lengths = {name: len(values) for name, values in file.zip.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(f"zip: its lists are not equally long ({shown}); each row takes one value of every list")
    seen: dict[str, str] = {}
    for section, axes in (("base", file.base_axes), ("grid", file.grid), ("zip", file.zip)):
        for name in axes:
            if name in seen:
                raise UserError(f"{name} has values in {seen[name]} and in {section}; give them once")
            seen[name] = section
    if file.seeds and ("seed" in seen or "seed" in file.base):
        raise UserError(f"seed is in {seen.get('seed', 'base')}, and seeds is given; give one of the two")


def _check_names(file: GridFile) -> None:
    texts: list[Any] = [file.base, file.grid, file.zip, file.include]
    used = names_in(texts)
    for key in file.base:
        if key not in SETTINGS:
            raise UserError(f"base: {key}: no such setting{did_you_mean(key, SETTINGS)}")
    included = _numbered("include", file.include)
    for section, axes in [("grid", file.grid), ("zip", file.zip), *included]:
        for key in axes:
            if key not in SETTINGS and key not in used and key != LABEL:
                hint = _unused(key, used, names_in(texts, BRACES))
                raise UserError(f"{section}: {key} is no setting, and no text names {{{key}}}{hint}")
    known = {*file.grid, *file.zip, *SETTINGS, *(key for item in file.include for key in item), LABEL}
    for section, item in _numbered("exclude", file.exclude):
        for key in item:
            if key not in known:
                hint = did_you_mean(key, known)
                raise UserError(f"{section}: {key} is neither a setting nor an axis{hint}")


def _unused(key: str, used: set[str], braces: set[str]) -> str:
    """Return what to do about an axis that nothing uses."""
    for text in sorted(braces):
        if key in text and not PLACEHOLDER.fullmatch(text):
            right = re.sub(r"\W", "_", key)
            return f"; {text} is no placeholder, which has letters, digits and _ alone, such as {{{right}}}"
    # A name of one's own, such as lambda, is a little like many settings: only what is very like it was meant.
    close = difflib.get_close_matches(key, {*SETTINGS, *used, LABEL}, n=1, cutoff=0.7)
    hint = f"did you mean '{close[0]}'? or " if close else ""
    return f"; {hint}write {{{key}}} where its values belong"


def _explained(error: ValidationError) -> str:
    """Return the first thing that is wrong in one line: where it is, what was got and what is expected."""
    first = error.errors()[0]
    section, *path = (part for part in first["loc"] if not str(part).startswith(("function-", "list[", "constrained")))
    where = str(section)
    if path and section in ("include", "exclude", "attacks", "seeds"):
        where += f" {int(path.pop(0)) + 1}"
    where += "".join(f": {name}" for name in path if name != "[key]")
    if first["type"] == "too_short" and path:
        return _empty(where)
    return f"{where} is {_short(first['input'])}; expected {GridFile.model_fields[str(section)].description}"


def _empty(where: str) -> str:
    return f"{where} is an empty list, so there is no cell; give it values or leave it out"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
