"""The audit of a run: attacks, bounds, ceilings and cost, judged and written as one record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__, config, progress_bars, runs
from ..coded import coded_alike
from ..data import ImageSet
from ..data._decode import cache_folder
from ..defenses.codec import codec_of
from ..errors import UserError
from ..evaluation import floors, reidentification
from ..evaluation.scores import interval
from ..evaluation.stage import ThreatModel
from ..model import SplitModel
from ..results import records
from ..statistics.ceiling import share_interval
from ..statistics.intervals import Interval, paired_hits, paired_ratio
from ..storage.claims import claimed
from ..storage.files import write_json
from ..training import pins
from . import attacked, bounded
from .attacked import Attacked
from .device import device_cost
from .model_card import FILE as MODEL_CARD
from .policy import Policy
from .record import Attacker, Audit, Bounded, Ceilings, Judge, Model, Reference, as_json
from .verdict import Facts, verdict

FOLDER, FILE, PAGE = "audit", "audit.json", "audit.html"
SUITE = "quick-v4"
MOST_ATTACKED = 1000
"""Attacked images unless another number is asked for: the intervals are narrow enough, and it takes minutes."""
DRAWS = 64
"""Wires of one image, and as many again, of which two differ unless there is no noise: some noise is mostly 0."""
JUDGE_PIXELS = 2**27
"""Pixels that a judge is trained on: some three minutes on two cores."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The terms of an audit.

    Attributes:
        suite: of attacks.
        bounds: names of bounds with their settings; None: all of them.
        protocol: of the attacker; None: the run's own.
        attacker_size: images of the attacker; None: all. attacked: images under attack; None: `MOST_ATTACKED` at most.
        observed: wires of each image that the attacker sees.
        seed: of the attacks and bounds.
        judge_epochs: epochs of the judge's training; None: by the size of the images; 0: no judge.
    """

    suite: str = SUITE
    bounds: tuple[str, ...] | None = None
    protocol: str | None = None
    attacker_size: int | None = None
    attacked: int | None = None
    observed: int = 1
    seed: int = 0
    judge_epochs: int | None = None

    def threat_model(self, run: runs.Run, images: ImageSet) -> ThreatModel:
        """Return the threat model on a run.

        Args:
            run: the run.
            images: its image set.
        """
        name = self.protocol or run.settings.protocol
        count = self.attacked
        if count is None:
            given = attacked.stage.parts(run.settings, images, name, self.attacker_size, None)
            count = min(MOST_ATTACKED, len(given.attacker_test))
        return ThreatModel(name, self.attacker_size, count, self.seed, self.observed)


@dataclass(frozen=True)
class Shown:
    """How an audit shows its progress: the bars' factories; nothing by default."""

    attack: Callable[[str], Any] | None = None
    judge: Callable[[int], Any] | None = None
    bounds: Callable[[int, int], None] = lambda done, of: None

    @classmethod
    def on(cls, bar: progress_bars.Bars) -> Shown:
        """Return bars for everything that takes long.

        Args:
            bar: bars that it is shown in.
        """
        return cls(
            lambda label: progress_bars.attack(bar, label),
            lambda epochs: progress_bars.training(bar, "judge of clean images", epochs),
            _counted(bar),
        )


def _counted(bar: progress_bars.Bars) -> Callable[[int, int], None]:
    tasks: list[Any] = []

    def show(done: int, of: int) -> None:
        tasks[:] = tasks or [bar.add_task("bounds", total=of, note="")]
        bar.update(tasks[0], completed=done, total=of)

    return show


@dataclass(frozen=True)
class Found:
    """A finished audit: its record, and pairs of original and reconstruction, uint8 (C, H, W), by the record's name."""

    audit: Audit
    pictures: dict[str, tuple[np.ndarray, np.ndarray]]


def audit(
    run: runs.Run,
    images: ImageSet,
    terms: Terms,
    *,
    against: runs.Run | None = None,
    policy: tuple[str, Policy] | None = None,
    command: str = "",
    shown: Shown | None = None,
) -> Found:
    """Audit a run. What is finished is kept in the run's folder, so that an audit that was stopped goes on.

    Args:
        run: trained model in its folder.
        images: image set of the run.
        terms: attacks, bounds, and what the attacker has.
        against: another run on the same images, such as the undefended one; where the audited wire is coded and its
            own is not, it is sent by the same codec.
        policy: name and content of a policy file.
        command: makes the audit again, for the record.
        shown: where progress is shown.

    Raises:
        UserError: as attacks and judges; a reference on other images; an unknown bound.
    """
    shown, thresholds = shown or Shown(), (policy[1] if policy else Policy()).thresholds
    named = bounded.specs(terms.bounds, terms.observed)
    threat = terms.threat_model(run, images)
    if against:
        _check_reference(against, run, images, threat)
        against = coded_alike(against, run, images)
    judge = _judge(run, images, terms, shown)
    extra = judge.metrics() if judge else {}
    with claimed(run.path / FOLDER, "audit"):
        found = attacked.attack(run, terms.suite, images, threat, extra=extra, progress=shown.attack)
        shown_images, pictures = attacked.extremes(found, attacked.kept_arrays(found))
        model = run.model(images)
        identity = {"weights": run.digest(), "images": images.test.digest()}
        kept, show = run.path / FOLDER / "bounds", shown.bounds
        bounds, refused = bounded.estimates(
            model, images.test, named, kept, identity, observed=terms.observed, seed=terms.seed, show=show
        )
        reference = _reference(against, run, found, terms, images, extra, shown) if against else None
        if against and reference:
            factor = _entropy_factor(against, bounds, images, named, terms)
            reference = replace(reference, entropy_factor=factor)
        made = _record(run, model, images, terms, found, judge)
        made |= {"pictures": shown_images, "bounds": bounds, "refused": refused, "reference": reference}
        audited = Audit(
            **made,
            verdict=verdict(facts_of(made), thresholds),
            policy=None,
            command=command,
            environment=runs.environment() | {"splitveil": __version__},
            date=datetime.now(UTC).date().isoformat(),
        )
        if policy:
            audited = replace(audited, policy=policy[1].judge(audited, policy[0]))
        _keep(audited, run.path / FOLDER)
    return Found(audited, pictures)


def _keep(audited: Audit, folder: Path) -> None:
    """Write the record, without the pages of an earlier audit, which would stand beside a record that is not theirs."""
    for page in (PAGE, MODEL_CARD):
        (folder / page).unlink(missing_ok=True)
    write_json(folder / FILE, as_json(audited))


def facts_of(made: dict[str, Any]) -> Facts:
    """Return the parts of the record that the verdict rests on.

    Args:
        made: the fields of the record, as far as they are made.
    """
    same = {name: made[name] for name in ("attacker", "judge", "seen", "ceilings", "reference")}
    found = bounded.largest_gallery(made["bounds"])
    return Facts(**same, best=made["best_attacker"], classes=made["model"].classes, found=found)


def _judge(run: runs.Run, images: ImageSet, terms: Terms, shown: Shown) -> reidentification.Judge | None:
    epochs = terms.judge_epochs
    if epochs == 0:
        return None
    if epochs is None:
        epochs = max(3, min(12, round(JUDGE_PIXELS / (len(images.train) * images.size**2))))
    progress = shown.judge(epochs) if shown.judge else None
    place = cache_folder() / "judges"
    return reidentification.judge_for(run, images, cache=place, progress=progress, epochs=epochs, recipe="fast")


def _record(
    run: runs.Run,
    model: SplitModel,
    images: ImageSet,
    terms: Terms,
    found: Attacked,
    judge: reidentification.Judge | None,
) -> dict[str, Any]:
    """Return the parts of the record that need no other run."""
    given, accuracy = found.given, run.summary["accuracy"]
    summary = found.summary
    ceiling = floors.class_mean_error(given.attacker_train, given.attacker_test)
    return {
        "model": _model(run, model, images),
        "accuracy": Interval.from_dict(accuracy) if accuracy else None,
        "attacker": Attacker(
            suite=terms.suite,
            protocol=given.name,
            grants=attacked.grants(found),
            images=len(given.attacker_train),
            attacked=len(given.attacker_test),
            attacked_digest=given.attacker_test.digest(),
            observed=terms.observed,
            seed=terms.seed,
        ),
        "attacks": found.attacks(),
        "skipped": summary["skipped"],
        "best_attacker": found.best_scores(),
        "worst_case": found.worst_case(),
        "judge": None if judge is None else _judged(judge, found),
        "seen": found.seen(),
        "ceilings": Ceilings(mean_image=summary["baseline_mse"], class_mean=float(ceiling.mean())),
        "leakage_logged": run.summary.get("leakage_nats"),
        "device": device_cost(model),
        "flags": summary["flags"],
    }


def _model(run: runs.Run, model: SplitModel, images: ImageSet) -> Model:
    settings = run.settings
    return Model(
        run=str(run.path),
        network=settings.arch,
        cut=str(settings.cut),
        defense=_defense(settings),
        data=settings.data,
        classes=len(images.classes),
        image=list(model.image_shape),
        seed=settings.seed,
        weights=run.digest(),
        noise=is_noisy(model),
        codec=codec_name(model),
    )


def _defense(settings: config.TrainConfig) -> list[str]:
    return [records.short(_rounded(spec.resolve("defenses")), "defenses") for spec in settings.defense]


def _rounded(spec: config.Spec) -> config.Spec:
    """Return a defense with as many digits of its numbers as a reader wants; some were found by a search."""
    short = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in spec.parameters.items()}
    return config.Spec(name=spec.name, parameters=short)


def codec_name(model: SplitModel) -> str:
    """Return the codec by which the wire of a model is sent; "none": the audit is about the wire before any.

    Args:
        model: with its defense.
    """
    codec = codec_of(model.defense)
    return "none" if codec is None else codec.name


@torch.no_grad()
def is_noisy(model: SplitModel) -> bool:
    """Return whether two wires of one image differ.

    Args:
        model: with its defense, in evaluation mode.
    """
    x = torch.full((1, *model.image_shape), 0.5, device=model.mean.device)
    z = model.features(x)
    z = z.repeat(DRAWS, *[1] * (z.dim() - 1))
    one, other = (model.protect(z, torch.Generator(x.device).manual_seed(seed)) for seed in (0, 1))
    return not torch.equal(one, other)


def _judged(judge: reidentification.Judge, found: Attacked) -> Judge:
    about = judge.about
    return Judge(
        network=about["network"],
        epochs=about["epochs"],
        images=about["images"],
        recognized=interval(found.best("recognized").bool(), "recognized"),
    )


def _check_reference(against: runs.Run, run: runs.Run, images: ImageSet, threat: ThreatModel) -> None:
    """Refuse a reference that cannot be attacked like the run, before the attacks, which take minutes."""
    if against.digest() == run.digest() and against.settings.defense == run.settings.defense:
        raise UserError(
            f"{against.path} is the audited model itself; expected another one to compare it with: the undefended "
            "model of the same --seed"
        )
    names = [config.divided(one.settings.data)[0] for one in (run, against)]
    expected = "expected a reference on the same images, with the same --data, --root, --train-size and --test-size"
    if names[0] != names[1]:
        raise UserError(f"{against.path} was trained on {names[1]}, {run.path} on {names[0]}; {expected}")
    kept = [one.summary for one in (run, against)]
    other = [what for name, (what, _) in pins.DIGESTS.items() if len({one.get(name) for one in kept} - {None}) > 1]
    if other:
        raise UserError(f"{against.path} has other {' and '.join(other)} than {run.path}; {expected}")
    sizes = threat.protocol_name, threat.attacker_size, threat.attacked
    own, its = (attacked.stage.parts(one.settings, images, *sizes).attacker_test for one in (run, against))
    if own.digest() != its.digest():
        raise UserError(
            f"{against.path} has other images under attack than {run.path}: they were trained with different seeds; "
            "compare runs of the same --seed"
        )


def _reference(
    against: runs.Run,
    run: runs.Run,
    found: Attacked,
    terms: Terms,
    images: ImageSet,
    extra: dict[str, Any],
    shown: Shown,
) -> Reference:
    """Return how another run fares against the same attacks on the same images."""
    theirs = attacked.attack(against, terms.suite, images, found.terms, extra=extra, progress=shown.attack)
    ours, its = found.best("mse"), theirs.best("mse")
    ceiling = floors.class_mean_error(found.given.attacker_train, found.given.attacker_test)
    accuracy = against.summary["accuracy"]
    return Reference(
        run=str(against.path),
        weights=against.digest(),
        accuracy=Interval.from_dict(accuracy) if accuracy else None,
        accuracy_difference=_accuracy_difference(run, against),
        mse=interval(its, "mse"),
        ratio=paired_ratio(ours, its),
        share_of_ceiling=share_interval(ours, its, ceiling),
        defense=_defense(against.settings),
        codec=codec_name(against.model(images)),
    )


def _entropy_factor(
    against: runs.Run, ours: list[Bounded], images: ImageSet, named: dict[str, config.Spec], terms: Terms
) -> float | None:
    """Return the factor of Theorem 1 between the audited model and another run."""
    identity = {"weights": against.digest(), "images": images.test.digest()}
    model, kept = against.model(images), against.path / FOLDER / "bounds"
    return bounded.entropy_factor(
        ours, model, images.test, named, kept, identity, observed=terms.observed, seed=terms.seed
    )


def _accuracy_difference(run: runs.Run, against: runs.Run) -> Interval | None:
    same = run.summary.get("test_digest") is not None
    if not same or run.summary["test_digest"] != against.summary.get("test_digest"):
        return None
    return paired_hits(records.answers(run.path), records.answers(against.path))
