"""What a bench shows, in sentences; a difference counts only where it is shown after correction for their number."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ..results.cem_effect import Gain
from ..results.export import percent, plus
from ..results.groups import NOISE, Arena, Setup, spearman
from ..results.records import attacker
from ..statistics.evidence import LEAST, LEVEL, MARGIN, holm, p_value, points_of
from ..statistics.intervals import Interval


def headline(arenas: Sequence[Arena], gains: Sequence[Gain], margin: float = MARGIN) -> str:
    """The page's title.

    Args:
        margin: loss of accuracy, in points, that is to be excluded before accuracy is called kept.
    """
    if not gains:
        setups = sum(len(arena.setups) for arena in arenas)
        return f"{_count(setups, 'configuration')}: what accuracy costs in privacy"
    total, (up, down) = len(gains), shown(gains, "mse")
    if not up and not down and total == 1:
        return "No effect of CEM on the attacker’s error is shown"
    if not up and not down:
        return "No comparison shows an effect of CEM on the attacker’s error"
    if any(len(gain.seeds) < LEAST for gain in gains):  # what was changed is a cause only where seeds say so
        which = (
            f"higher in {_of(up, total)}{f', lower in {down}' if down else ''}"
            if up
            else f"lower in {_of(down, total)}"
        )
        return f"In these trainings the attacker’s error with CEM is {which}; {_cost(gains, margin)}"
    if not up:
        return f"CEM makes the attack easier in {_of(down, total)}"
    also = f", lowers it in {down}" if down else ""
    return f"CEM raises the attacker’s error in {_of(up, total)}{also}; {_cost(gains, margin)}"


def _cost(gains: Sequence[Gain], margin: float) -> str:
    """What accuracy does: a fall that is shown, and whether a loss of the margin is excluded."""
    total, falls = len(gains), shown(gains, "accuracy")[1]
    kept = sum(gain.accuracy.lo > -margin / 100 for gain in gains)
    loss = f"a loss of {points_of(margin)} of accuracy is"
    if total == 1:
        return f"{'accuracy falls, ' if falls else ''}{loss}{'' if kept else ' not'} excluded"
    fall = f"accuracy falls in {_of(falls, total, bare=True)}, " if falls else ""
    return f"{fall}{loss} excluded in {_of(kept, total, bare=True) if kept else 'none'}"


def front(arena: Arena, several: bool = False) -> str:
    """Which trade-offs of an arena are best."""
    setups, best = arena.setups, [arena.setups[place] for place in arena.front]
    trainings = len(arena.records())
    where = f"{arena.name}: of" if several else "Of"
    text = f"{where} {_count(len(setups), 'configuration')} ({_count(trainings, 'training')}), "
    if len(best) == 1:
        only = best[0]
        return text + (
            f"one beats or equals every other in both accuracy and error: {only.name}, with {percent(only.accuracy)} % "
            f"at the best attacker’s MSE of {_error(only)}. "
            f"Always answering the mean image gives {arena.baseline_mse:.4g}."
        )
    low, high = best[0], best[-1]
    cem = sum(bool(setup.cem) for setup in best)
    noise = sum(not setup.cem and setup.family == NOISE for setup in best)
    shares = f"{_verb(cem, 'uses', 'use')} CEM, {_verb(noise, 'is', 'are')} noise alone"
    return text + (
        f"{len(best)} are best trade-offs: no other is both more accurate and harder to invert. They run from "
        f"{percent(high.accuracy)} % accuracy at the best attacker’s MSE of {_error(high)} ({high.name}) to "
        f"{percent(low.accuracy)} % at {_error(low)} ({low.name}); always answering the mean image gives "
        f"{arena.baseline_mse:.4g}. {shares[0].upper()}{shares[1:]}."
    )


def cem(gains: Sequence[Gain], margin: float = MARGIN) -> str:
    """What CEM changed over all comparisons; empty without any. ``margin`` as of `headline`."""
    if not gains:
        return ""
    total = len(gains)
    relative = [100 * gain.relative for gain in gains]
    change = [100 * gain.accuracy.mean for gain in gains]
    if total == 1:
        (only,) = gains
        return (
            f"With CEM the best attacker’s error changes by {_signed(relative[0], 0)} %, accuracy by "
            f"{_signed(change[0], 1)} points ({_count(len(only.seeds), 'seed')}); {_certain(only)}; "
            f"{_cost(gains, margin)}."
        )
    (error_up, error_down), (accuracy_up, accuracy_down) = (shown(gains, part) for part in ("mse", "accuracy"))
    seeds = sorted({len(gain.seeds) for gain in gains})
    return (
        f"With CEM the best attacker’s error changes by {_signed(statistics.median(relative), 0)} % in the "
        f"median of {total} comparisons (from {_signed(min(relative), 0)} to {_signed(max(relative), 0)} %; "
        f"{' to '.join(map(str, seeds[:: max(1, len(seeds) - 1)]))} seeds each); a rise is "
        f"shown in {error_up}, a fall in {error_down}. Accuracy changes by {_signed(statistics.median(change), 1)} "
        f"points in the median (from {_signed(min(change), 1)} to {_signed(max(change), 1)}); a rise is shown in "
        f"{accuracy_up}, a fall in {accuracy_down}. Shown: p below {LEVEL:g} after correction for the number of "
        f"comparisons (Holm). A loss of {points_of(margin)} is excluded "
        f"in {sum(gain.accuracy.lo > -margin / 100 for gain in gains)}."
    )


def certainty(arenas: Sequence[Arena]) -> str:
    """What the intervals cover, which depends on the number of seeds."""
    seeds = [len(setup.records) for arena in arenas for setup in arena.setups]
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


def leakage(arena: Arena) -> str:
    """How the leakage estimate goes with the error, at each strength of the noise; empty where nothing can be said."""
    by_sigma: dict[float, list[tuple[float, float]]] = {}
    for setup in arena.setups:
        for record in setup.records:
            if record["leakage_nats"] is not None:
                pair = record["leakage_nats"], attacker(record)["mse"]["mean"]
                by_sigma.setdefault(setup.sigma, []).append(pair)
    parts = []
    for sigma, pairs in sorted(by_sigma.items()):
        if len(pairs) >= 5:
            rho = spearman(*zip(*pairs, strict=True))
            if rho == rho:
                parts.append(f"{_signed(rho, 2)} at σ = {sigma:g} ({len(pairs)} cells)")
    return f"Rank correlation of leakage and error: {'; '.join(parts)}." if parts else ""


def shown(gains: Sequence[Gain], part: str) -> tuple[int, int]:
    """In how many comparisons a change of ``mse`` or ``accuracy`` upwards, and downwards, is shown (Holm)."""
    changes = [getattr(gain, part) for gain in gains]
    p = holm([p_value(change, len(gain.seeds)) for change, gain in zip(changes, gains, strict=True)])
    sure = [change.mean > 0 for change, value in zip(changes, p, strict=True) if value < LEVEL]
    return sum(sure), len(sure) - sum(sure)


def counts(intervals: Sequence[Interval]) -> tuple[int, int]:
    """How many lie above zero, how many below.

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


def _error(setup: Setup) -> str:
    return str(setup.mse).replace("-", "−")


def _certain(gain: Gain) -> str:
    error, accuracy = (any(counts([value])) for value in (gain.mse, gain.accuracy))
    if error == accuracy:
        return "both intervals exclude zero" if error else "both intervals hold zero, so that neither change is shown"
    shown, other = ("error", "accuracy") if error else ("accuracy", "error")
    return f"the interval of the {shown}’s change excludes zero, that of the {other}’s does not"
