"""Confidence intervals of means over images, of shares and of differences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, GetCoreSchemaHandler
from torch import Tensor

from ..errors import UserError
from ..storage import reading

RESAMPLES = 2000
MOST_EXPONENT = 600.0  # exp of which is finite
FEW = 30
"""Values from which on the bootstrap's percentiles are taken as they are."""
ELEMENTS_AT_ONCE = 2**22  # bounds the working memory of bootstrap_ci to some 200 MB


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval [lo, hi].

    >>> interval = Interval(0.02314, 0.02251, 0.02377)
    >>> str(interval), f"{interval:.3f}"
    ('0.0231 [0.0225, 0.0238]', '0.023 [0.023, 0.024]')
    >>> interval.as_dict()
    {'mean': 0.02314, 'ci95': [0.02251, 0.02377]}
    """

    mean: float
    lo: float
    hi: float
    level: float = 0.95

    def as_dict(self) -> dict[str, Any]:
        """Return the interval for JSON; the key names the level."""
        return {"mean": self.mean, f"ci{100 * self.level:g}": [self.lo, self.hi]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Interval:
        """Return the 95 % interval that `as_dict` wrote.

        Args:
            value: with ``mean`` and ``ci95``.

        >>> Interval.from_dict({"mean": 0.5, "ci95": [0.4, 0.6]})
        Interval(mean=0.5, lo=0.4, hi=0.6, level=0.95)
        """
        return cls(value["mean"], *value["ci95"])

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: GetCoreSchemaHandler) -> Any:
        """Let pydantic read an interval from what `as_dict` wrote."""
        return handler.generate_schema(Annotated[reading.Interval, AfterValidator(cls.from_dict)])

    def scaled(self, factor: float) -> Interval:
        """Return the interval of ``factor`` (above 0) times the value.

        Args:
            factor: above 0.

        >>> f"{Interval(0.964, 0.942, 0.978).scaled(100):.1f}"
        '96.4 [94.2, 97.8]'
        """
        return Interval(factor * self.mean, factor * self.lo, factor * self.hi, self.level)

    def within(self, least: float, most: float) -> Interval:
        """Return the interval with its ends cut to what is possible.

        Args:
            least: lowest value that is possible.
            most: highest value that is possible.

        >>> Interval(0.1, -0.3, 0.5).within(0, 1)
        Interval(mean=0.1, lo=0, hi=0.5, level=0.95)
        """
        return replace(self, lo=min(self.mean, max(least, self.lo)), hi=max(self.mean, min(most, self.hi)))

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} [{self.lo:{spec}}, {self.hi:{spec}}]" if spec else str(self)

    def __str__(self) -> str:
        """Return as many decimals as the width of the interval supports: two significant digits of it."""
        width = abs(self.hi - self.lo)
        if not math.isfinite(width) or width <= 1e-9 * abs(self.mean):  # nothing but rounding
            return format(self, ".4g")
        return format(self, f".{max(0, 1 - math.floor(math.log10(width)))}f")


def bootstrap_ci(
    values: Tensor | Sequence[float] | Any,
    rng: torch.Generator | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    least: float = -math.inf,
) -> Interval:
    """Return the percentile-bootstrap interval of the mean of independent values (Efron and Tibshirani 1993, ch. 13).

    Of fewer than `FEW` values its ends are moved away from the mean by the factor `expansion`: the percentiles alone
    hold the mean of three errors in three of four experiments.

    Args:
        values: one number per image, (n,), n ≥ 2, all finite.
        rng: where the resampling comes from; None: a fixed seed, so that equal values give equal intervals.
        level: share of repetitions of the experiment whose interval should hold the true mean.
        resamples: number of bootstrap samples.
        least: lowest value that is possible, such as 0 of a squared error; the interval is cut there.

    Raises:
        UserError: fewer than two values, a value that is NaN or infinite, or a level outside (0, 1).

    >>> interval = bootstrap_ci([0.0, 1.0, 2.0, 3.0])
    >>> interval.mean, interval.lo < 0 < 1.5 < 3 < interval.hi  # four values say little
    (1.5, True)
    """
    rng = torch.Generator().manual_seed(0) if rng is None else rng
    sample = torch.as_tensor(values).detach().to(device=rng.device, dtype=torch.float64)
    count = sample.numel()
    if sample.dim() != 1 or count < 2:
        raise UserError(f"a confidence interval got values of shape {tuple(sample.shape)}; expected (n,), n at least 2")
    if not bool(sample.isfinite().all()):
        bad = int((~sample.isfinite()).sum())
        raise UserError(f"a confidence interval got {bad} of {count} values that are NaN or infinite; leave them out")
    _check_level(level)
    if resamples < 1:
        raise UserError(f"a confidence interval got resamples={resamples}; expected at least 1 (2000 is usual)")
    means = torch.cat([sample[drawn].mean(dim=1) for drawn in _resamples(count, resamples, rng)])
    mean = sample.mean().item()
    low, high = (_moved(mean, end, expansion(count, level)) for end in _tails(means, level))
    return Interval(mean, max(least, low), high, level)


def expansion(count: int, level: float = 0.95) -> float:
    """Return the factor by which the ends of a percentile interval of few values are moved away from the mean.

    Percentiles of few values are too narrow: the variance of a mean over n values that are drawn anew has n where an
    unbiased one has n − 1, and the percentiles are those of a normal law where Student's is wider. The factor is

        t/z · √(n / (n − 1)),

    with the quantiles of Student's law of n − 1 degrees of freedom and of the normal law: 9.2 of two values, 1.06 of
    29. From `FEW` values on it is 1. It is that of the expanded percentile interval (Hesterberg, "What teachers should
    know about the bootstrap", The American Statistician 69, 2015), which takes other percentiles by it. Those of very
    few values end at the smallest and the largest of them, so that the ends are moved instead.

    Args:
        count: number n of values, at least 2.
        level: as of `bootstrap_ci`.

    >>> [round(expansion(count), 2) for count in (2, 3, 5, 10, 29, 30)]
    [9.17, 2.69, 1.58, 1.22, 1.06, 1.0]
    """
    return student_over_normal(count, level) * math.sqrt(count / (count - 1)) if count < FEW else 1.0


def student_over_normal(count: int, level: float = 0.95) -> float:
    """Return Student's quantile of ``count`` − 1 degrees of freedom over the normal one; from `FEW` values on 1.

    Args:
        count: number of values that a standard error was found from, at least 2.
        level: as of `bootstrap_ci`.
    """
    from scipy.special import stdtrit

    tail = (1 + level) / 2
    return float(stdtrit(count - 1, tail)) / NormalDist().inv_cdf(tail) if count < FEW else 1.0


def _moved(mean: float, end: float, factor: float) -> float:
    return end if factor == 1 else mean + factor * (end - mean)


def _resamples(count: int, resamples: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Yield the numbers of the drawn images, (rows, ``count``), until there are ``resamples`` rows."""
    at_once = max(1, ELEMENTS_AT_ONCE // count)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        yield torch.randint(count, (rows, count), generator=rng, device=rng.device)


def _tails(values: Tensor, level: float) -> tuple[float, float]:
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device=values.device)
    low, high = values.quantile(tails).tolist()
    return low, high


def paired_difference(a: Any, b: Any, rng: torch.Generator | None = None, level: float = 0.95) -> Interval:
    """Return the bootstrap interval of mean(a − b), where a[i] and b[i] were measured on the same image.

    The images' own spread cancels, so this is much narrower than the difference of two intervals.

    Args:
        a: one number per image, (n,).
        b: one number per image, (n,), in the same order.
        rng: as of `bootstrap_ci`.
        level: as of `bootstrap_ci`.

    Raises:
        UserError: different numbers of images, and as `bootstrap_ci`.

    >>> paired_difference([2.0, 3.0, 5.0], [1.0, 2.0, 4.0])
    Interval(mean=1.0, lo=1.0, hi=1.0, level=0.95)
    """
    first, second = (torch.as_tensor(values).detach().double().cpu() for values in (a, b))
    if first.shape != second.shape:
        raise UserError(
            f"a paired difference got {tuple(first.shape)} and {tuple(second.shape)} values; "
            "expected both from the same images"
        )
    return bootstrap_ci(first - second, rng, level)


def paired_ratio(a: Any, b: Any, rng: torch.Generator | None = None, level: float = 0.95) -> Interval:
    """Return the bootstrap interval of mean(a)/mean(b), where a[i] and b[i] were measured on the same image.

    Of few images its ends are moved as those of `bootstrap_ci`, on a logarithmic scale, so that a ratio of errors stays
    above 0.

    Args:
        a: one number per image, (n,).
        b: one number per image, (n,), in the same order, with a positive mean.
        rng: as of `bootstrap_ci`.
        level: as of `bootstrap_ci`.

    Raises:
        UserError: different numbers of images, a mean of b that is not positive, and as `bootstrap_ci`.

    >>> paired_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    Interval(mean=2.0, lo=2.0, hi=2.0, level=0.95)
    """
    first, second = (torch.as_tensor(values).detach().double().cpu() for values in (a, b))
    if first.shape != second.shape or first.dim() != 1 or len(first) < 2:
        raise UserError(
            f"a paired ratio got {tuple(first.shape)} and {tuple(second.shape)} values; expected both (n,), n at least "
            "2, from the same images"
        )
    if not bool((first.isfinite() & second.isfinite()).all()) or not bool(second.mean() > 0):
        raise UserError("a paired ratio got values that are not finite, or a denominator whose mean is not above 0")
    _check_level(level)
    rng = torch.Generator().manual_seed(0) if rng is None else rng
    drawn = _resamples(len(first), RESAMPLES, rng)
    least = 1e-12 * second.mean()  # in the place of 0, where b is 0 in all that was drawn
    ratios = torch.cat([first[index].mean(1) / second[index].mean(1).clamp(min=least) for index in drawn])
    ratio, factor = float(first.mean() / second.mean()), expansion(len(first), level)
    low, high = (_moved_ratio(ratio, end, factor) for end in _tails(ratios, level))
    return Interval(ratio, low, high, level)


def _moved_ratio(ratio: float, end: float, factor: float) -> float:
    if factor == 1 or end == ratio:
        return end
    if ratio <= 0 or end <= 0:  # of values that can be negative, or errors of zero: there is no logarithm
        return _moved(ratio, end, factor) if ratio <= 0 or end < 0 else 0.0
    return ratio * math.exp(min(factor * math.log(end / ratio), MOST_EXPONENT))


def binomial_ci(correct: int, n: int, level: float = 0.95) -> Interval:
    """Return an accuracy with its Wilson score interval (Wilson 1927), sound also near 0 and 1.

    Args:
        correct: number of hits.
        n: number of trials.
        level: share of repetitions whose interval should hold the true share.

    Raises:
        UserError: n below 1 or ``correct`` outside 0..n.

    >>> f"{binomial_ci(50, 100):.4f}"
    '0.5000 [0.4038, 0.5962]'
    """
    if n < 1 or not 0 <= correct <= n:
        raise UserError(f"an accuracy got {correct} correct of {n}; expected 0 <= correct <= n and n at least 1")
    _check_level(level)
    return Interval(correct / n, *_wilson(correct / n, n, level), level)


def _wilson(share: float, n: int, level: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + level) / 2)
    weight = z * z / n
    center = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(max(0.0, share * (1 - share)) / n + weight / (4 * n))
    return max(0.0, min(share, center - half)), min(1.0, max(share, center + half))


def bounded_ci(values: Any, rng: torch.Generator | None = None, level: float = 0.95) -> Interval:
    """Return the interval of the mean of independent values in [0, 1], such as chances, sound also near 0 and 1.

    Where nearly all values are equal the bootstrap may draw no other one, and its interval is a point. A value in
    [0, 1] of mean p has a variance of at most p (1 − p), that of an answer which is right with probability p. Wilson's
    interval at the mean of n values (`binomial_ci` of np hits) is therefore wide enough, whatever their law. The
    interval is the hull of both.

    Args:
        values: one number per image, (n,), n ≥ 2, all in [0, 1].
        rng: as of `bootstrap_ci`.
        level: as of `bootstrap_ci`.

    Raises:
        UserError: a value outside [0, 1], and as `bootstrap_ci`.

    >>> print(bounded_ci([1.0] * 100), "where the bootstrap says", bootstrap_ci([1.0] * 100))
    1.000 [0.963, 1.000] where the bootstrap says 1 [1, 1]
    """
    drawn = bootstrap_ci(values, rng, level)
    sample = torch.as_tensor(values)
    if bool((sample < 0).any() | (sample > 1).any()):
        raise UserError(
            f"an interval of a mean in [0, 1] got values from {float(sample.min()):.4g} to {float(sample.max()):.4g}; "
            "expected chances, or other numbers from 0 to 1"
        )
    mean = min(1.0, max(0.0, drawn.mean))
    low, high = _wilson(mean, sample.numel(), level)
    return Interval(mean, max(0.0, min(low, drawn.lo)), min(1.0, max(high, drawn.hi)), level)


def paired_hits(a: Any, b: Any, level: float = 0.95) -> Interval:
    """Return the interval of the difference of two shares, mean(a) − mean(b), of hits on the same images.

    It is method 10 of Newcombe ("Improved confidence intervals for the difference between binomial proportions based on
    paired data", Statistics in Medicine 17, 1998, 2635–2650). Of n images, e are hits of both, f of a alone, g of b
    alone and h of neither. With Wilson's intervals [l₁, u₁] of p₁ = (e + f)/n and [l₂, u₂] of p₂ = (e + g)/n,

        lo = p₁ − p₂ − √((p₁ − l₁)² − 2φ (p₁ − l₁)(u₂ − p₂) + (u₂ − p₂)²),
        hi = p₁ − p₂ + √((u₁ − p₁)² − 2φ (u₁ − p₁)(p₂ − l₂) + (p₂ − l₂)²),
        φ = c / √((e + f)(g + h)(e + g)(f + h)),

    c = eh − fg where this is negative, else max(eh − fg − n/2, 0); φ = 0 where a factor under the root is 0. Unlike the
    bootstrap's of `paired_difference`, it has a width where no image, or only one or two, tell a and b apart.

    Args:
        a: whether each image is a hit, (n,), as bool or as 0 and 1.
        b: the same of the other side, (n,), in the same order.
        level: as of `bootstrap_ci`.

    Raises:
        UserError: different numbers of images or none, a value that is neither 0 nor 1, or a level outside (0, 1).

    >>> print(f"{paired_hits([1] * 48 + [0] * 2, [1] * 36 + [0] * 12 + [1] * 2):.4f}")  # e = 36, f = 12, g = 2, h = 0
    0.2000 [0.0569, 0.3404]
    >>> print(paired_hits([1] * 100, [1] * 100))
    0.000 [-0.037, 0.037]
    """
    first, second = (torch.as_tensor(values).detach().double().cpu() for values in (a, b))
    count = first.numel()
    if first.shape != second.shape or first.dim() != 1 or not count:
        raise UserError(
            f"a difference of paired hits got {tuple(first.shape)} and {tuple(second.shape)} values; expected both "
            "(n,), n at least 1, from the same images"
        )
    if not bool(((first == 0) | (first == 1)).all() & ((second == 0) | (second == 1)).all()):
        raise UserError("a difference of paired hits got values other than 0 and 1; expected whether each is a hit")
    _check_level(level)
    p, q, both = (float(values.mean()) for values in (first, second, first * second))
    (p_low, p_high), (q_low, q_high) = _wilson(p, count, level), _wilson(q, count, level)
    root = math.sqrt(max(0.0, p * (1 - p) * q * (1 - q)))
    excess = both - p * q  # (eh − fg) / n²
    phi = (excess if excess < 0 else max(excess - 1 / (2 * count), 0.0)) / root if root > 0 else 0.0
    below, above = _apart(p - p_low, q_high - q, phi), _apart(p_high - p, q - q_low, phi)
    return Interval(p - q, p - q - below, p - q + above, level)


def _apart(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))


def unpaired_difference(a: Interval, b: Interval) -> Interval:
    """Return the interval of a − b from the two intervals alone, a and b measured independently.

    lo = a − b − √((a − a.lo)² + (b.hi − b)²), hi = a − b + √((a.hi − a)² + (b − b.lo)²). Of two Wilson intervals this
    is method 10 of Newcombe ("Interval estimation for the difference between independent proportions", Statistics in
    Medicine 17, 1998), of others MOVER (Zou and Donner, Statistics in Medicine 27, 2008). On the same images it is
    wider than :func:`paired_difference` where the two go together.

    Args:
        a: mean with its interval.
        b: mean with its interval, of the same level.

    Raises:
        UserError: the intervals have different levels.

    >>> f"{unpaired_difference(binomial_ci(56, 70), binomial_ci(48, 80)):.4f}"
    '0.2000 [0.0524, 0.3339]'
    """
    if a.level != b.level:
        raise UserError(f"a difference got intervals of levels {a.level} and {b.level}; expected the same for both")
    mean = a.mean - b.mean
    low, high = math.hypot(a.mean - a.lo, b.hi - b.mean), math.hypot(a.hi - a.mean, b.mean - b.lo)
    return Interval(mean, mean - low, mean + high, a.level)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UserError(f"a confidence interval got level={level}; expected a share between 0 and 1, such as 0.95")
