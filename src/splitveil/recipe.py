"""The parts of the training recipe that are pure functions: rates, batches, purposes of streams, precision."""

from __future__ import annotations

import torch
from torch import Tensor

from . import config


def learning_rate(settings: config.TrainConfig, progress: float) -> float:
    """The rate at ``progress`` in [0, 1) of the training: linear warm-up, then steps of ``gamma`` at the milestones.

    >>> s = config.parse({"data": "digits"})
    >>> [round(learning_rate(s, epoch / 240), 6) for epoch in (0.5, 1, 60, 120, 239)]
    [0.025, 0.05, 0.01, 0.002, 8e-05]
    """
    warm = settings.warmup_epochs / settings.epochs
    factor = min(1.0, progress / warm) if warm > 0 else 1.0
    return settings.lr * factor * settings.gamma ** sum(progress >= m - 1e-9 for m in settings.milestones)


LAYERS, SHUFFLE, STEP, REFIT, VALIDATE, TEST, WEIGHTS, ATTACK, WIRE, JUDGES = range(10)
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
