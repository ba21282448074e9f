"""The figures of an audit in words, for the terminal, the card and the model card."""

from __future__ import annotations

import math

from ..bounds.base import SIGNS
from ..results.tables import signed
from ..statistics.intervals import Interval
from .record import Audit, Bounded, Reference


def percent(value: Interval) -> str:
    """Return a share in percent with its interval.

    >>> percent(Interval(0.5, 0.41, 0.62))
    '50 % [41, 62]'
    """
    low, mean, high = (100 * x for x in (value.lo, value.mean, value.hi))
    digits = 0 if high - low >= 2 else 1
    return f"{mean:.{digits}f} % [{low:.{digits}f}, {high:.{digits}f}]"


def share(value: float) -> str:
    """Return a share in percent, with a further digit where it is nearly none or nearly all.

    >>> share(0.623), share(0.0049), share(0.0001), share(0.996), share(1.0)
    ('62 %', '0.5 %', 'less than 0.1 %', '99.6 %', '100 %')
    """
    if 0 < value < 0.0005:
        return "less than 0.1 %"
    if 0.9995 < value < 1:
        return "more than 99.9 %"
    return f"{100 * value:.{int(0 < value < 0.01 or 0.99 < value < 1)}f} %"


def figures(audit: Audit) -> list[tuple[str, str]]:
    """Return title and figure of what the card says first: accuracy, errors, ceilings, cost.

    Args:
        audit: of the model.
    """
    rows = [("accuracy on test images", percent(audit.accuracy) if audit.accuracy else "not measured")]
    other = audit.reference
    if other is not None and other.accuracy_difference is not None:
        change = other.accuracy_difference.scaled(100)
        rows.append((f"accuracy beside {other.run}, points", signed(change, ".1f")))
    rows.append((f"error of the best attacker ({audit.best_attacker.name}), MSE", str(audit.best_attacker.mse)))
    rows.append(("error in the worst case (knows the truth), MSE", str(audit.worst_case.mse)))
    if other is not None:
        rows.append((f"error on {other.run}{_whose(other)}, MSE", str(other.mse)))
        if other.share_of_ceiling is not None:
            rows.append(("way from there to the mean image of the true class", percent(other.share_of_ceiling)))
        if other.entropy_factor is not None:
            title = f"least error by Theorem 1, relative to {other.run} (how large either is, it does not say)"
            rows.append((title, f"{other.entropy_factor:.4g} times"))
    rows.append(("error of the mean image of the true class, MSE", f"{audit.ceilings.class_mean:.4g}"))
    rows.append(("error of the mean image, MSE", f"{audit.ceilings.mean_image:.4g}"))
    if audit.judge is not None and audit.seen is not None:
        title = f"a classifier recognizes, of {audit.seen.attack} (originals: {percent(audit.judge.recognized)})"
        rows.append((title, percent(audit.seen.share)))
    return rows


def accuracy(audit: Audit) -> str:
    """Return the accuracy, beside the reference's where there is one, in a sentence.

    Args:
        audit: of the model.
    """
    if audit.accuracy is None:
        return "The accuracy was not measured."
    text = f"Accuracy on test images {percent(audit.accuracy)}"
    other = audit.reference
    if other is None or other.accuracy_difference is None:
        return text + "."
    change = other.accuracy_difference.scaled(100)
    number, interval = signed(change, ".1f").split(" ", 1)
    return f"{text}, {number} points {interval} beside {other.run}."


def bound_rows(audit: Audit) -> list[tuple[str, str]]:
    """Return what each bound says, and why some say nothing.

    Args:
        audit: of the model.
    """
    rows = [("bytes on the wire, for each image", sent(audit))]
    rows += [(f"{one.bound}: {one.about}", said(one)) for one in audit.bounds]
    return rows + [(f"nothing is said by {names}", reason) for names, reason in refusals(audit)]


def refusals(audit: Audit) -> list[tuple[str, str]]:
    """Return the bounds that say nothing, and why; those with the same reason together.

    Args:
        audit: of the model.
    """
    names: dict[str, list[str]] = {}
    for name, reason in audit.refused.items():
        names.setdefault(reason, []).append(name)
    return [(", ".join(found), reason) for reason, found in names.items()]


def said(one: Bounded) -> str:
    """Return an estimate in words: its sign, its figure and its unit.

    Args:
        one: the estimate.
    """
    sign = SIGNS[one.kind]
    if one.quantity == "success":
        return f"{sign} {percent(one.interval)}" if one.interval else f"{sign} {100 * one.value:.3g} %"
    return f"{sign} {one.interval or format(one.value, '.4g')} {one.unit}"


def sent(audit: Audit) -> str:
    """Return what is sent for an image: a wire of n bits tells at most n bits, without any assumption.

    Args:
        audit: of the model.
    """
    count = audit.device.bytes
    return f"{count:,}: at most {8 * count:,} bits ({8 * count * math.log(2):,.0f} nats) about it, whatever is assumed"


def wire(audit: Audit) -> str:
    """Return which wire the audit is about, what a device sends by a codec or the one before any, and the reference's.

    Args:
        audit: of the model; one of an earlier version does not tell, and "" is returned.
    """
    codec, size = audit.model.codec, f"{audit.device.bytes:,} bytes for each image"
    if codec is None:
        return ""
    if codec == "none":
        text = (
            f"The model's figures are about the wire before any codec: float32 numbers, {size}. What a device sends by "
            "a codec is another wire, which was not measured here."
        )
    else:
        text = f"The model's figures are about the wire as a device sends it, by the codec {codec}: {size}."
    return text if audit.reference is None else text + _beside(audit.reference, codec)


def _beside(other: Reference, codec: str) -> str:
    """Return which wire a reference has, beside a model whose wire is sent by a codec or "none"."""
    if other.codec is None:
        return ""
    if other.codec == codec:
        same = "before any codec as well" if codec == "none" else f"sent by the same codec, {codec}"
        return f" The wire of {other.run} is {same}."
    which = "is the one before any codec" if other.codec == "none" else f"is sent by the codec {other.codec}"
    return (
        f" The wire of {other.run} {which}: a part of each difference between the two is what the codec does, and not "
        "what the defenses do."
    )


def _whose(other: Reference) -> str:
    """Return which wire a reference has, in the row of its error."""
    return {None: "", "none": " (wire before any codec)"}.get(other.codec, f" (wire sent by {other.codec})")


def bits(one: Bounded, audit: Audit) -> tuple[float, float]:
    """Return a leakage in bits per image and in bits per pixel.

    Args:
        one: estimate of a leakage, in nats per image.
        audit: of the model, which says how many pixels an image has.
    """
    whole = one.value / math.log(2)
    return whole, whole / (audit.model.image[-1] * audit.model.image[-2])


def attacker(audit: Audit) -> str:
    """Return who attacked, in a sentence.

    Args:
        audit: of the model.
    """
    who = audit.attacker
    access = {"query": "queries", "weights": "the encoder's weights", "logits": "the cloud's answers"}
    may = [access.get(name, name) for name in who.grants]
    return (
        f"Suite {who.suite}, protocol {who.protocol}: {who.images:,} images to learn from, {who.attacked:,} attacked, "
        f"{who.observed} wire{'s' if who.observed > 1 else ''} of each; granted: {', '.join(may)}."
    )


def sampling(audit: Audit) -> str:
    """Return what intervals take the attacked images for, and how these were chosen where that is known.

    Args:
        audit: of the model.
    """
    text = (
        "Intervals take the attacked images for independent of each other: where some show nearly the same thing, as "
        "frames of one video do, the intervals are too narrow."
    )
    if audit.attacker.protocol != "inference_time":
        return text
    return (
        f"{text} The attacked images are a part of the test images, of each class equally many where that is possible; "
        "another seed, or another number of training or test images, chooses others."
    )
