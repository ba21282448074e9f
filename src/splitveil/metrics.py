"""How far a reconstruction is from its image, and how sure the average over images is.

Images are float tensors (B, C, H, W) in [0, 1]; every metric returns one number per image, (B,).
Values are checked (NaN, range) only where no gradient is asked for: a check in a training step would stall
the accelerator. Shapes and types are always checked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import UserError

WINDOW = 11  # pixels; Wang et al., "Image quality assessment", IEEE TIP 2004: Gaussian window, sigma 1.5
WINDOW_SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 with the data range L = 1
RANGE_TOLERANCE = 1e-4  # rounding of half-precision arithmetic, not a clipped image
ELEMENTS_AT_ONCE = 2**22  # bounds the working memory of ssim and bootstrap_ci to some 200 MB


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error per image: mean over channels and pixels of (x − y)². Unit: squared pixel range.

    Args:
        x, y: images (B, C, H, W) in [0, 1].

    Returns:
        (B,) in [0, 1].

    Raises:
        UserError: shapes or types do not fit, or values are NaN or outside [0, 1].

    >>> mse(torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5))
    tensor([0.2500, 0.2500])
    """
    x, y = checked_pair(x, y)
    return (x - y).square().mean(dim=(1, 2, 3))


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio per image, in dB: −10 log10 MSE, as the peak is 1. Equal images give +inf.

    The mean of this over images is not the PSNR of the mean MSE: by Jensen it is larger or equal.

    >>> psnr(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.1))
    tensor([20.])
    """
    return -10 * mse(x, y).log10()


def ssim(x: Tensor, y: Tensor, padding: Literal["valid", "zero"] = "valid") -> Tensor:
    """Structural similarity per image (Wang et al., IEEE TIP 2004, eq. 13), mean over channels and pixels.

    SSIM = (2 μx μy + C1)(2 σxy + C2) / ((μx² + μy² + C1)(σx² + σy² + C2)), moments under an 11 × 11 Gaussian
    window with σ = 1.5, C1 = 0.01², C2 = 0.03². Differentiable, so that it also serves as a training loss.

    Args:
        x, y: images (B, C, H, W) in [0, 1].
        padding: "valid" uses whole windows only (equals scikit-image's ``structural_similarity`` with
            ``gaussian_weights=True, use_sample_covariance=False``); "zero" surrounds the images with black,
            as the code published with the CEM paper does, for comparison with its numbers.

    Returns:
        (B,) in [−1, 1]; 1 for equal images.

    Raises:
        UserError: as for :func:`mse`; also for images below 11 pixels without padding.

    >>> x = torch.rand(2, 3, 32, 32)
    >>> ssim(x, x)
    tensor([1., 1.])
    """
    if padding not in ("valid", "zero"):
        raise UserError(f"SSIM got padding '{padding}'; expected 'valid' or 'zero'")
    x, y = checked_pair(x, y)
    height, width = x.shape[2:]
    if padding == "valid" and min(height, width) < WINDOW:
        raise UserError(
            f"SSIM got images of {height} × {width} pixels; its window needs at least {WINDOW} × {WINDOW}: "
            "enlarge the images, or use padding='zero'"
        )
    at_once = max(1, ELEMENTS_AT_ONCE // x[0].numel())
    with torch.autocast(x.device.type, enabled=False):  # variances are differences of near-equal numbers
        parts = [_ssim(a, b, padding) for a, b in zip(x.split(at_once), y.split(at_once), strict=True)]
    return torch.cat(parts)


def check_size(size: int) -> None:
    """Refuse images that `ssim` cannot score, before anything is trained or attacked.

    Raises:
        UserError: they are smaller than its window.

    >>> check_size(11)
    """
    if size < WINDOW:
        raise UserError(
            f"images are {size} × {size} pixels, but the window of SSIM, which scores attacks, "
            f"needs {WINDOW} × {WINDOW}; enlarge them, e.g. --data folder:root=PATH,size=32 (at least {WINDOW})"
        )


def _ssim(x: Tensor, y: Tensor, padding: str) -> Tensor:
    images, channels = x.shape[:2]
    moments = torch.cat((x, y, x * x, y * y, x * y)).flatten(0, 1)
    moments = _blur(moments, padding).view(5, images, channels, -1)
    mean_x, mean_y, xx, yy, xy = moments.unbind()
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    luminance = (2 * product + C1) / (squares + C1)
    structure = (2 * (xy - product) + C2) / (xx + yy - squares + C2)
    return (luminance * structure).mean(dim=(1, 2))


def _blur(planes: Tensor, padding: str) -> Tensor:
    """Gaussian window over (N, H, W), one axis after the other; banded matrix products are 3 to 10 times
    faster here than an 11-tap convolution."""
    rows = _window_matrix(planes.shape[1], padding).to(planes)
    columns = _window_matrix(planes.shape[2], padding).to(planes)
    return rows @ planes @ columns.T


def _window_matrix(size: int, padding: str) -> Tensor:
    """(windows, size): row i holds the window centered on pixel i; "valid" keeps the rows that fit whole."""
    pixel = torch.arange(size, dtype=torch.float64)
    reach = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    total = torch.exp(-0.5 * (reach / WINDOW_SIGMA).square()).sum()
    distance = pixel[None] - pixel[:, None]
    window = torch.exp(-0.5 * (distance / WINDOW_SIGMA).square()) / total
    window = window * (distance.abs() <= WINDOW // 2)
    return window[WINDOW // 2 : size - WINDOW // 2] if padding == "valid" else window


def checked_pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The images that a metric got, at least in single precision; UserError as for :func:`mse`."""
    if x.shape != y.shape or x.dim() != 4 or x.numel() == 0:
        raise UserError(
            f"a metric got images of shapes {tuple(x.shape)} and {tuple(y.shape)}; "
            "expected two equal, non-empty shapes (B, C, H, W)"
        )
    for images in (x, y):
        if not images.is_floating_point():
            raise UserError(
                f"a metric got {images.dtype} images; expected floats in [0, 1]: "
                "use splitveil.data.to_float for uint8 images"
            )
        if not (torch.is_grad_enabled() and images.requires_grad):
            _check_range(images)
    if x.device != y.device:
        raise UserError(f"a metric got images on {x.device} and on {y.device}; move both to one device")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype), y.to(dtype)


def _check_range(images: Tensor) -> None:
    low, high = (float(value) for value in images.detach().aminmax())
    if math.isnan(low) or math.isnan(high):
        raise UserError("a metric got images with NaN; look for a diverged training or attack")
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise UserError(f"a metric got images with values from {low:.4g} to {high:.4g}; expected [0, 1]: clamp them")


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
        """For JSON; the key names the level."""
        return {"mean": self.mean, f"ci{100 * self.level:g}": [self.lo, self.hi]}

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} [{self.lo:{spec}}, {self.hi:{spec}}]" if spec else str(self)

    def __str__(self) -> str:
        """As many decimals as the width of the interval supports: two significant digits of it."""
        width = abs(self.hi - self.lo)
        if not math.isfinite(width) or width <= 1e-9 * abs(self.mean):  # nothing but rounding
            return format(self, ".4g")
        return format(self, f".{max(0, 1 - math.floor(math.log10(width)))}f")


def bootstrap_ci(
    values: Tensor | Sequence[float] | Any,
    rng: torch.Generator | None = None,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Percentile-bootstrap interval of the mean (Efron and Tibshirani 1993, ch. 13) of independent values.

    Args:
        values: one number per image, (n,), n ≥ 2, all finite.
        rng: where the resampling comes from; None: a fixed seed, so that equal values give equal intervals.
        level: share of repetitions of the experiment whose interval should hold the true mean.
        resamples: number of bootstrap samples.

    Raises:
        UserError: fewer than two values, a value that is NaN or infinite, or a level outside (0, 1).

    >>> interval = bootstrap_ci([0.0, 1.0, 2.0, 3.0])
    >>> interval.mean, 0 <= interval.lo < 1.5 < interval.hi <= 3
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
    means = []
    at_once = max(1, ELEMENTS_AT_ONCE // count)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = torch.randint(count, (rows, count), generator=rng, device=rng.device)
        means.append(sample[drawn].mean(dim=1))
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device=rng.device)
    low, high = torch.cat(means).quantile(tails).tolist()
    return Interval(sample.mean().item(), low, high, level)


def paired_difference(a: Any, b: Any, rng: torch.Generator | None = None, level: float = 0.95) -> Interval:
    """Bootstrap interval of mean(a − b), where a[i] and b[i] were measured on the same image.

    The images' own spread cancels, so this is much narrower than the difference of two intervals.

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


def binomial_ci(correct: int, n: int, level: float = 0.95) -> Interval:
    """Accuracy with its Wilson score interval (Wilson 1927), sound also near 0 and 1.

    Raises:
        UserError: n below 1 or ``correct`` outside 0..n.

    >>> f"{binomial_ci(50, 100):.4f}"
    '0.5000 [0.4038, 0.5962]'
    """
    if n < 1 or not 0 <= correct <= n:
        raise UserError(f"an accuracy got {correct} correct of {n}; expected 0 <= correct <= n and n at least 1")
    _check_level(level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = correct / n, z * z / n
    center = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    return Interval(share, max(0.0, min(share, center - half)), min(1.0, max(share, center + half)), level)


def unpaired_difference(a: Interval, b: Interval) -> Interval:
    """Interval of a − b from the two intervals alone, a and b measured independently.

    lo = a − b − √((a − a.lo)² + (b.hi − b)²), hi = a − b + √((a.hi − a)² + (b − b.lo)²). Of two Wilson intervals this
    is method 10 of Newcombe ("Interval estimation for the difference between independent proportions", Statistics in
    Medicine 17, 1998), of others MOVER (Zou and Donner, Statistics in Medicine 27, 2008). On the same images it is
    wider than :func:`paired_difference` where the two go together.

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
