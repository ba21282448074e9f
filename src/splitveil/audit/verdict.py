"""The verdict of an audit: one of three levels, with the sentence and the reasons. None of them says "safe"."""

from __future__ import annotations

from dataclasses import dataclass

from ..attacks.base import Access
from ..statistics.intervals import Interval
from .policy import Thresholds
from .record import HIDES, LEAKS, REDUCES, Attacker, Best, Bounded, Ceilings, Judge, Level, Reference, Seen, Verdict
from .words import percent, share


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a verdict rests on; ``found`` is the linkage in the largest gallery, None where it was not asked."""

    attacker: Attacker
    best: Best
    judge: Judge | None
    seen: Seen | None
    ceilings: Ceilings
    classes: int
    reference: Reference | None
    found: Bounded | None


def verdict(facts: Facts, thresholds: Thresholds) -> Verdict:
    """Return the verdict.

    Args:
        facts: what was measured.
        thresholds: of the policy, or the defaults.
    """
    level, because = _level(facts, thresholds)
    return Verdict(
        level=level, sentence=sentence(facts), because=because, thresholds=thresholds.model_dump(mode="json")
    )


def _level(facts: Facts, limits: Thresholds) -> tuple[Level, list[str]]:
    mse, reference = facts.best.mse, facts.reference
    part = mse.scaled(1 / facts.ceilings.class_mean)
    if reference is not None:
        leaks = reference.ratio.lo <= limits.leaks_ratio
        because = [
            f"The error of the best attacker is {reference.ratio} times that of {reference.run}; more than "
            f"{limits.leaks_ratio:g} times, with the whole interval, would be a reduction."
        ]
        if reference.defense:
            because.append(
                f"{reference.run} has defenses itself ({', '.join(reference.defense)}): the verdict says how much more "
                "is hidden than there, and says nothing of an undefended model."
            )
    else:
        leaks = part.lo <= limits.leaks_share
        because = [
            f"The error of the best attacker is {percent(part)} of that of answering the mean image of the true "
            f"class; up to {share(limits.leaks_share)} count as an undefended model's, as no reference was given."
        ]
    if leaks:
        return LEAKS, because
    recognized = _recognized(facts)
    asked = (
        f"; {_why_none(facts)}, without which nothing counts as hidden."
        if recognized is None
        else f" and a classifier recognized, beyond chance, at most {share(limits.hides_recognized)} of what it does "
        f"in originals (it is {percent(recognized)})."
    )
    because.append(
        f"The picture would count as hidden if the error reached {share(limits.hides_share)} of that of the mean image "
        f"of the true class (it is {percent(part)}){asked}"
    )
    hidden = part.lo >= limits.hides_share and recognized is not None and recognized.hi <= limits.hides_recognized
    return (HIDES if hidden else REDUCES), because


def _recognized(facts: Facts) -> Interval | None:
    """Return the share of what a classifier sees in originals, beyond chance, that it sees in reconstructions.

    (r − 1/K)/(o − 1/K), for K classes and the shares r and o in which it is right about reconstructions and originals.
    """
    if facts.judge is None or facts.seen is None:
        return None
    chance, found = 1 / facts.classes, facts.seen.share
    if facts.judge.recognized.lo <= chance:  # a judge that may be guessing tells nothing
        return None
    whole = facts.judge.recognized.mean - chance
    return Interval(*(max(0.0, (value - chance) / whole) for value in (found.mean, found.lo, found.hi)))


def _why_none(facts: Facts) -> str:
    """Return why no share can be told."""
    if facts.judge is None or facts.seen is None:
        return "no classifier was asked"
    return "the classifier is not shown to be better than guessing on the originals (train it longer: --judge-epochs)"


def sentence(facts: Facts) -> str:
    """Return what the attacker achieves, in a sentence for a reader who knows no information theory.

    Args:
        facts: what was measured.
    """
    who = facts.attacker
    has = f"{who.images:,} images of their own" + (
        " and the encoder's weights" if Access.WEIGHTS.value in who.grants else ""
    )
    looks = f" and sees {who.observed} wires of each image" if who.observed > 1 else ""
    if facts.judge is not None and facts.seen is not None:
        does = (
            "recovers pictures of which an independent classifier still recognizes "
            f"{share(facts.seen.share.mean)} "
            f"(originals {share(facts.judge.recognized.mean)}, guessing {share(1 / facts.classes)})"
        )
    else:
        part = facts.best.mse.mean / facts.ceilings.class_mean
        does = f"recovers pictures whose error is {share(part)} of that of answering the mean image of the true class"
    text = f"An attacker who has {has}{looks} {does}"
    if facts.found is not None:
        finds = f"finds {facts.found.about.partition(', chance')[0]} in {share(facts.found.value)} of cases"
        text += f", and {finds}" if who.observed == 1 else f"; one who sees a single wire {finds}"
    return text + "."
