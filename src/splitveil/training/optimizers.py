"""The optimizer of a recipe, over the parameters of a split model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..recipe import Recipe, precision
from .muon import Muon


def build(
    trained: list[nn.Parameter], settings: Recipe, matrices: dict[nn.Parameter, int], device: torch.device
) -> torch.optim.SGD:
    """Return the optimizer of a training: SGD, or Muon for the weights before norms and SGD for the others.

    Args:
        trained: all parameters that it trains.
        settings: the recipe.
        matrices: weights before norms and the groups of their convolutions (`muon.before_norms`); empty: SGD.
        device: of the training.
    """
    s = settings
    given: dict[str, Any] = {"lr": s.lr, "momentum": s.momentum, "weight_decay": s.weight_decay, "nesterov": s.nesterov}
    given["fused"] = device.type == "cuda" or None
    found = [p for p in trained if p in matrices]
    groups = _groups([p for p in trained if p not in matrices], s)
    if not found:
        return torch.optim.SGD(groups, **given)
    groups_of = [matrices[p] for p in found]
    turned = {"params": found, "matrices": groups_of, "factor": s.matrix_lr}
    able = precision(s.precision, device) != "32-true"
    return Muon([turned, *groups], precision=torch.bfloat16 if able else torch.float32, **given)


def _groups(trained: list[nn.Parameter], settings: Recipe) -> list[dict[str, Any]]:
    """Return the parameters for SGD; matrices and the others apart where these have another learning rate."""
    if settings.bias_lr == 1:
        return [{"params": trained}] if trained else []
    others = {"params": [p for p in trained if p.ndim < 2], "factor": settings.bias_lr}
    return [{"params": [p for p in trained if p.ndim >= 2]}, others]
