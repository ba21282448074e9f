"""What a bench shows, in sentences; a difference counts only where it is shown after correction for their number."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from ..results.ceiling import Shares, name_of, of_configuration
from ..results.cem_effect import CemEffect
from ..results.equal_accuracy import AT_END, OUTSIDE, Equal
from ..results.groups import ComparisonGroup, Configuration
from ..results.record_types import NOISE
from ..results.tables import percent, plus
from ..statistics.evidence import LEAST, LEVEL, MARGIN, holm, p_value, points_of
from ..statistics.intervals import Interval

AT_CHANCE = "not shown to be better than chance"
"""Words by which the flag of such a network (`reliability.at_chance`) is found in records."""


def headline(
    groups: Sequence[ComparisonGroup],
    effects: Sequence[CemEffect],
    margin: float = MARGIN,
    equal: Sequence[Equal] = (),
) -> str:
    """Return the page's title.

    Args:
        groups: the groups of configurations that may be compared.
        effects: what CEM changes, of all groups.
        margin: loss of accuracy, in points, that is to be excluded before accuracy is called kept.
        equal: the comparisons at equal accuracy; the one of a single effect is the title.
    """
    networks, at_chance = _networks(groups)
    if networks and at_chance == networks:
        return "These networks are not shown to be better than chance: nothing follows for a defense"
    if not effects:
        count = sum(len(group.configurations) for group in groups)
        return f"{_count(count, 'configuration')}: what accuracy costs in privacy"
    total, (up, down) = len(effects), shown(effects, "mse")
    same = [row for row in equal if row.configuration is effects[0].configuration]
    if total == 1 and same:
        return _at_equal(same[0])
    if not up and not down and total == 1:
        return "No effect of CEM on the attacker’s error is shown"
    if not up and not down:
        return "No comparison shows an effect of CEM on the attacker’s error"
    if any(len(effect.seeds) < LEAST for effect in effects):  # what was changed is a cause only where seeds say so
        if total == 1:
            which = "higher" if up else "lower"
            return f"In these trainings the attacker’s error is {which} with CEM; {_cost(effects, margin)}"
        which = (
            f"higher in {_of(up, total)}{f', lower in {down}' if down else ''}"
            if up
            else f"lower in {_of(down, total)}"
        )
        return f"In these trainings the attacker’s error with CEM is {which}; {_cost(effects, margin)}"
    if not up:
        return f"CEM makes the attack easier in {_of(down, total)}"
    also = f", lowers it in {down}" if down else ""
    return f"CEM raises the attacker’s error in {_of(up, total)}{also}; {_cost(effects, margin)}"


def _at_equal(row: Equal) -> str:
    """Return what CEM does beside noise alone that is as accurate."""
    if row.difference is None:
        return f"CEM and more noise cannot be compared at equal accuracy here: {row.why}"
    if row.difference.lo <= 0 <= row.difference.hi or (
        len(row.seeds) >= LEAST and row.p is not None and row.p >= LEVEL
    ):
        return "At equal accuracy no difference between CEM and more noise is shown"
    change = 100 * math.expm1(row.difference.mean)
    where = "" if len(row.seeds) >= LEAST else "In these trainings "
    text = f"the attacker’s error with CEM is {abs(change):.0f} % {'higher' if change > 0 else 'lower'}"
    text = f"{where}{text} than with more noise of equal accuracy"
    return text[0].upper() + text[1:]


def _cost(effects: Sequence[CemEffect], margin: float) -> str:
    """Return what accuracy does: a fall that is shown, and whether a loss of the margin is excluded."""
    total, falls = len(effects), shown(effects, "accuracy")[1]
    kept = sum(effect.accuracy.lo > -margin / 100 for effect in effects)
    loss = f"a loss of {points_of(margin)} of accuracy is"
    if total == 1:
        return f"{'accuracy falls, ' if falls else ''}{loss}{'' if kept else ' not'} excluded"
    fall = f"accuracy falls in {_of(falls, total, bare=True)}, " if falls else ""
    return f"{fall}{loss} excluded in {_of(kept, total, bare=True) if kept else 'none'}"


def front(group: ComparisonGroup, several: bool = False) -> str:
    """Return which trade-offs of a group are best."""
    best, trainings = group.best, len(group.records)
    where = f"{group.name}: of" if several else "Of"
    text = f"{where} {_count(len(group.configurations), 'configuration')} ({_count(trainings, 'training')}), "
    if len(best) == 1:
        only = best[0]
        return text + (
            f"one beats or equals every other in both accuracy and error: {only.name}, with {percent(only.accuracy)} % "
            f"at the best attacker’s MSE of {_error(only)}. "
            f"Always answering the mean image gives {group.baseline_mse:.4g}."
        )
    low, high = best[0], best[-1]
    cem = sum(bool(one.cem) for one in best)
    noise = sum(not one.cem and one.family == NOISE for one in best)
    shares = f"{_verb(cem, 'uses', 'use')} CEM, {_verb(noise, 'is', 'are')} noise alone"
    return text + (
        f"{len(best)} are best trade-offs: no other is both more accurate and harder to invert. They run from "
        f"{percent(high.accuracy)} % accuracy at the best attacker’s MSE of {_error(high)} ({high.name}) to "
        f"{percent(low.accuracy)} % at {_error(low)} ({low.name}); always answering the mean image gives "
        f"{group.baseline_mse:.4g}. {shares[0].upper()}{shares[1:]}."
    )


def ceiling(group: ComparisonGroup, found: Shares, several: bool = False) -> str:
    """Return where the configurations of a group lie between the undefended wire and the mean image of the class.

    Args:
        group: the configurations.
        found: as of `results.ceiling.shares`.
        several: whether the page has other groups too, so that this one must be named.
    """
    if group.class_mean_mse is None:
        return ""
    text = (
        f"{f'{group.name}: the' if several else 'The'} mean image of the true class gives {group.class_mean_mse:.4g}, "
        "the most that a wire can leave which still tells the class."
    )
    if not found:
        return (
            f"{text} How far the defenses come on the way there is not known: no cell without a defense, or with noise "
            "alone, has their seeds and images."
        )
    references = {id(share.reference): share.reference for share in found.values()}
    start = name_of(list(found.values()))
    if all(one.sigma > 0 for one in references.values()):
        start += " (no cell is undefended)"
    known = [(one, value) for one in group.configurations if (value := of_configuration(one, found)) is not None]
    if not known:
        return f"{text} It is not shown to be above the error on {start}, so that no percentage can be given."
    defended = [(one, value) for one, value in known if id(one) not in references]
    if not defended:
        return text
    ends = [choice(defended, key=lambda pair: pair[1].mean) for choice in (min, max)]
    shown = [f"{100 * value.mean:z.0f} %".replace("-", "−") + f" ({one.name})" for one, value in ends]
    where = shown[0] if len(defended) == 1 else " to ".join(shown)
    return f"{text} Of the way there from {start}, the others have come {where}."


def cem(effects: Sequence[CemEffect], margin: float = MARGIN) -> str:
    """Return what CEM changed over all comparisons; empty without any. ``margin`` as of `headline`."""
    if not effects:
        return ""
    total = len(effects)
    relative = [100 * effect.relative for effect in effects]
    change = [100 * effect.accuracy.mean for effect in effects]
    if total == 1:
        (only,) = effects
        return (
            f"With CEM the best attacker’s error changes by {_signed(relative[0], 0)} %, accuracy by "
            f"{_signed(change[0], 1)} points ({_count(len(only.seeds), 'seed')}); {_certain(only)}; "
            f"{_cost(effects, margin)}."
        )
    (error_up, error_down), (accuracy_up, accuracy_down) = (shown(effects, part) for part in ("mse", "accuracy"))
    seeds = sorted({len(effect.seeds) for effect in effects})
    return (
        f"With CEM the best attacker’s error changes by {_signed(statistics.median(relative), 0)} % in the "
        f"median of {total} comparisons (from {_signed(min(relative), 0)} to {_signed(max(relative), 0)} %; "
        f"{' to '.join(map(str, seeds[:: max(1, len(seeds) - 1)]))} seeds each); a rise is "
        f"shown in {error_up}, a fall in {error_down}. Accuracy changes by {_signed(statistics.median(change), 1)} "
        f"points in the median (from {_signed(min(change), 1)} to {_signed(max(change), 1)}); a rise is shown in "
        f"{accuracy_up}, a fall in {accuracy_down}. Shown: p below {LEVEL:g} after correction for the number of "
        f"comparisons (Holm). A loss of {points_of(margin)} is excluded "
        f"in {sum(effect.accuracy.lo > -margin / 100 for effect in effects)}."
    )


def equal_accuracy(found: Sequence[Equal]) -> str:
    """Return what all defenses do at equal accuracy with noise alone; empty without any."""
    if not found:
        return ""
    total, outside = len(found), sum(row.why in (OUTSIDE, AT_END) for row in found)
    more, less = (sum(row.verdict == f"{word} private" for row in found) for word in ("more", "less"))
    enough = sum(len(row.seeds) >= LEAST and row.difference is not None for row in found)
    if not enough:
        text = f"A verdict at equal accuracy needs {LEAST} seeds of each; here it can be given for none of {total}"
    else:
        text = (
            f"Against noise alone at equal accuracy, more error is shown in {more} and less in {less} of {enough} "
            "comparisons (p corrected for their number, Holm)"
        )
    beyond = (
        f". Outside the curve of noise or at its upper end, and not compared: {outside} of {total}" if outside else ""
    )
    return f"{text}{beyond}."


def chance(groups: Sequence[ComparisonGroup]) -> str:
    """Return how many networks have learned nothing that shows; empty where none is flagged so."""
    networks, flagged = _networks(groups)
    if not flagged:
        return ""
    amount = f"All {networks:,}" if flagged == networks > 1 else f"{flagged:,} of {_count(networks, 'network')}"
    return (
        f"{amount}{' networks' if flagged == networks > 1 else ''} {'is' if flagged == 1 else 'are'} {AT_CHANCE}: what "
        "attacks reach there says nothing about a defense. Train longer, or on more images."
    )


def _networks(groups: Sequence[ComparisonGroup]) -> tuple[int, int]:
    """Return the number of trainings, and of those with the flag that they are at chance."""
    records = [record for group in groups for one in group.configurations for record in one.records]
    flagged = [any(AT_CHANCE in flag for of in record.attacks.values() for flag in of.flags) for record in records]
    return len(records), sum(flagged)


def certainty(groups: Sequence[ComparisonGroup]) -> str:
    """Return what the intervals cover, which depends on the number of seeds."""
    seeds = [len(one.records) for group in groups for one in group.configurations]
    if max(seeds) == 1:
        return (
            "Each configuration was trained once, so the intervals cover the choice of images and not that of the "
            "training seed, which often matters more."
        )
    text = "Where a configuration has several seeds, its interval is Student’s over them"
    few = [n for n in seeds if 1 < n < 4]
    if few:
        text += f", which {_count(min(few), 'seed')} make wide, cut where no value can lie"
    if min(seeds) == 1:
        text += "; with one seed it covers the choice of images only"
    return text + ". The front picks what came out best, chance included: points close to it are as good."


def leakage(group: ComparisonGroup) -> str:
    """Return how the leakage estimate goes with the error, at each strength of noise; empty without enough cells."""
    from scipy.stats import spearmanr

    parts = []
    for sigma in sorted({one.sigma for one in group.configurations}):
        records = [record for one in group.configurations if one.sigma == sigma for record in one.records]
        pairs = [(r.leakage_nats, r.attacker.mse.mean) for r in records if r.leakage_nats is not None]
        if len(pairs) >= 5 and all(len(set(values)) > 1 for values in zip(*pairs, strict=True)):
            x, y = zip(*pairs, strict=True)
            found: Any = spearmanr(x, y)
            parts.append(f"{_signed(float(found[0]), 2)} at σ = {sigma:g} ({len(pairs)} cells)")
    return f"Rank correlation of the leakage estimate and the error: {'; '.join(parts)}." if parts else ""


def shown(effects: Sequence[CemEffect], part: str) -> tuple[int, int]:
    """Return in how many comparisons a change of ``mse`` or ``accuracy`` upwards, and downwards, is shown (Holm)."""
    changes = [getattr(effect, part) for effect in effects]
    p = holm([p_value(change, len(effect.seeds)) for change, effect in zip(changes, effects, strict=True)])
    sure = [change.mean > 0 for change, value in zip(changes, p, strict=True) if value < LEVEL]
    return sum(sure), len(sure) - sum(sure)


def counts(intervals: Sequence[Interval]) -> tuple[int, int]:
    """Return how many lie above zero, how many below.

    >>> counts([Interval(1, 0.5, 2), Interval(1, -1, 2), Interval(-1, -2, -0.5)])
    (1, 1)
    """
    return sum(i.lo > 0 for i in intervals), sum(i.hi < 0 for i in intervals)


def _of(number: int, total: int, bare: bool = False) -> str:
    if total == 1:
        return "the one comparison" if not bare else "it"
    amount = f"all {total}" if number == total else f"{number} of {total}"
    return amount if bare else f"{amount} comparisons"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _verb(number: int, one: str, many: str) -> str:
    return f"{number} of them {one if number == 1 else many}" if number else f"none of them {many}"


def _signed(value: float, digits: int) -> str:
    return plus(f"{value:.{digits}f}")


def _error(one: Configuration) -> str:
    return str(one.mse).replace("-", "−")


def _certain(effect: CemEffect) -> str:
    error, accuracy = (any(counts([value])) for value in (effect.mse, effect.accuracy))
    if error == accuracy:
        return "both intervals exclude zero" if error else "both intervals hold zero, so that neither change is shown"
    shown, other = ("error", "accuracy") if error else ("accuracy", "error")
    return f"the interval of the {shown}’s change excludes zero, that of the {other}’s does not"
