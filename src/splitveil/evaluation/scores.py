"""The metrics of reconstructed images, one number for each image, and the interval of the mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import metrics
from ..data import Split, to_float
from ..errors import UserError
from ..statistics import intervals
from ..storage import reading

ROUNDING = 1e-5
"""By which a mean of the numbers in a file may differ from that of the numbers before they were written."""
PSNR_LIMIT = 100.0
"""Decibels at which an image counts as exact: infinity has no mean and no JSON."""
SIGNED = frozenset({"ssim", "ssim_zero"})
"""Metrics from -1 to 1."""
SHARES = frozenset({*reading.ANSWERS, "reidentified"})
"""Metrics of which every image has 0 or 1."""
Metric = Callable[[Tensor, Tensor, Tensor], Tensor]
METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": metrics.mse,
    "psnr": lambda x, y: metrics.psnr(x, y).clamp(max=PSNR_LIMIT),
    "ssim": metrics.ssim,
    "ssim_zero": lambda x, y: metrics.ssim(x, y, padding="zero"),
}
"""Metrics of every attack; ``ssim_zero`` is the published code's, which surrounds the images with black."""
PRIVACY = {"mse": 1, "psnr": -1, "ssim": -1, "ssim_zero": -1, "lpips": 1, "reidentified": -1}
"""Metrics of a reconstruction: 1 where a higher value is more private, -1 where a lower one is."""


def scored(found: Tensor, truth: Split, extra: Mapping[str, Metric] | None) -> dict[str, Tensor]:
    """Return every metric of the reconstructions ``found`` of ``truth`` by name, (N,) each.

    Args:
        found: reconstructions (N, C, S, S) in [0, 1].
        truth: originals with their labels.
        extra: further metrics by name.
    """
    originals = to_float(truth.images)
    values = {name: metric(found, originals) for name, metric in METRICS.items()}
    return values | {name: metric(found, originals, truth.labels) for name, metric in (extra or {}).items()}


def limits(metric: str) -> tuple[float, float]:
    """Return the lowest and the highest mean that a metric can have.

    Args:
        metric: name of the metric.
    """
    if metric in SIGNED:
        return -1.0, 1.0
    return 0.0, 1.0 if metric in SHARES else math.inf


def interval(values: Tensor, metric: str) -> intervals.Interval:
    """Return the 95 % interval of the mean over images: Wilson's for hits (bool), else a seeded bootstrap's.

    Args:
        values: one number per image, (N,).
        metric: name of the metric, which tells what is possible (`limits`).
    """
    if values.dtype == torch.bool:
        return intervals.binomial_ci(int(values.sum()), len(values))
    return intervals.bootstrap_ci(values).within(*limits(metric))


def read_values(file: Path, names: set[str], remedy: str, count: int, told: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the values of single images that an attack has left, float64 (N,) by metric, if they are the summary's.

    Args:
        file: per_image.csv or held_out.csv.
        names: metrics that it must have.
        remedy: what to do where it is missing or damaged.
        count: images that it must have.
        told: mean by metric, a number or an interval, as the summary beside it has them; others are not compared.

    Raises:
        UserError: as `reading.read_columns`, or a mean differs by more than the rounding of the file.
    """
    columns = reading.read_columns(file, names, remedy, count)
    for name, values in columns.items():
        mean = told.get(name)
        mean = mean.get("mean") if isinstance(mean, Mapping) else mean
        found = float(values.mean())
        if isinstance(mean, int | float) and not math.isclose(found, mean, rel_tol=ROUNDING, abs_tol=ROUNDING / 100):
            raise UserError(
                f"{file} does not agree with the summary.json beside it (mean {name} {found:.6g}, there {mean:.6g}); "
                f"one of the two was changed; {remedy}"
            )
    return columns
