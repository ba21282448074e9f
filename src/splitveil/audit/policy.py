"""Policies: the thresholds of the verdict, and requirements that a model must meet before it ships."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator, model_validator

from .. import config
from ..errors import UserError, shown
from ..statistics.intervals import Interval
from ..storage import yaml_files
from .bounded import largest_gallery
from .record import HIDES, REDUCES, Audit, Bounded, Judged, Level, Line

Share = Annotated[float, Field(ge=0, le=1)]


class Thresholds(BaseModel):
    """Thresholds of the verdict.

    Attributes:
        leaks_ratio: the best attacker's error must exceed the reference's by more than this factor, with the lower end
            of its interval, or the model leaks like an undefended one.
        leaks_share: the same without a reference: the error as a share of that of the class's mean image.
        hides_share: the error must reach this share of that of the class's mean image, with the lower end of its
            interval, before the picture is said to be hidden.
        hides_recognized: and no more than this share of what a classifier recognizes in originals, beyond chance, may
            be recognized in reconstructions, with the upper end of the interval.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    leaks_ratio: Annotated[float, Field(ge=1)] = 1.1
    leaks_share: Share = 0.25
    hides_share: Share = 0.8
    hides_recognized: Share = 0.25


class Limit(BaseModel):
    """A requirement: the whole 95 % interval must lie at or above ``at_least`` and at or below ``at_most``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    at_least: FiniteFloat | None = None
    at_most: FiniteFloat | None = None

    @model_validator(mode="after")
    def _one(self) -> Limit:
        if self.at_least is None and self.at_most is None:
            raise ValueError("expected at_least, at_most or both, such as {at_most: 0.5}")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError("expected at_least to be no more than at_most, as nothing else meets both")
        return self

    def line(self, name: str, measured: Interval | float | str) -> Line:
        """Return whether a measured value meets the limit; a text says why there is none, which meets nothing.

        Args:
            name: of the requirement.
            measured: what the audit found.

        >>> Limit(at_most=0.5).line("linkage", Interval(0.48, 0.45, 0.51)).met
        False
        """
        asked = {"at least": self.at_least, "at most": self.at_most}
        limit = " and ".join(f"{word} {value:.10g}" for word, value in asked.items() if value is not None)
        if isinstance(measured, str):
            return Line(requirement=name, measured=f"not measured: {measured}", limit=limit, met=False)
        low, high = (measured.lo, measured.hi) if isinstance(measured, Interval) else (measured, measured)
        met = (self.at_least is None or low >= self.at_least) and (self.at_most is None or high <= self.at_most)
        shown = str(measured) if isinstance(measured, Interval) else f"{measured:.10g}"
        return Line(requirement=name, measured=shown, limit=limit, met=met)


class ShareLimit(Limit):
    """A requirement of a share, or of what is at most 1 too: percent would be met by everything."""

    @model_validator(mode="after")
    def _share(self) -> ShareLimit:
        if any(value is not None and not 0 <= value <= 1 for value in (self.at_least, self.at_most)):
            raise ValueError("expected numbers between 0 and 1, such as {at_most: 0.4} for 40 %")
        return self


class Requirements(BaseModel):
    """What must hold. Shares are between 0 and 1; ``accuracy_drop`` is in points and needs a reference."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    accuracy: ShareLimit | None = None
    accuracy_drop: Limit | None = None
    mse: ShareLimit | None = None
    worst_case_mse: ShareLimit | None = None
    ssim: ShareLimit | None = None
    reidentified: ShareLimit | None = None
    linkage: ShareLimit | None = None
    leakage: Limit | None = None
    share_of_ceiling: ShareLimit | None = None
    flags: Limit | None = None
    multiply_adds: Limit | None = None
    bytes: Limit | None = None
    verdict: Annotated[list[Level], Field(min_length=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _given(cls, values: Any) -> Any:
        if isinstance(values, dict) and (empty := [str(name) for name, value in values.items() if value is None]):
            hint = "a list of levels" if empty[0] == "verdict" else "a limit such as {at_most: 0.5}"
            raise ValueError(f"{empty[0]} is empty; expected {hint}, or leave it out")
        return values

    @field_validator("verdict", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a list of the levels that are enough, such as [{REDUCES}, {HIDES}]")
        return value


class Policy(BaseModel):
    """A policy file: ``thresholds`` of the verdict and ``require``; both may be left out.

    >>> Policy.model_validate({"require": {"linkage": {"at_most": 0.5}}}).require.linkage.at_most
    0.5
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    thresholds: Thresholds = Thresholds()
    require: Requirements = Requirements()

    @classmethod
    def read(cls, path: Path) -> Policy:
        """Return the policy of a YAML file.

        Args:
            path: the file.

        Raises:
            UserError: it cannot be read, or an entry is unknown or out of its range; the message names it.
        """
        return cls._checked(yaml_files.load(path), str(path))

    @classmethod
    def of(cls, given: str | Path | Mapping[str, Any] | Policy) -> tuple[str, Policy]:
        """Return the policy and its name on a card: that of its file, or "policy" where it is given from Python.

        Args:
            given: path of a YAML file, its content as a dictionary, or a policy.

        Raises:
            UserError: as `read`.
        """
        if isinstance(given, Policy):
            return "policy", given
        if isinstance(given, Mapping):
            return "policy", cls._checked(dict(given), "policy")
        if not isinstance(given, str | Path):
            raise UserError(
                f"policy is {shown(given)}; expected the path of a YAML file, or a dictionary of its content"
            )
        return str(given), cls.read(Path(given))

    @classmethod
    def _checked(cls, values: dict[str, Any], where: str) -> Policy:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{where}: {config.explain(error, _known())}") from None

    def judge(self, audit: Audit, file: str) -> Judged:
        """Return which requirements an audit meets.

        Args:
            audit: of the model.
            file: name of the policy, for the record.
        """
        lines = [
            limit.line(name, MEASURED[name](audit))
            for name in MEASURED
            if (limit := getattr(self.require, name)) is not None
        ]
        if (allowed := self.require.verdict) is not None:
            level = audit.verdict.level
            lines.append(Line(requirement="verdict", measured=level, limit=" or ".join(allowed), met=level in allowed))
        return Judged(file=file, met=all(line.met for line in lines), lines=lines)


def _known() -> set[str]:
    return {*Policy.model_fields, *Thresholds.model_fields, *Requirements.model_fields, *Limit.model_fields}


def _drop(audit: Audit) -> Interval | str:
    found = audit.reference
    if found is None:
        return "name the undefended model with --against"
    if found.accuracy_difference is None:
        return "the reference was not tested on the same images"
    change = found.accuracy_difference
    return Interval(-100 * change.mean, -100 * change.hi, -100 * change.lo)


def _linkage(audit: Audit) -> Interval | float | str:
    if audit.attacker.observed > 1:
        return "linkage is estimated for one wire of each image; audit without --observed too"
    found = largest_gallery(audit.bounds)  # the figure of the verdict's sentence
    return _or_value(found) if found else audit.refused.get("linkage", "leave linkage among the bounds")


def _leakage(audit: Audit) -> Interval | float | str:
    """Return the leakage of all wires of an image that the attacker sees: of k at most k times that of one."""
    found = audit.bound("leakage", "upper", "mixture")
    if found is None:
        return audit.refused.get("mixture", "leave mixture among the bounds")
    value, wires = _or_value(found), audit.attacker.observed
    return value.scaled(wires) if isinstance(value, Interval) else value * wires


def _or_value(one: Bounded) -> Interval | float:
    return one.value if one.interval is None else one.interval


def _share(audit: Audit) -> Interval | str:
    found = audit.reference
    if found is None:
        return "name the undefended model with --against"
    return found.share_of_ceiling or "the reference is as private as the class's mean image"


MEASURED: dict[str, Callable[[Audit], Any]] = {
    "accuracy": lambda audit: audit.accuracy or "the run has no accuracy",
    "accuracy_drop": _drop,
    "mse": lambda audit: audit.best_attacker.mse,
    "worst_case_mse": lambda audit: audit.worst_case.mse,
    "ssim": lambda audit: audit.best_attacker.ssim,
    "reidentified": lambda audit: audit.seen.share if audit.seen else "no judge was asked; leave --judge-epochs 0 out",
    "linkage": _linkage,
    "leakage": _leakage,
    "share_of_ceiling": _share,
    "flags": lambda audit: float(len(audit.flags)),
    "multiply_adds": lambda audit: float(audit.device.multiply_adds),
    "bytes": lambda audit: float(audit.device.bytes),
}
"""Requirement -> what the audit found for it, or why it has nothing."""
