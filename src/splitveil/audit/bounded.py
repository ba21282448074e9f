"""The bounds of an audit; each is kept when it is done, so that an audit that was stopped goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from .. import config
from ..bounds.base import SHARED, Bound, BoundError, Channel
from ..bounds.entropy import relative_factor
from ..data import Split
from ..errors import UserError
from ..model import SplitModel
from ..registry import Registry
from ..storage import reading
from ..storage.files import write_json
from .record import Bounded, as_json

LINKAGE = ("linkage", "linkage:top=10")
OF_WIRES = ("linkage", "infonce")
"""Bounds that look at the wires as they arrive; all others are of the wire before the codec, if there is one."""
ONE_WIRE = "The attacker sees one wire of each image; one who sees several may do better."
BEFORE = "It is computed of the wire before the codec; what a codec makes of the noisy wire cannot tell more."


class _Kept(TypedDict):
    """One file: what was asked of what, the estimates, and why there are none."""

    asked: dict[str, Any]
    estimates: list[Bounded]
    refused: str | None


_KEPT = TypeAdapter(_Kept)


def specs(names: Sequence[str] | None, observed: int = 1) -> dict[str, config.Spec]:
    """Return bounds by what one would type.

    Args:
        names: bounds with their settings; None: every one, with linkage both for the first and the first ten places.
        observed: wires of each image that the attacker sees, for bounds of several that are named without settings.

    Raises:
        UserError: an unknown bound or setting.
    """
    chosen = names if names is not None else [n for n in Registry("bounds").names() if n != "linkage"] + [*LINKAGE]
    found: dict[str, config.Spec] = {}
    for name in chosen:
        spec = config.spec_of(name, "bounds")
        if observed > 1 and ":" not in name and "observed" in spec.parameters:
            name = f"{name}:observed={observed}"
            spec = config.spec_of(name, "bounds")
        spec.make("bounds")
        found[name] = spec
    return found


def estimates(
    model: SplitModel,
    images: Split,
    named: dict[str, config.Spec],
    folder: Path,
    identity: dict[str, Any],
    *,
    observed: int,
    seed: int = 0,
    show: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[list[Bounded], dict[str, str]]:
    """Return the estimates of bounds, and the reason of each bound that says nothing about this wire.

    Args:
        model: with its defense.
        images: that the model was not trained on.
        named: bounds by what one would type.
        folder: where finished ones are kept; those of the same identity are read back.
        identity: what names model and images.
        observed: wires of each image that the attacker sees; of several, every lower bound says that it is of one.
        seed: of the division of the images and of all that is drawn.
        show: called with the number of bounds that are done, and of all.
    """
    found: list[Bounded] = []
    refused: dict[str, str] = {}
    try:
        channel = Channel.of(model, images, torch.Generator().manual_seed(seed))
    except UserError as error:  # too few images: the attacks say what they say all the same
        return [], dict.fromkeys(named, str(error))
    for number, (name, spec) in enumerate(named.items()):
        show(number, len(named))
        bound = spec.make("bounds")
        asked = {"bound": spec.resolve("bounds").model_dump(mode="json"), "seed": seed, **identity}
        asked["revision"] = [SHARED, bound.revision]
        path = folder / f"{re.sub(r'[^a-z0-9_]+', '-', name.lower())}.json"
        kept = _read(path, asked)
        if kept is None:
            kept = {"asked": asked, **_made(name, bound, channel, seed)}
            write_json(path, as_json(kept))
        found += kept["estimates"]
        if kept["refused"] is not None:
            refused[name] = kept["refused"]
    show(len(named), len(named))
    return (found if observed == 1 else [_of_one_wire(one) for one in found]), refused


def entropy_factor(
    ours: Sequence[Bounded],
    model: SplitModel,
    images: Split,
    named: dict[str, config.Spec],
    folder: Path,
    identity: dict[str, Any],
    *,
    observed: int,
    seed: int = 0,
) -> float | None:
    """Return the factor by which the bound of Theorem 1 on the error is larger than that of another model.

    Args:
        ours: estimates of the audited model.
        model: the other model, examined on the same images.
        images: that neither model was trained on.
        named: bounds of the audit; the other leakage is computed with its `mixture`.
        folder: where the other model's bounds are kept.
        identity: what names the other model and the images.
        observed: wires of each image that the attacker sees; Theorem 1 is about one.
        seed: as of `estimates`.

    Returns:
        None where `mixture` was not asked for or says nothing about one of the two, or where several wires are seen.
    """
    mixture = {name: spec for name, spec in named.items() if spec.name == "mixture"}
    leaks = [one for one in ours if one.bound in mixture]
    if observed > 1 or not leaks:
        return None
    theirs, _ = estimates(model, images, mixture, folder, identity, observed=observed, seed=seed)
    return relative_factor(theirs[0].value - leaks[0].value, images.images[0].numel()) if theirs else None


def _of_one_wire(bound: Bounded) -> Bounded:
    """Return a lower bound with the assumption that an attacker who sees several wires does not meet."""
    return replace(bound, assumptions=[*bound.assumptions, ONE_WIRE]) if bound.kind == "lower" else bound


def _made(name: str, bound: Bound, channel: Channel, seed: int) -> dict[str, Any]:
    rng = torch.Generator(channel.device).manual_seed(seed)
    try:
        found = bound.estimate(channel, rng)
    except BoundError as error:
        return {"estimates": [], "refused": str(error)}
    if channel.coded and name.partition(":")[0] not in OF_WIRES:
        found = [replace(one, assumptions=(*one.assumptions, BEFORE)) for one in found]
    return {"estimates": [Bounded.of(name, one) for one in found], "refused": None}


def _read(path: Path, asked: dict[str, Any]) -> Any:
    if not path.is_file():
        return None
    kept = reading.read_json(path, _KEPT, "remove it, and the bound is computed again")
    return kept if kept["asked"] == asked else None


def largest_gallery(found: Sequence[Bounded]) -> Bounded | None:
    """Return how often the right photo is the first one in the gallery of 1,000, or in the largest one below.

    Args:
        found: estimates of all bounds.

    Returns:
        None where linkage was not asked.
    """
    rows = [one for one in found if one.bound == LINKAGE[0] and one.quantity == "success"]
    within = [one for one in rows if "10,000" not in one.about]
    return within[-1] if within else None
