"""The privacy card of a network of one's own: from a model and tensors, without a run folder."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__, api, config, runs
from ..coded import as_sent, sent_alike
from ..data import Access, Protocol, Split, to_float
from ..errors import UserError
from ..evaluation import floors
from ..evaluation.scores import interval
from ..given import Data, check_images, check_model, images_of, outputs_of
from ..model import SplitModel, digest_of, line_of, listed
from ..outcomes import Report
from ..pictures import Shown
from ..randomness import stream
from ..recipe import TEST
from ..statistics.ceiling import share_interval
from ..statistics.intervals import binomial_ci, paired_hits, paired_ratio
from ..storage.files import write_json, write_text
from ..training.loop import correct
from . import attacked, bounded, card
from .attacked import Scored
from .device import device_cost
from .policy import Policy
from .record import Attacker, Audit, Ceilings, Judge, Model, Reference, as_json
from .run import FILE, PAGE, Found, codec_name, facts_of, is_noisy
from .verdict import verdict
from .words import percent, wire

REFERENCE = "the reference"
BATCH = 500


@dataclass(frozen=True)
class PrivacyCard:
    """A finished audit of a model; a notebook shows it as a page.

    Attributes:
        found: the record of everything measured, `found.audit`, and the pictures of the card.
        report: the attacks that it rests on.

    >>> import splitveil as sv
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 4, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(18, 2))
    >>> x, y = torch.rand(130, 1, 12, 12), torch.arange(130) % 2
    >>> model = sv.split(net, at="1", example=x[:1], defenses=[sv.Gaussian(0.1)])
    >>> card = sv.privacy_card(
    ...     model, learn_from=(x[:60], y[:60]), invert=(x[60:90], y[60:90]), codec="uint8", train=(x[90:], y[90:]),
    ...     suite="smoke-v1", bounds=("linkage",), progress=False)
    >>> card.codec, card.found.audit.device.bytes  # the wire has 18 numbers
    ('uint8', 18)
    """

    found: Found
    report: Report

    @property
    def verdict(self) -> str:
        """Return the level, such as "reduces leakage"; none of the three says that the model is safe."""
        return self.found.audit.verdict.level

    @property
    def met(self) -> bool | None:
        """Return whether the policy is met; None where none was given."""
        judged = self.found.audit.policy
        return None if judged is None else judged.met

    @property
    def codec(self) -> str:
        """Return the codec of the wire that the card is about, such as "uint8"; "none": the wire before any codec."""
        return self.found.audit.model.codec or "none"

    def record(self) -> dict[str, Any]:
        """Return the content of ``audit.json``."""
        return as_json(self.found.audit)

    def html(self) -> str:
        """Return the card as one page that loads nothing and holds no script."""
        return card.page(self.found)

    def save(self, folder: str | Path) -> Path:
        """Write ``audit.json`` and ``audit.html`` into a folder and return the path of the page.

        Args:
            folder: is made if it is not there; files of an earlier card are replaced.
        """
        place = Path(folder)
        if place.is_dir():
            (place / PAGE).unlink(missing_ok=True)  # of an earlier card
        write_json(place / FILE, self.record())
        write_text(place / PAGE, self.html())
        return place / PAGE

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self.html())}" style="width:100%;height:60em;border:0"></iframe>'

    def __repr__(self) -> str:
        audit = self.found.audit
        lines = [f"PrivacyCard({audit.model.run}: {audit.verdict.level})", audit.verdict.sentence]
        lines += audit.verdict.because
        if audit.accuracy is not None:
            lines.append(f"accuracy: {percent(audit.accuracy)}")
        lines.append(wire(audit))
        return "\n  ".join([*lines, *(f"flag: {flag}" for flag in audit.flags)])


def privacy_card(
    model: SplitModel,
    *,
    learn_from: Data,
    invert: Data,
    test: Data | None = None,
    against: SplitModel | None = None,
    judge: nn.Module | None = None,
    suite: str = "quick-v4",
    bounds: tuple[str, ...] | None = None,
    grants: frozenset[Access] = frozenset(Access),
    observed: int = 1,
    codec: str | None = None,
    train: Data | None = None,
    policy: str | Path | Mapping[str, Any] | Policy | None = None,
    name: str = "model",
    seed: int = 0,
    progress: bool = True,
) -> PrivacyCard:
    """Audit a model: attack it, bound what its wire gives away, judge it, and say all of it on one page.

    Args:
        model: trained, with its defenses.
        learn_from: the attacker's own images.
        invert: images under attack, which the model was not trained on.
        test: images that the model was not trained on, for its accuracy and the bounds; None: ``invert``.
        against: another model of the same classes, such as the undefended one, attacked in the same way.
        judge: classifier of clean images, float (B, C, H, W) in [0, 1] -> logits (B, classes), with which it is told
            what can still be recognized in the reconstructions; trained on neither ``invert`` nor with the model.
        suite: name of the suite of attacks.
        bounds: bounds with their settings, such as ("mixture", "linkage"); None: all of them.
        grants: what the attacker may use.
        observed: number of wires of each image that the attacker sees.
        codec: audit what a device sends by this codec: auto, uint8, uint4, uint2, float16 or float32, as of
            `splitveil.export`; None: the wire before any codec. ``against`` is sent by the same one, with a grid of
            its own, unless it has a codec already or is ``model`` before its codec; the card says which wire it has.
        train: images that the model has learned from, on whose wires the grid of the codec is found.
        policy: YAML file of requirements (docs/audit.md), or its content as a dictionary.
        name: of the model on the card.
        seed: of the wires under attack, the attacks and the bounds.
        progress: show bars where there is a terminal, elsewhere a line at most every 30 seconds.

    Returns:
        The card: its verdict, and the page that says which wire it is about.

    Raises:
        UserError: as `splitveil.evaluate` and `splitveil.bound`; a judge that does not fit; an unreadable policy.
    """
    model = as_sent(model, codec, train)
    rules = None if policy is None else Policy.of(policy)
    named = bounded.specs(bounds, observed)
    under = images_of(invert, "invert")
    tested = under if test is None else images_of(test, "test")
    check_images(model, tested, "test")
    case = _Case(outputs_of(model, tested, "test"), images_of(learn_from, "learn_from"), under, tested, judge, seed)
    case.check(against)
    against = None if against is None else sent_alike(against, model, train)
    asked = {"suite": suite, "grants": grants, "observed": observed, "progress": progress}
    command = f"splitveil.privacy_card(model, {f'{codec=}, ' if codec else ''}{suite=}, {observed=}, {seed=}, ...)"
    return _carded(case, model, against, asked, named, rules, name, command)


def _carded(
    case: _Case,
    model: SplitModel,
    against: SplitModel | None,
    asked: dict[str, Any],
    named: dict[str, config.Spec],
    rules: tuple[str, Policy] | None,
    name: str,
    command: str,
) -> PrivacyCard:
    """Attack both models, bound what they leak, and judge the first."""
    observed, digests = asked["observed"], [digest_of(one) for one in (model, against) if one is not None]
    ours = case.attacked(model, asked)
    made = case.record(ours, name, digests[0], observed)
    theirs = None if against is None else case.attacked(against, asked)
    made["reference"] = None if theirs is None else case.reference(ours, theirs, digests[-1])
    other = theirs and theirs.model
    made |= _bounds(ours.model, other, case.tested, named, made["reference"], observed, case.seed)
    return PrivacyCard(Found(_judged(made, rules, command), ours.pictures), ours.report)


def _bounds(
    model: SplitModel,
    other: SplitModel | None,
    tested: Split,
    named: dict[str, config.Spec],
    reference: Reference | None,
    observed: int,
    seed: int,
) -> dict[str, Any]:
    """Return what the record says of bounds, and the reference with the factor of Theorem 1 between both models."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "ours"), Path(folder, "theirs")
        found, refused = bounded.estimates(model, tested, named, ours, {}, observed=observed, seed=seed)
        if other is not None and reference is not None:
            factor = bounded.entropy_factor(found, other, tested, named, theirs, {}, observed=observed, seed=seed)
            reference = replace(reference, entropy_factor=factor)
    return {"bounds": found, "refused": refused, "reference": reference}


def _judged(made: dict[str, Any], rules: tuple[str, Policy] | None, command: str) -> Audit:
    """Return the record with its verdict, and held against a policy (its file and content) where one is given."""
    audited = Audit(
        **made,
        verdict=verdict(facts_of(made), (rules[1] if rules else Policy()).thresholds),
        policy=None,
        command=command,
        environment=runs.environment() | {"splitveil": __version__},
        date=datetime.now(UTC).date().isoformat(),
    )
    return replace(audited, policy=rules[1].judge(audited, rules[0])) if rules else audited


@dataclass(frozen=True)
class _Attacked:
    """A model, its report, which test images it answers right, and what the card shows of the attacks."""

    model: SplitModel
    report: Report
    hits: Tensor
    scored: Scored
    shown: dict[str, Any]
    pictures: dict[str, Any]

    def of_any(self, ceiling: str) -> float:
        """Return an error without the wire, which all attacks tell."""
        return float(getattr(next(iter(self.report.results.values())), ceiling))


@dataclass(frozen=True)
class _Case:
    """What all models of a card are attacked and tested with."""

    classes: int
    own: Split
    under: Split
    tested: Split
    judge: nn.Module | None
    seed: int

    def check(self, against: SplitModel | None) -> None:
        """Refuse a judge or another model that does not fit, before the attacks, which take minutes."""
        self.recognized(self.under.images[:2], self.under.labels[:2])
        if against is None:
            return
        check_model(against)
        check_images(against, self.under, "invert")
        classes = outputs_of(against, self.tested, "test")
        if classes != self.classes:
            raise UserError(f"against tells {classes} classes, the model {self.classes}; give a model of the same ones")

    @torch.no_grad()
    def recognized(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """Return in which images (N, C, H, W), uint8, the judge sees the true class; None without a judge."""
        if self.judge is None:
            return None
        modes, found = [(module, module.training) for module in self.judge.modules()], []
        self.judge.eval()
        try:
            for part in images.split(BATCH):
                logits = self.judge(to_float(part))
                if not torch.is_tensor(logits) or logits.shape != (len(part), self.classes):
                    got = tuple(logits.shape) if torch.is_tensor(logits) else type(logits).__name__
                    want = f"logits ({len(part)}, {self.classes})"
                    raise UserError(f"the judge answers {got} for {len(part)} images; expected {want}")
                found.append(logits.argmax(1).cpu())
        finally:
            for module, training in modes:
                module.training = training
        return torch.cat(found) == labels.cpu()

    def attacked(self, model: SplitModel, asked: dict[str, Any]) -> _Attacked:
        """Attack a model, and let the judge look at what came out."""
        own, under = ((part.images, part.labels) for part in (self.own, self.under))
        report = api.evaluate(model, learn_from=own, invert=under, seed=self.seed, **asked)
        victim = report.model
        assert victim is not None
        outcomes = {label: result.outcome for label, result in report.results.items()}
        values = {label: dict(outcome.values) for label, outcome in outcomes.items()}
        for label, outcome in outcomes.items():
            seen = self.recognized(outcome.reconstructions, self.under.labels)
            if seen is not None:
                values[label]["reidentified"] = seen.double()
        given = Protocol("own", self.own, self.own, self.under, self.own, self.under, frozenset(asked["grants"]))
        made = {label: outcome.summary for label, outcome in outcomes.items()}
        scored = attacked.scored_of(made, values, {label: one.held_out for label, one in outcomes.items()}, given)
        every = np.arange(len(self.under))
        arrays = {
            label: Shown(one.originals.numpy(), one.reconstructions.numpy(), every) for label, one in outcomes.items()
        }
        hits = correct(victim, self.tested, stream(victim.mean.device, self.seed, TEST))
        return _Attacked(victim, report, hits, scored, *attacked.extremes(scored, arrays))

    def record(self, ours: _Attacked, name: str, digest: str, observed: int) -> dict[str, Any]:
        """Return the parts of the record that need neither bounds nor a reference."""
        seen = self.recognized(self.under.images, self.under.labels)
        kind = type(self.judge).__name__
        return {
            "model": self.named(ours.model, name, digest),
            "accuracy": binomial_ci(int(ours.hits.sum()), len(ours.hits)),
            "attacker": Attacker(
                suite=ours.report.suite,
                protocol="own",
                grants=attacked.grants(ours.scored),
                images=len(self.own),
                attacked=len(self.under),
                attacked_digest=self.under.digest(),
                observed=observed,
                seed=self.seed,
            ),
            "attacks": ours.scored.attacks(),
            "skipped": ours.report.skipped,
            "best_attacker": ours.scored.best_scores(),
            "worst_case": ours.scored.worst_case(),
            "judge": None
            if seen is None
            else Judge(network=kind, epochs=None, images=None, recognized=interval(seen, "recognized")),
            "seen": ours.scored.seen(),
            "ceilings": Ceilings(mean_image=ours.of_any("baseline_mse"), class_mean=ours.of_any("class_mean_mse")),
            "pictures": ours.shown,
            "leakage_logged": None,
            "device": device_cost(ours.model),
            "flags": ours.report.flags,
        }

    def named(self, model: SplitModel, name: str, digest: str) -> Model:
        """Return what the record says of the model."""
        return Model(
            run=name,
            network="own network",
            cut=f"a wire of {' × '.join(map(str, model.wire_shape or ()))}",
            defense=[line_of(part) for part in listed(model.defense)],
            data="own images",
            classes=self.classes,
            image=list(model.image_shape or self.under.shape),
            seed=self.seed,
            weights=digest,
            noise=is_noisy(model),
            codec=codec_name(model),
        )

    def reference(self, ours: _Attacked, other: _Attacked, digest: str) -> Reference:
        """Return how another model fares against the same attacks on the same images."""
        mine, its = ours.scored.best("mse"), other.scored.best("mse")
        ceiling = floors.class_mean_error(self.own, self.under)
        return Reference(
            run=REFERENCE,
            weights=digest,
            accuracy=binomial_ci(int(other.hits.sum()), len(other.hits)),
            accuracy_difference=paired_hits(ours.hits, other.hits),
            mse=interval(its, "mse"),
            ratio=paired_ratio(mine, its),
            share_of_ceiling=share_interval(mine, its, ceiling),
            defense=[line_of(part) for part in listed(other.model.defense)],
            codec=codec_name(other.model),
        )
