"""Frozen lists of attacks that a privacy claim must survive, and the worst case over them for each image."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..attacks.base import Attack, Extent, Victim
from ..bounds.base import BoundError, Channel
from ..bounds.linkage import Linkage
from ..config import Spec, renewed
from ..data import Access, ImageSet, Protocol
from ..errors import DivergedError, UserError, WireError, unknown
from ..runs import Run, environment
from ..runtime import Progress
from ..statistics import intervals
from ..statistics.best_attacker import DISTANCE, BestAttacker, best_attacker
from ..storage import reading
from ..storage.files import write_json
from . import evaluate, reliability, stage
from ._frozen import LINKED, SUITES, SUPERSEDED, hasty
from ._frozen import PRESETS as PRESETS  # read by others
from ._frozen import specs as specs
from ._frozen import superseded as superseded
from .flags import together
from .floors import CLASS_MEAN
from .scores import PRIVACY, Metric, interval, read_values

Values = dict[str, dict[str, Tensor]]
"""Attack -> metric -> one number per image."""
Done = tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]
"""Summary of an attack, and its metrics on the attacked and on the held-out images."""


def labels(specs: tuple[Spec, ...]) -> dict[str, Spec]:
    """Return each attack under a unique name that fits a folder: its own, and what differs where it occurs again.

    Args:
        specs: attacks with their settings.

    >>> list(labels(SUITES["quick-v1"]))
    ['linear', 'nearest', 'decoder', 'rmle', 'map']
    >>> list(labels(SUITES["standard-v1"]))[2:5]
    ['decoder', 'decoder-unet_normN1C32', 'decoder-conv_normN2C64']
    """
    named: dict[str, Spec] = {}
    for spec in specs:
        label, first = spec.name, named.get(spec.name)
        if first:
            differing = [v for k, v in spec.parameters.items() if isinstance(v, str) and first.parameters.get(k) != v]
            label = "-".join([spec.name, *differing])
        if label in named:
            raise UserError(
                f"two attacks are called {label}; expected settings that differ by a word, or run them one by one"
            )
        named[label] = spec
    return named


def worst_case(per_image: Mapping[str, Tensor], metric: str = "mse") -> Tensor:
    """Return what the strongest attack on each image reaches, (N,): the lowest error, or the highest similarity.

    Args:
        per_image: attack -> metric of each image, (N,), the same images in the same order.
        metric: name of the metric, which tells whether low or high values are strong (`scores.PRIVACY`).

    Raises:
        UserError: no attack, different numbers of images, or an error that is NaN.

    >>> worst_case({"a": torch.tensor([0.1, 0.3]), "b": torch.tensor([0.2, 0.2])})
    tensor([0.1000, 0.2000])
    """
    sign = PRIVACY[metric]
    return sign * (sign * _stacked(per_image)).min(0).values


def winners(per_image: dict[str, Tensor]) -> list[str]:
    """Return the attack that has the lowest error, for each image; of equals the first.

    Args:
        per_image: attack -> MSE of each image, (N,).
    """
    names = list(per_image)
    return [names[i] for i in _stacked(per_image).min(0).indices.tolist()]


def run_suite(
    run: Run,
    name: str,
    images: ImageSet,
    *,
    progress: Callable[[str], Progress] | None = None,
    extra: Mapping[str, evaluate.Metric] | None = None,
    kept: int | None = evaluate.SHOWN,
    **threat_model: Any,
) -> dict[str, Any]:
    """Run every attack of the suite and leave ``RUN/attacks/NAME/`` for each and ``RUN/attacks/suite-SUITE.json``.

    Attacks that have already been run with these settings are read back, so that a stopped suite goes on, in the middle
    of an attack too. A decoder with which several of them begin is trained once. An attack whose access the protocol
    does not grant, that needs more images than the attacker has, or that cannot take the wire, is left out before the
    first begins and named under ``skipped``; so is one whose training diverges, with a flag.

    Args:
        run: trained model in its folder.
        name: name of the suite.
        images: image set of the run.
        progress: from an attack's name to the callback that shows its progress.
        extra: further metrics, as of `evaluate`.
        kept: number of reconstructions that each attack leaves as arrays; None: all.
        threat_model: fields of `ThreatModel`.

    Returns:
        What the file holds: each attack's summary; ``best_attacker``, see `best_attacker.best_attacker`; None where the
        attacker has too few images to hold some out; the worst case with its interval, how many images each attack
        wins, the attack that wins each image, how far the best attacker is below the published decoder, and flags.

    Raises:
        UserError: unknown suite or protocol, sizes beyond what there is.
    """
    start, agreed = time.perf_counter(), stage.ThreatModel(**threat_model)
    parts = stage.parts(run.settings, images, agreed.protocol_name, agreed.attacker_size, agreed.attacked)
    able, skipped = possible(name, run, images, parts)
    done, failed, fits = dict[str, Done](), dict[str, str](), dict[str, Any]()
    for label, spec in able.items():
        there = finished(run, label, spec, parts, agreed, extra or {})
        shown = progress(label) if progress and there is None else None
        more: dict[str, Any] = {"progress": shown, "extra": extra, "fits": fits, **threat_model}
        try:
            done[label] = there or _made(run, label, spec, images, kept, more)
        except DivergedError as error:  # nobody can lower the rates of a frozen suite
            failed[label] = str(error)
    if not done:
        raise UserError("; ".join(failed.values()))
    summaries = {label: about for label, (about, _, _) in done.items()}
    values, held = ({label: one[part] for label, one in done.items()} for part in (1, 2))
    about: dict[str, Any] = {"suite": name} | ({"superseded_by": SUPERSEDED[name]} if name in SUPERSEDED else {})
    about |= {"protocol": parts.name, "seed": agreed.seed, "observed": agreed.observed}
    summary = {**about, **combined(summaries, values, held)}
    needs = {label: able[label].make("attacks").needs for label in values}
    summary["flags"] += hasty(name) + doubts(values, needs, parts) + reliability.diverged(failed)
    summary |= {"linkage": linkage(run, images, parts, agreed)} if name in LINKED else {}
    summary |= {"skipped": skipped | failed, "seconds": time.perf_counter() - start, "environment": environment()}
    left = evaluate.place(run, f"suite-{name}", parts.name)
    write_json(left.with_name(f"{left.name}.json"), summary)
    return summary


def _made(run: Run, label: str, spec: Spec, images: ImageSet, kept: int | None, more: dict[str, Any]) -> Done:
    outcome = evaluate.run_and_save(run, label, spec, images, kept, **more)
    return outcome.summary, outcome.values, outcome.held_out


def linkage(run: Run, images: ImageSet, parts: Protocol, terms: stage.ThreatModel) -> list[dict[str, Any]] | str:
    """Return how often the right photo is the first, and within the first ten, in galleries of attacked images.

    Args:
        run: trained model in its folder.
        images: image set of the run.
        parts: images of both sides and granted access.
        terms: what the attacker has and sees.

    Returns:
        Estimates of the bound `linkage` for JSON; a sentence where there are none.
    """
    if Access.QUERY not in parts.grants:
        return f"protocol {parts.name} grants no queries, without which no candidate can be sent through the encoder"
    under = parts.attacker_test
    channel = Channel(run.model(images), under, under, under)
    found: list[dict[str, Any]] = []
    for bound in (Linkage(), Linkage(top=10)):
        try:
            estimates = bound.estimate(channel, torch.Generator(channel.device).manual_seed(terms.seed))
        except BoundError as error:  # too few images for a gallery: the first ten places need more than the first one
            return found or str(error)
        found += [estimate.as_dict() for estimate in estimates]
    return found


def named(name: str) -> dict[str, Spec]:
    """Return the attacks of a suite by label.

    Args:
        name: name of the suite.

    Raises:
        UserError: unknown suite.
    """
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    return labels(SUITES[name])


def possible(name: str, run: Run, images: ImageSet, parts: Protocol) -> tuple[dict[str, Spec], dict[str, str]]:
    """Return the suite's attacks that can be made, and the others with the reason why not.

    Args:
        name: name of the suite.
        run: trained model in its folder.
        images: image set of the run.
        parts: granted access, and images of both sides.

    Raises:
        UserError: unknown suite; none of its attacks can be made.
    """
    own = parts.attacker_train
    extent = Extent.of(Victim(run.model(images), parts.grants), own, len(parts.attacker_test))
    able, skipped = named(name), {}
    for label, spec in named(name).items():
        attack: Attack = spec.make("attacks")
        if missing := attack.needs - parts.grants:
            skipped[label] = f"the protocol does not grant {', '.join(sorted(a.value for a in missing))}"
        elif len(own) < attack.fewest():
            skipped[label] = f"the attacker has {len(own)} images; expected at least {attack.fewest()}"
        else:
            try:
                attack.check(extent.wire, images.size)
                attack.memory(extent)  # told both sides of the images, it may refuse a wire that `check` let pass
            except WireError as error:
                skipped[label] = str(error)
        if label in skipped:
            del able[label]
    if not able:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in skipped.items())
        raise UserError(f"no attack of {name} can be made under protocol {parts.name}: {reasons}")
    return able, skipped


def best_of(values: Values, held: Values) -> dict[str, Any] | None:
    """Return the best attacker's name, its choice, the held-out errors behind it, and the intervals of its metrics.

    Args:
        values: of each attack on the attacked images.
        held: of each attack on the held-out images.

    Returns:
        None where an attack was not scored on held-out images.
    """
    best = best_attacker(held, values)
    if best is None:
        return None
    rows = {key: interval(_chosen(best, values, key), key).as_dict() for key in ("mse", "ssim", "psnr")}
    return {"attack": best.name, "held_out_mse": best.held_out, **rows}


def best_values(values: Values, held: Values, metric: str) -> Tensor:
    """Return the best attacker's ``metric`` on each attacked image, (N,).

    Args:
        values: of each attack on the attacked images.
        held: of each attack on the held-out images.
        metric: name of the metric.

    Raises:
        UserError: an attack was not scored on held-out images.
    """
    best = best_attacker(held, values)
    if best is None:
        raise UserError("there is no best attacker where attacks were not judged on held-out images; run them again")
    return _chosen(best, values, metric)


def _chosen(best: BestAttacker, values: Values, metric: str) -> Tensor:
    index = torch.tensor([list(values).index(name) for name in best.chosen])[None]
    return _stacked({label: value[metric] for label, value in values.items()}).gather(0, index)[0]


def combined(summaries: dict[str, dict[str, Any]], values: Values, held: Values) -> dict[str, Any]:
    """Return what the file of a suite holds of its attacks together.

    Args:
        summaries: of each attack.
        values: of each attack on the attacked images.
        held: of each attack on the held-out images.
    """
    mse = {label: value["mse"] for label, value in values.items()}
    won = winners(mse)
    strongest = {key: worst_case({n: v[key] for n, v in values.items()}, key) for key in ("mse", "ssim", "psnr")}
    counts = Counter(won)
    flags = together({label: summary["flags"] for label, summary in summaries.items()})
    first = next(iter(summaries.values()))
    told = ("protocol", "seed", "observed", "images", "images_digest", "baseline_mse", CLASS_MEAN)
    told += ("budget", "curve", "environment")
    return {
        "attacks": {
            label: {key: value for key, value in summary.items() if key not in told}
            for label, summary in summaries.items()
        },
        "best_attacker": best_of(values, held),
        "worst_case": {key: interval(value, key).as_dict() for key, value in strongest.items()},
        "wins": {label: counts[label] for label in values},
        "winner": won,
        "below_decoder": intervals.paired_difference(mse["decoder"], strongest["mse"]).as_dict()
        if "decoder" in mse
        else None,
        "baseline_mse": first["baseline_mse"],
        CLASS_MEAN: next((one[CLASS_MEAN] for one in summaries.values() if CLASS_MEAN in one), None),
        "images": first["images"],
        "flags": flags,
    }


def doubts(values: Values, needs: dict[str, frozenset[Access]], parts: Protocol) -> list[str]:
    """Return the flags that concern several attacks together, and those that the images of ``parts`` raise.

    Args:
        values: of each attack on the attacked images.
        needs: access of each attack.
        parts: images of both sides.
    """
    mse = {label: value["mse"] for label, value in values.items()}
    found = reliability.black_box_wins(mse, needs, _distances(values))
    return found + reliability.near_duplicates(parts.attacker_train, parts.attacker_test)


def _distances(values: Values) -> dict[str, Tensor] | None:
    if not all(DISTANCE in value for value in values.values()):
        return None
    return {label: value[DISTANCE] for label, value in values.items()}


def finished(
    run: Run,
    label: str,
    spec: Spec,
    parts: Protocol,
    threat_model: stage.ThreatModel,
    extra: Mapping[str, Metric] | None = None,
) -> Done | None:
    """Return a finished attack on this model, made under this threat model and without a budget.

    Args:
        run: trained model in its folder.
        label: of the attack.
        spec: name and settings of the attack.
        parts: images of both sides.
        threat_model: what the attacker has and sees.
        extra: further metrics that it must have, of the same tools, by name.

    Returns:
        Its summary, and its values on the attacked and on the held-out images; None where it must run (again).
    """
    folder = evaluate.place(run, label, threat_model.protocol_name)
    left = folder / "summary.json"
    if not left.is_file() or left.stat().st_mtime < (run.path / "model.safetensors").stat().st_mtime:
        return None
    remedy = f"remove {folder}, and the attack is run again"
    summary = reading.read_json(left, reading.ATTACK, remedy)
    summary["attack"] = renewed(summary["attack"], "attacks")
    wanted = stage.identity(spec, parts, threat_model)
    seen = {DISTANCE} if Access.WEIGHTS in parts.grants else set()
    names = [*evaluate.METRICS, *(extra or {}), *seen]
    if any(summary.get(key) != value for key, value in wanted.items()) or summary.get("budget", {}).get("cut"):
        return None
    if any(name not in summary for name in (*names, "held_out")) or evaluate.lost(folder, summary):
        return None
    tools = {f"about_{name}": metric.about for name, metric in (extra or {}).items() if hasattr(metric, "about")}
    if any(summary.get(name) != json.loads(json.dumps(about)) for name, about in tools.items()):
        return None  # another classifier has scored it
    values = _columns(folder / "per_image.csv", set(names), remedy, summary["images"]["attacked"], summary)
    return summary, values, held_out(folder, seen, summary, remedy)


def held_out(folder: Path, seen: set[str], summary: Mapping[str, Any], remedy: str) -> dict[str, Tensor]:
    """Return an attack's values on the attacker's held-out images, empty where there were too few.

    Args:
        folder: folder of the attack.
        seen: columns beside the error.
        summary: of the attack.
        remedy: what to do where the file is damaged.
    """
    count, names = summary["held_out"]["images"], {"mse", *seen}
    if not count:
        return {name: torch.zeros(0) for name in names}
    return _columns(folder / "held_out.csv", names, remedy, count, summary["held_out"])


def _columns(path: Path, names: set[str], remedy: str, count: int, told: Mapping[str, Any]) -> dict[str, Tensor]:
    table = read_values(path, names, remedy, count, told)
    return {name: torch.from_numpy(table[name]).float() for name in names}


def _stacked(per_image: Mapping[str, Tensor]) -> Tensor:
    shapes = {tuple(value.shape) for value in per_image.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise UserError(f"a worst case got errors of shapes {sorted(shapes)}; expected one (N,) for all attacks")
    stacked = torch.stack(list(per_image.values()))
    if bool(stacked.isnan().any()):
        bad = [name for name, value in per_image.items() if bool(value.isnan().any())]
        raise UserError(f"a worst case got NaN from {', '.join(bad)}; run {'it' if len(bad) == 1 else 'them'} again")
    return stacked
