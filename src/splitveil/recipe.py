"""The parts of the training recipe that are pure functions: rates, batches, purposes of streams, precision."""

from __future__ import annotations

import torch
from torch import Tensor

from . import config


def learning_rate(settings: config.TrainConfig, progress: float) -> float:
    """Return the rate at ``progress`` in [0, 1) of the training.

    After a linear warm-up it is multiplied by ``gamma`` at each milestone, or, of a one-cycle schedule, falls in a
    straight line to 0 (Smith & Topin 2019, without their last phase).

    >>> s = config.parse({"data": "digits"})
    >>> [round(learning_rate(s, epoch / 240), 6) for epoch in (0.5, 1, 60, 120, 239)]
    [0.025, 0.05, 0.01, 0.002, 8e-05]
    >>> s = config.parse({"data": "digits", "recipe": "fast", "lr": 0.3})
    >>> [round(learning_rate(s, epoch / 12), 6) for epoch in (1.5, 3, 7.5, 12)]
    [0.15, 0.3, 0.15, 0.0]
    """
    warm = settings.warmup_epochs / settings.epochs
    factor = min(1.0, progress / warm) if warm > 0 else 1.0
    if settings.schedule == "one-cycle":
        return settings.lr * (factor if progress < warm else (1 - progress) / (1 - warm))
    return settings.lr * factor * settings.gamma ** sum(progress >= m - 1e-9 for m in settings.milestones)


def pacing_rate(settings: config.TrainConfig, progress: float) -> float:
    """Return the rate by which the schedules of defenses go at ``progress`` in [0, 1) of the training.

    It is the training's own. Under a one-cycle schedule it is what the published recipe has at the same part of the
    training: the schedule of CEM, 0.001/rate, is made for those steps, and what it decides is how strong the defense
    is against the task at the beginning (0.02 λ) and in the last quarter (λ), where the rate of every recipe is low.

    >>> s = config.parse({"data": "digits", "recipe": "fast"})
    >>> [round(0.001 / pacing_rate(s, part), 3) for part in (0, 0.3, 0.6)], round(pacing_rate(s, 0.8), 6)
    ([0.02, 0.1, 0.5], 0.0004)
    """
    if settings.schedule == "steps":
        return learning_rate(settings, progress)
    published = config.TrainConfig(data=settings.data, warmup_epochs=0)
    return learning_rate(published, progress)


LAYERS, SHUFFLE, STEP, REFIT, VALIDATE, TEST, WEIGHTS, ATTACK, WIRE, JUDGES, MIRROR, TAIL = range(12)
"""Purposes of random streams: `randomness.stream` gets (seed, purpose, epoch, rank)."""


def batches(count: int, size: int, rng: torch.Generator, smallest: int = 2) -> list[Tensor]:
    """A permutation in batches of ``size``; a last one below ``smallest`` joins the one before it.

    Batch norm needs two images on every process, so ``smallest`` is twice their number.
    """
    order = torch.randperm(count, generator=rng, device=rng.device)
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) < smallest:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def precision(choice: str, device: torch.device) -> str:
    """Fabric's precision; "auto" is bf16 where the hardware computes in it and not where it is emulated."""
    if choice != "auto":
        return choice
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    capabilities = torch.cpu.get_capabilities()
    return "bf16-mixed" if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else "32-true"
