"""Defenses at equal accuracy: their error against that of noise alone where noise alone is as accurate.

A defense that leaves the attacker more error at a lower accuracy may do no better than more noise would. Noise alone at
several strengths σ gives a curve, error against accuracy, on which the error at any accuracy in between is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .evidence import quantile
from .intervals import ELEMENTS_AT_ONCE, Interval, expansion

RESAMPLES = 2000
LEAST_POINTS = 3
"""Least number of strengths of noise that make a curve."""
TINY = 1e-12
"""Replaces an error of zero, which has no logarithm."""
FINE = 32
"""Points between two strengths at which the curve is inverted."""


def isotonic(values: np.ndarray) -> np.ndarray:
    """Return the non-decreasing sequence nearest to each row of (..., K) in squares (isotonic regression).

    fit_k = max over i ≤ k of min over j ≥ k of mean(values_i, ..., values_j) (Barlow et al. 1972).

    Args:
        values: (..., K).

    >>> isotonic(np.array([[1.0, 3.0, 2.0], [3.0, 2.0, 1.0]])).tolist()
    [[1.0, 2.5, 2.5], [2.0, 2.0, 2.0]]
    """
    count = values.shape[-1]
    sums = np.concatenate([np.zeros_like(values[..., :1]), values.cumsum(-1)], -1)
    start, stop = np.meshgrid(np.arange(count), np.arange(count), indexing="ij")
    means = (sums[..., None, 1:] - sums[..., :-1, None]) / np.where(stop >= start, stop - start + 1, 1)
    means = np.where(stop >= start, means, np.inf)
    lowest = np.minimum.accumulate(means[..., ::-1], -1)[..., ::-1]  # over the ends at k or later
    return np.where(start <= stop, lowest, -np.inf).max(-2)


def on_curve(
    sigmas: Sequence[float], accuracy: np.ndarray, log_mse: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log error of noise alone at the accuracy ``wanted`` (...), and whether the curve reaches it (...).

    Accuracy falls and the error rises with σ: both are made monotone (`isotonic`) and interpolated over log σ, without
    overshooting (PCHIP, Fritsch and Carlson 1980). Where several strengths have the wanted accuracy, the strongest
    counts. Nothing is extrapolated: beyond the curve its nearer end is returned.

    Args:
        sigmas: K strengths, rising.
        accuracy: accuracy at each strength, (..., K), broadcast against ``wanted``.
        log_mse: log error at each strength, (..., K), broadcast against ``wanted``.
        wanted: accuracies, (...).

    >>> found, inside = on_curve([0.1, 0.2, 0.4], np.array([0.9, 0.8, 0.6]), np.log([1, 2, 4]), np.array(0.8))
    >>> round(float(np.exp(found)), 6), bool(inside)
    (2.0, True)
    """
    from scipy.interpolate import PchipInterpolator

    place = np.log(sigmas)
    part = np.arange(FINE) / FINE
    fine = np.append((place[:-1, None] + part * np.diff(place)[:, None]).ravel(), place[-1])
    falling, rising = PchipInterpolator(place, np.stack([-isotonic(-accuracy), isotonic(log_mse)]), axis=-1)(fine)
    asked = np.clip(wanted, falling[..., -1], falling[..., 0])
    reached = (falling >= asked[..., None] - 1e-12).sum(-1)  # points that are as accurate: the first so many
    left = np.clip(reached - 1, 0, len(fine) - 2)[..., None]
    a, b, low, high = (
        np.take_along_axis(values, left + step, -1)[..., 0] for values in (falling, rising) for step in (0, 1)
    )
    share = np.where(a > b, (a - asked) / np.where(a > b, a - b, 1), 0.0).clip(0, 1)
    return low + share * (high - low), np.asarray(asked == wanted)


@dataclass(frozen=True)
class AtEqualAccuracy:
    """A defense against noise alone.

    Attributes:
        accuracy: of the defense, over the seeds.
        reference: MSE of noise alone at that accuracy; None: outside the curve.
        difference: log MSE of the defense minus that of noise alone at the same accuracy; None: outside the curve.
        at_end: the defense is not surely less accurate than the curve's upper end; there is then no difference either.
        beyond: part of the resamples in which the accuracy was outside the curve, so that its end was taken.
        raw: by σ, log MSE of the defense minus that of noise alone of this strength, however accurate that is.
    """

    accuracy: float
    reference: float | None
    difference: Interval | None
    at_end: bool
    beyond: float
    raw: dict[float, Interval]


def at_equal_accuracy(
    sigmas: Sequence[float],
    errors: Sequence[np.ndarray],
    hits: Sequence[np.ndarray],
    *,
    shared: tuple[bool, bool] = (False, False),
    resamples: int = RESAMPLES,
) -> list[AtEqualAccuracy]:
    """Compare defenses with noise alone at equal accuracy, with 95 % intervals over seeds and images.

    The hierarchical bootstrap draws seeds, the same for all rows, and within each its images, the same for all rows. Of
    n seeds n − 1 are drawn, so that the variance of a mean over them is not too small (Rao and Wu 1988); the interval
    is the difference ± Student's quantile for n seeds times the standard deviation over the resamples, as percentiles
    of few seeds are far too narrow. Of one seed it is over the images alone. Means over fewer than `intervals.FEW`
    images that all seeds share, or that the only seed has, are moved away from the mean of all by
    `intervals.expansion`; where each of several seeds has its own images, Student's quantile covers what they add.

    Weak noise may cost next to nothing, so that chance decides how strong noise can be that is as accurate as a defense
    which costs as little; the strongest counts, to the disadvantage of the defense. So nothing is said of one whose
    accuracy is not below that of the most accurate noise, beyond what chance does in 95 of 100 cases.

    Args:
        sigmas: strengths of noise alone, K of them, rising.
        errors: for each seed the MSE per attacked image, (K + D, N): noise alone at each strength, then D defenses.
        hits: for each seed 1 where a test image is classified right, (K + D, M), in the same order.
        shared: whether all seeds have the same attacked images, and the same test images.
        resamples: of the bootstrap.

    Raises:
        UserError: fewer than `LEAST_POINTS` strengths, strengths that do not rise, or arrays that do not fit.
    """
    _check(sigmas, errors, hits)
    seeds, count = len(errors), len(sigmas)
    samples = _against_curve(sigmas, *_resampled_means(errors, hits, shared, resamples))
    whole = _against_curve(sigmas, *_whole_means(errors, hits))

    def interval(name: str, *place: int) -> Interval:
        return _interval(whole[name][0, *place], samples[name][:, *place], seeds)

    ends = (whole["below"][0] <= _one_sided(seeds) * samples["below"].std(0, ddof=1)).tolist()
    return [
        AtEqualAccuracy(
            float(whole["accuracy"][0, d]),
            float(np.exp(whole["reference"][0, d])) if whole["inside"][0, d] else None,
            interval("difference", d) if whole["inside"][0, d] and not ends[d] else None,
            ends[d],
            float(1 - samples["inside"][:, d].mean()),
            {sigma: interval("raw", d, k) for k, sigma in enumerate(sigmas)},
        )
        for d in range(len(errors[0]) - count)
    ]


@dataclass(frozen=True)
class AtAccuracy:
    """A defense of several strengths against noise alone, at an accuracy that was named beforehand.

    Attributes:
        accuracy: at which both are read from their curves.
        reference: MSE of noise alone at that accuracy; None: outside a curve.
        mse: of the defense at that accuracy; None: outside a curve.
        difference: log MSE of the defense minus that of noise alone; None: outside a curve.
        beyond: part of the resamples in which a curve did not reach the accuracy, so that its end was taken.
    """

    accuracy: float
    reference: float | None
    mse: float | None
    difference: Interval | None
    beyond: float


def at_accuracies(
    sigmas: Sequence[float],
    strengths: Sequence[float],
    accuracies: Sequence[float],
    errors: Sequence[np.ndarray],
    hits: Sequence[np.ndarray],
    *,
    shared: tuple[bool, bool] = (False, False),
    resamples: int = RESAMPLES,
) -> list[AtAccuracy]:
    """Compare a defense of several strengths with noise alone at named accuracies, with 95 % intervals.

    Both are curves of error against accuracy (`on_curve`): noise alone over σ, the defense over its strengths. The
    bootstrap is that of `at_equal_accuracy`. Where a curve does not reach an accuracy, nothing is said.

    Args:
        sigmas: strengths of noise alone, K of them, rising.
        strengths: of the defense, S of them, rising; they only space the curve, on a logarithmic scale.
        accuracies: at which is compared.
        errors: for each seed the MSE per attacked image, (K + S, N): noise alone, then the defense at each strength.
        hits: for each seed 1 where a test image is classified right, (K + S, M), in the same order.
        shared: whether all seeds have the same attacked images, and the same test images.
        resamples: of the bootstrap.

    Raises:
        UserError: fewer than `LEAST_POINTS` strengths of either, strengths that do not rise, or arrays that do not fit.
    """
    for place in (sigmas, strengths):
        _check(place, errors, hits)
    if len(errors[0]) != len(sigmas) + len(strengths):
        raise UserError(f"two curves got {len(errors[0])} rows; expected {len(sigmas)} of noise + {len(strengths)}")
    samples = _between_curves(sigmas, strengths, accuracies, *_resampled_means(errors, hits, shared, resamples))
    whole = _between_curves(sigmas, strengths, accuracies, *_whole_means(errors, hits))
    inside = whole["inside"][0]
    return [
        AtAccuracy(
            accuracy,
            float(np.exp(whole["reference"][0, a])) if inside[a] else None,
            float(np.exp(whole["own"][0, a])) if inside[a] else None,
            _interval(whole["difference"][0, a], samples["difference"][:, a], len(errors)) if inside[a] else None,
            float(1 - samples["inside"][:, a].mean()),
        )
        for a, accuracy in enumerate(accuracies)
    ]


def _between_curves(
    sigmas: Sequence[float], strengths: Sequence[float], accuracies: Sequence[float], mse: np.ndarray, share: np.ndarray
) -> dict[str, np.ndarray]:
    """Return what means (R, K + S) say at each of A accuracies, (R, A)."""
    count, log = len(sigmas), np.log(np.maximum(mse, TINY))[:, None]
    wanted, share = np.broadcast_to(accuracies, (len(mse), len(accuracies))), share[:, None]
    reference, of_noise = on_curve(sigmas, share[..., :count], log[..., :count], wanted)
    own, of_defense = on_curve(strengths, share[..., count:], log[..., count:], wanted)
    return {"reference": reference, "own": own, "difference": own - reference, "inside": of_noise & of_defense}


def _resampled_means(
    errors: Sequence[np.ndarray], hits: Sequence[np.ndarray], shared: tuple[bool, bool], resamples: int
) -> list[np.ndarray]:
    """Return the means of errors and of hits over resampled seeds and images, (R, rows) each."""
    rng, seeds = torch.Generator().manual_seed(0), len(errors)
    drawn = torch.randint(seeds, (resamples, max(1, seeds - 1)), generator=rng).numpy()
    return [
        _over_seeds(values, same, drawn, rng, ratios)
        for values, same, ratios in zip((errors, hits), shared, (True, False), strict=True)
    ]


def _whole_means(errors: Sequence[np.ndarray], hits: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the means of errors and of hits over all seeds and images, (1, rows) each."""
    return [np.mean([v.mean(1) for v in values], 0)[None] for values in (errors, hits)]


def _interval(mean: float, samples: np.ndarray, seeds: int) -> Interval:
    half = quantile(seeds) * float(samples.std(ddof=1))
    return Interval(float(mean), float(mean) - half, float(mean) + half)


def _one_sided(seeds: int) -> float:
    """Return Student's quantile that is exceeded in 5 of 100 cases; the normal one where only images vary."""
    from scipy.stats import norm, t

    return float(t.ppf(0.95, seeds - 1) if seeds > 1 else norm.ppf(0.95))


def _check(sigmas: Sequence[float], errors: Sequence[np.ndarray], hits: Sequence[np.ndarray]) -> None:
    if len(sigmas) < LEAST_POINTS or np.any(np.diff(sigmas) <= 0) or sigmas[0] <= 0:
        raise UserError(f"a curve of noise got the strengths {list(sigmas)}; expected {LEAST_POINTS} or more, rising")
    if len(errors) != len(hits) or len({len(rows) for rows in (*errors, *hits)}) != 1:
        raise UserError("a curve of noise got errors and answers of different seeds or rows; expected the same of both")


def _against_curve(sigmas: Sequence[float], mse: np.ndarray, share: np.ndarray) -> dict[str, np.ndarray]:
    """Return what means (R, K + D) say of the D defenses, (R, D) each; "raw" has (R, D, K)."""
    count, log = len(sigmas), np.log(np.maximum(mse, TINY))
    accuracy, own = share[:, count:], log[:, count:]
    reference, inside = on_curve(sigmas, share[:, None, :count], log[:, None, :count], accuracy)
    about = {"accuracy": accuracy, "reference": reference, "inside": inside, "difference": own - reference}
    about["below"] = share[:, :count].max(1, keepdims=True) - accuracy
    return about | {"raw": own[..., None] - log[:, None, :count]}


def _over_seeds(
    values: Sequence[np.ndarray], shared: bool, drawn: np.ndarray, rng: torch.Generator, ratios: bool
) -> np.ndarray:
    """Return the means over the drawn seeds of means over resampled images, (R, rows); ``ratios`` as of `_expanded`."""
    rows, resamples = len(values[0]), len(drawn)
    sample = np.arange(resamples)[:, None]
    if shared:
        stacked = torch.as_tensor(np.concatenate(values), dtype=torch.float64)
        means = _expanded(resampled(stacked, resamples, rng).numpy(), stacked.numpy(), ratios)
        return means.reshape(resamples, len(values), rows)[sample, drawn].mean(1)
    if len(values) == 1:
        (only,) = values
        return _expanded(resampled(torch.as_tensor(only, dtype=torch.float64), resamples, rng).numpy(), only, ratios)
    means = [resampled(torch.as_tensor(v, dtype=torch.float64), resamples, rng).numpy() for v in values]
    # A seed that is drawn twice has its images drawn twice: the second time those of the next sample.
    return np.stack(means, 1)[(sample + np.arange(drawn.shape[1])) % resamples, drawn].mean(1)


def _expanded(means: np.ndarray, values: np.ndarray, ratios: bool) -> np.ndarray:
    """Return means (R, rows) over resamples of few images, moved away from those of all ``values`` (rows, images).

    Args:
        means: over the resamples.
        values: that were drawn from.
        ratios: move the logarithms, so that an error stays above 0.
    """
    factor = expansion(values.shape[1]) if values.shape[1] > 1 else 1.0
    if factor == 1:
        return means
    whole = values.mean(1, dtype=np.float64)
    if ratios:
        return whole * (np.maximum(means, TINY) / np.maximum(whole, TINY)) ** factor
    return whole + factor * (means - whole)


def resampled(values: Tensor, resamples: int, rng: torch.Generator) -> Tensor:
    """Return the means (resamples, rows) of ``values`` (rows, images) over images drawn anew, the same for all rows.

    Args:
        values: (rows, images).
        resamples: number of samples.
        rng: generator of the samples.
    """
    count, parts = values.shape[1], []
    at_once = max(1, ELEMENTS_AT_ONCE // count)
    for start in range(0, resamples, at_once):
        drawn = torch.randint(count, (min(at_once, resamples - start), count), generator=rng)
        times = torch.zeros(drawn.shape, dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones_like(times))
        parts.append(times @ values.T / count)
    return torch.cat(parts)
