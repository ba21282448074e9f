"""What a bench shows, in sentences; a difference counts only where its interval excludes zero."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ..bench.analysis import NOISE, Arena, Setup, spearman
from ..bench.export import percent, plus
from ..bench.gains import Gain
from ..bench.records import attacker
from ..metrics import Interval


def headline(arenas: Sequence[Arena], gains: Sequence[Gain]) -> str:
    """The page's title."""
    if not gains:
        setups = sum(len(arena.setups) for arena in arenas)
        return f"{_count(setups, 'configuration')}: what accuracy costs in privacy"
    up, down = counts([gain.mse for gain in gains])
    loss = counts([gain.accuracy for gain in gains])[1]
    total = len(gains)
    if not up and not down and total == 1:
        return "No effect of CEM on the attacker’s error is shown"
    if not up and not down:
        return "No comparison shows an effect of CEM on the attacker’s error"
    if not up:
        return f"CEM makes the attack easier in {_of(down, total)}"
    cost = f"; accuracy falls in {_of(loss, total, bare=True)}" if loss else "; a loss of accuracy is shown in none"
    also = f", lowers it in {down}" if down else ""
    return f"CEM raises the attacker’s error in {_of(up, total)}{also}{cost}"


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


def cem(gains: Sequence[Gain]) -> str:
    """What CEM changed over all comparisons; empty without any."""
    if not gains:
        return ""
    total = len(gains)
    error_up, error_down = counts([gain.mse for gain in gains])
    accuracy_up, accuracy_down = counts([gain.accuracy for gain in gains])
    relative = [100 * gain.relative for gain in gains]
    change = [100 * gain.accuracy.mean for gain in gains]
    if total == 1:
        (only,) = gains
        return (
            f"With CEM the best attacker’s error changes by {_signed(relative[0], 0)} %, accuracy by "
            f"{_signed(change[0], 1)} points; {_certain(only)}."
        )
    text = (
        f"With CEM the best attacker’s error changes by {_signed(statistics.median(relative), 0)} % in the "
        f"median of {total} comparisons (from {_signed(min(relative), 0)} to {_signed(max(relative), 0)} %); a rise is "
        f"shown in {error_up}, a fall in {error_down}. Accuracy changes by {_signed(statistics.median(change), 1)} "
        f"points in the median (from {_signed(min(change), 1)} to {_signed(max(change), 1)}); a rise is shown in "
        f"{accuracy_up}, a fall in {accuracy_down}."
    )
    if total >= 20:
        text += f" By chance alone, about {round(0.05 * total)} of {total} such intervals would exclude zero."
    return text


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
