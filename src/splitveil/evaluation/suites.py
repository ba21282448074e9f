"""Frozen lists of attacks that a privacy claim must survive, and the worst case over them, image by image."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..attacks.base import Attack
from ..config import Spec, renewed
from ..data import Access, ImageSet, Protocol
from ..errors import UserError, WireError, unknown
from ..runs import Run, environment
from ..runtime import Progress
from ..statistics import intervals
from ..statistics.best_attacker import DISTANCE, BestAttacker, best_attacker
from ..storage import reading
from ..storage.files import write_json
from . import evaluate, reliability, stage

Values = dict[str, dict[str, Tensor]]
"""Attack -> metric -> one number per image."""


def _specs(*texts: str) -> tuple[Spec, ...]:
    return tuple(Spec.model_validate(text) for text in texts)


SUITES: dict[str, tuple[Spec, ...]] = {
    # A suite is never changed once figures have been quoted from it: a change makes a new version. Every setting is
    # written out, so that no default of an attack changes it either.
    "standard-v1": _specs(
        "linear:looks=8",
        "nearest:neighbors=1,looks=16",
        "decoder:epochs=50,network=res_normN8C64,lr=0.001,weight_decay=0.0001,batch_size=256",
        "decoder:epochs=50,network=unet_normN1C32,lr=0.001,weight_decay=0.0001,batch_size=256",
        "decoder:epochs=50,network=conv_normN2C64,lr=0.001,weight_decay=0.0001,batch_size=256",
        "gan:epochs=50,warm_epochs=50,network=res_normN8C64,mse_weight=1500.0,penalty=10.0,critic_steps=10,"
        "lr=0.0001,width=64,batch_size=256,weight_decay=0.0001",
        "rmle:steps=2000,tv=null,l2=null,lr=0.01,restarts=2,start=mean,center=start,draws=4,tuning=16,epochs=50",
        "rmle:steps=1000,tv=null,l2=null,lr=0.01,restarts=1,start=decoder,center=start,draws=4,tuning=16,epochs=50",
        "latent:epochs=50,steps=1000,size=128,samples=1024,l2=0.01,lr=0.03,network=dense_normN2C64,draws=4,"
        "batch_size=256",
        "map:steps=500,weight=null,lr=0.05,start=linear,high=200,low=30,epochs=100,width=64,batch_size=64,"
        "start_epochs=50,draws=4,tuning=16",
        "diffusion:steps=250,samples=8,guidance=null,start=linear,level=500,epochs=100,width=64,batch_size=64,"
        "start_epochs=50,draws=4,tuning=16",
        "confidence:epochs=50,network=dense_normN2C64,lr=0.001,weight_decay=0.0001,batch_size=256",
    ),
    "quick-v1": _specs(
        "linear:looks=4",
        "nearest:neighbors=1,looks=8",
        "decoder:epochs=20,network=conv_normN1C32,lr=0.003,weight_decay=0.0001,batch_size=128",
        "rmle:steps=200,tv=null,l2=null,lr=0.02,restarts=1,start=linear,center=start,draws=2,tuning=8,epochs=50",
        "map:steps=100,weight=null,lr=0.05,start=linear,high=200,low=30,epochs=8,width=16,batch_size=64,"
        "start_epochs=50,draws=1,tuning=8",
    ),
    # The decoders train until their held-out error no longer falls. `gan`, `diffusion` and `refine` begin with the
    # first of them: one training serves all four.
    "standard-v2": _specs(
        "linear:looks=8",
        "nearest:neighbors=1,looks=16",
        "decoder:epochs=50,network=res_normN8C64,lr=0.001,weight_decay=0.0001,batch_size=256,steps=20000,patience=800",
        "decoder:epochs=50,network=unet_normN1C32,lr=0.001,weight_decay=0.0001,batch_size=256,steps=20000,patience=800",
        "decoder:epochs=50,network=conv_normN2C64,lr=0.001,weight_decay=0.0001,batch_size=256,steps=20000,patience=800",
        "refine:steps=150,weight=null,start=decoder,epochs=50,network=res_normN8C64,lr=0.001,weight_decay=0.0001,"
        "batch_size=256,draws=16,tuning=16,start_steps=20000,patience=800",
        "gan:epochs=50,warm_epochs=50,network=res_normN8C64,mse_weight=1500.0,penalty=10.0,critic_steps=1,"
        "lr=0.0001,width=64,batch_size=256,weight_decay=0.0001,critic=plain,critic_lr=null,cosine=null,"
        "evaluation=false,warm_batch_size=null,steps=4000,warm_steps=20000,patience=800",
        "rmle:steps=2000,tv=null,l2=null,lr=0.01,restarts=2,start=mean,center=start,draws=4,tuning=16,epochs=50",
        "latent:epochs=50,steps=1000,size=128,samples=1024,l2=0.01,lr=0.03,network=dense_normN2C64,draws=4,"
        "batch_size=256",
        "map:steps=500,weight=null,lr=0.05,start=linear,high=200,low=30,epochs=100,width=64,batch_size=64,"
        "start_epochs=50,draws=4,tuning=16",
        "diffusion:steps=250,samples=8,guidance=null,start=decoder,level=500,epochs=100,width=64,batch_size=64,"
        "start_epochs=50,draws=4,tuning=16,start_steps=20000,patience=800",
        "confidence:epochs=50,network=dense_normN2C64,lr=0.001,weight_decay=0.0001,batch_size=256",
    ),
    "quick-v2": _specs(
        "linear:looks=4",
        "nearest:neighbors=1,looks=8",
        "decoder:epochs=20,network=conv_normN1C32,lr=0.003,weight_decay=0.0001,batch_size=128,steps=2500,patience=200",
        "refine:steps=100,weight=null,start=decoder,epochs=20,network=conv_normN1C32,lr=0.003,weight_decay=0.0001,"
        "batch_size=128,draws=4,tuning=16,start_steps=2500,patience=200",
    ),
}
SUPERSEDED = {"quick-v1": "quick-v2", "standard-v1": "standard-v2"}
"""Suites that are kept for their figures, with the stronger ones that took their place."""
PRESETS: dict[str, Spec] = {
    "published/decoder": Spec.model_validate(
        "decoder:epochs=50,network=res_normN8C64,lr=0.001,weight_decay=0.0001,batch_size=256"
    ),
    # On TinyImageNet the published code refines for 80 epochs.
    "published/gan": Spec.model_validate(
        "gan:epochs=150,warm_epochs=50,network=res_normN8C64,mse_weight=1500.0,penalty=10.0,critic_steps=10,"
        "lr=0.0005,width=64,batch_size=128,weight_decay=0.0001,critic=published,critic_lr=0.005,cosine=300,"
        "evaluation=true,warm_batch_size=256"
    ),
    # Network, epochs and rate are the defaults of ResSFL's attack script (Li et al. 2022); the rest is ours.
    "ressfl/decoder": Spec.model_validate(
        "decoder:epochs=50,network=custom_released,lr=0.001,weight_decay=0.0001,batch_size=256"
    ),
    "he2019/rmle": Spec.model_validate(
        "rmle:steps=5000,tv=null,l2=null,lr=0.01,restarts=1,start=grey,center=zero,draws=4,tuning=16,epochs=50"
    ),
}


def labels(specs: tuple[Spec, ...]) -> dict[str, Spec]:
    """Each attack under a name of its own, fit for a folder: the attack's, and where it occurs again what differs.

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


def worst_case(per_image: dict[str, Tensor]) -> Tensor:
    """Lowest error of any attack, for each image: (N,).

    Args:
        per_image: attack -> MSE of each image, (N,), the same images in the same order.

    Raises:
        UserError: nothing, different numbers of images, or an error that is NaN.

    >>> worst_case({"a": torch.tensor([0.1, 0.3]), "b": torch.tensor([0.2, 0.2])})
    tensor([0.1000, 0.2000])
    """
    return _stacked(per_image).min(0).values


def winners(per_image: dict[str, Tensor]) -> list[str]:
    """The attack that has the lowest error, for each image; of equals the first."""
    names = list(per_image)
    return [names[i] for i in _stacked(per_image).min(0).indices.tolist()]


def run_suite(
    run: Run,
    name: str,
    images: ImageSet,
    *,
    progress: Callable[[str], Progress] | None = None,
    extra: Mapping[str, evaluate.Metric] | None = None,
    **threat_model: Any,
) -> dict[str, Any]:
    """Run every attack of the suite and leave ``RUN/attacks/NAME/`` for each and ``RUN/attacks/suite-SUITE.json``.

    Attacks that have already been run with these settings are read back, so that a stopped suite goes on, in the middle
    of an attack too. A decoder with which several of them begin is trained once. An attack whose access the protocol
    does not grant, or that cannot take the wire, is left out before work begins and named under ``skipped``.

    Args:
        progress: from an attack's name to the callback that shows its progress.
        extra, terms: as `evaluation.evaluate`.

    Returns:
        What the file holds: each attack's summary; ``best_attacker``, see `attackers.best_attacker`, None where the
        attacker has too few images to judge; the worst case with its interval, how many images each attack wins, the
        attack that wins each image, how far the best attacker is below the published decoder, and flags.

    Raises:
        UserError: unknown suite or protocol, sizes beyond what there is.
    """
    start, agreed, fits = time.perf_counter(), stage.ThreatModel(**threat_model), {}
    parts = stage.parts(run.settings, images, agreed.protocol_name, agreed.attacker_size, agreed.attacked)
    summaries: dict[str, dict[str, Any]] = {}
    values: Values = {}
    held: Values = {}
    able, skipped = possible(name, run, images, parts)
    for label, spec in able.items():
        done = finished(run, label, spec, parts, agreed, extra or {})
        if done is None:
            shown = progress(label) if progress else None
            outcome = evaluate.run_and_save(
                run, label, spec, images, progress=shown, extra=extra, fits=fits, **threat_model
            )
            done = outcome.summary, outcome.values, outcome.held_out
        summaries[label], values[label], held[label] = done
    about: dict[str, Any] = {"suite": name} | ({"superseded_by": SUPERSEDED[name]} if name in SUPERSEDED else {})
    about |= {"protocol": parts.name, "seed": agreed.seed, "observed": agreed.observed}
    summary = {**about, **combined(summaries, values, held)}
    needs = {label: able[label].make("attacks").needs for label in values}
    summary["flags"] += doubts(values, needs, parts)
    summary |= {"skipped": skipped, "seconds": time.perf_counter() - start, "environment": environment()}
    left = evaluate.place(run, f"suite-{name}", parts.name)
    write_json(left.with_name(f"{left.name}.json"), summary)
    return summary


def named(name: str) -> dict[str, Spec]:
    """The attacks of a suite by label.

    Raises:
        UserError: unknown suite.
    """
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    return labels(SUITES[name])


def superseded(name: str) -> str:
    """What is to be said of a suite whose place another has taken; nothing of others.

    >>> superseded("quick-v1"), superseded("quick-v2")
    ('quick-v1 is kept for its earlier figures; quick-v2 attacks better', '')
    """
    later = SUPERSEDED.get(name)
    return f"{name} is kept for its earlier figures; {later} attacks better" if later else ""


def possible(name: str, run: Run, images: ImageSet, parts: Protocol) -> tuple[dict[str, Spec], dict[str, str]]:
    """The suite's attacks that can be made, and the others with the reason: access that is not granted, or the wire.

    Raises:
        UserError: unknown suite; none of its attacks can be made.
    """
    wire = stage.wire_shape(run.model(images), parts.attacker_test)
    able, skipped = named(name), {}
    for label, spec in named(name).items():
        attack: Attack = spec.make("attacks")
        if missing := attack.needs - parts.grants:
            skipped[label] = f"the protocol does not grant {', '.join(sorted(a.value for a in missing))}"
        else:
            try:
                attack.check(wire, images.size)
            except WireError as error:
                skipped[label] = str(error)
        if label in skipped:
            del able[label]
    if not able:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in skipped.items())
        raise UserError(f"no attack of {name} can be made under protocol {parts.name}: {reasons}")
    return able, skipped


def best_of(values: Values, held: Values) -> dict[str, Any] | None:
    """The best attacker's name, its choice, the errors on held-out images that it rests on, and its metrics' intervals.

    None where an attack was not judged on held-out images.
    """
    best = best_attacker(held, values)
    if best is None:
        return None
    rows = {key: intervals.bootstrap_ci(_chosen(best, values, key)).as_dict() for key in ("mse", "ssim", "psnr")}
    return {"attack": best.name, "held_out_mse": best.held_out, **rows}


def best_values(values: Values, held: Values, metric: str) -> Tensor:
    """The best attacker's ``metric`` on each attacked image, (N,).

    Raises:
        UserError: an attack was not judged on held-out images.
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
        summaries: of each attack. values, held: of its attacked and its held-out images.
    """
    mse = {label: value["mse"] for label, value in values.items()}
    lowest, won = worst_case(mse), winners(mse)
    highest = {key: _stacked({n: v[key] for n, v in values.items()}).max(0).values for key in ("ssim", "psnr")}
    counts = Counter(won)
    flags = [f"{label}: {flag}" for label, summary in summaries.items() for flag in summary["flags"]]
    told = ("protocol", "seed", "observed", "images", "images_digest", "baseline_mse", "budget", "curve", "environment")
    return {
        "attacks": {
            label: {key: value for key, value in summary.items() if key not in told}
            for label, summary in summaries.items()
        },
        "best_attacker": best_of(values, held),
        "worst_case": {
            "mse": intervals.bootstrap_ci(lowest).as_dict(),
            **{key: intervals.bootstrap_ci(value).as_dict() for key, value in highest.items()},
        },
        "wins": {label: counts[label] for label in values},
        "winner": won,
        "below_decoder": intervals.paired_difference(mse["decoder"], lowest).as_dict() if "decoder" in mse else None,
        "baseline_mse": next(iter(summaries.values()))["baseline_mse"],
        "images": next(iter(summaries.values()))["images"],
        "flags": flags,
    }


def doubts(values: Values, needs: dict[str, frozenset[Access]], parts: Protocol) -> list[str]:
    """Return the flags that several attacks have only together, and that the images of ``parts`` raise.

    Args:
        values: of each attack. needs: its access.
    """
    mse = {label: value["mse"] for label, value in values.items()}
    found = reliability.black_box_wins(mse, needs, _distances(values))
    return found + reliability.near_duplicates(parts.attacker_train, parts.attacker_test)


def _distances(values: Values) -> dict[str, Tensor] | None:
    if not all(DISTANCE in value for value in values.values()):
        return None
    return {label: value[DISTANCE] for label, value in values.items()}


def finished(
    run: Run, label: str, spec: Spec, parts: Protocol, threat_model: stage.ThreatModel, extra: Iterable[str] = ()
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]] | None:
    """Summary of an attack that was run on this model under these terms, without a budget, and its values per image.

    The values of the attacked images and, last, of the attacker's held-out ones.

    None where it must run (again).
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
    names = [*evaluate.METRICS, *extra, *seen]
    if any(summary.get(key) != value for key, value in wanted.items()) or summary.get("budget", {}).get("cut"):
        return None
    if any(name not in summary for name in (*names, "held_out")):
        return None
    values = _columns(folder / "per_image.csv", set(names), remedy, summary["images"]["attacked"])
    return summary, values, held_out(folder, seen, summary, remedy)


def held_out(folder: Path, seen: set[str], summary: dict[str, Any], remedy: str) -> dict[str, Tensor]:
    """What an attack's folder says of the attacker's held-out images; nothing of each where there were too few."""
    count, names = summary["held_out"]["images"], {"mse", *seen}
    if not count:
        return {name: torch.zeros(0) for name in names}
    return _columns(folder / "held_out.csv", names, remedy, count)


def _columns(path: Path, names: set[str], remedy: str, count: int) -> dict[str, Tensor]:
    table = reading.read_columns(path, names, remedy, count)
    return {name: torch.from_numpy(table[name]).float() for name in names}


def _stacked(per_image: dict[str, Tensor]) -> Tensor:
    shapes = {tuple(value.shape) for value in per_image.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise UserError(f"a worst case got errors of shapes {sorted(shapes)}; expected one (N,) for all attacks")
    stacked = torch.stack(list(per_image.values()))
    if bool(stacked.isnan().any()):
        bad = [name for name, value in per_image.items() if bool(value.isnan().any())]
        raise UserError(f"a worst case got NaN from {', '.join(bad)}; run {'it' if len(bad) == 1 else 'them'} again")
    return stacked
