"""A small problem for CEM, and its bound from the definition."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from splitveil.defenses.base import Features, Stack, Step
from splitveil.defenses.cem import CEM
from splitveil.defenses.gaussian import Gaussian
from splitveil.model import SplitModel

SIGMA, M, CLASSES = 0.3, 6, 3


def data(n: int = 300, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % CLASSES
    z = torch.randn(n, M, generator=g) * torch.linspace(0.1, 0.6, M) + y[:, None] * 0.5
    return z, y


def fitted(z: Tensor, y: Tensor, sigma: float = SIGMA, **options: Any) -> CEM:
    # follow=0: the tangent at the variances of the fit, which tests compute too.
    cem = CEM(**{"weight": 16.0, "clusters": 2, "schedule": "constant", "follow": 0, **options})
    install(cem, sigma)
    cem.refit(0, Features(z, y, CLASSES, torch.Generator().manual_seed(0)))
    return cem


def install(cem: CEM, sigma: float = SIGMA) -> SplitModel:
    stack = Stack(*([Gaussian(sigma)] if sigma else []), cem)
    model = SplitModel(nn.Identity(), nn.Flatten(), defense=stack)
    stack.install(model)
    return model


def step(z: Tensor, y: Tensor, lr: float = 0.05, progress: float = 0.5) -> Step:
    return Step(z, y, z, z, z, torch.Generator(), lr, progress, None)


def nearest(cem: CEM, z: Tensor, y: Tensor) -> Tensor:
    """Index of each sample's cluster among all classes × clusters, by a plain loop over classes."""
    index = torch.zeros_like(y)
    for c in range(CLASSES):
        distances = torch.cdist(z[y == c].detach().double(), cem.centers[c].double())
        if cem.variant == "bound":
            distances[:, cem.counts[c] == 0] = math.inf
        index[y == c] = c * cem.clusters + distances.argmin(1)
    return index


def bound(z: Tensor, index: Tensor, sigma2: float, *, full: bool = False) -> Tensor:
    """L_C of Theorem 2 with the clusters ``index``, from the definition; differentiable in z."""
    total = z.new_zeros(())
    for j in index.unique():
        members = z[index == j]
        share = len(members) / len(z)
        centered = members - members.mean(0)
        covariance = centered.T @ centered / len(members)
        if not full:
            covariance = covariance.diag().diag()
        spread = torch.logdet(torch.eye(z.shape[1], dtype=z.dtype) + covariance / sigma2) / 2
        total = total + share * (spread - math.log(share))
    return total


def loss_of(cem: CEM, z: Tensor, y: Tensor, **options: Any) -> Tensor:
    value = cem.loss(step(z, y, **options))
    assert value is not None
    return value


def gradient(cem: CEM, z: Tensor, y: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    (result,) = torch.autograd.grad(loss_of(cem, z, y), z)
    return result
