"""Conditional entropy maximization (CEM)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..memory import FLOAT
from ..ranges import Count, Weight, Whole
from ..registry import plugin
from . import _cem_losses, _kmeans, _mixture
from .base import Defense, Features, Step

UNIT = 20 * 128 / 50_000
"""Strength of the released loss per sample and dimension at 50,000 images and batch 128, for a comparable λ."""
SWITCH = 4.1e-4
"""Learning rate below which the published schedule applies the whole λ."""


@plugin("cem")
class CEM(Defense):
    """Conditional entropy maximization: lowers a bound on the wire's information about the image.

    With hard clusters j of weight π_j, within-cluster variances v_jd and Gaussian noise of variance σ², Theorem 2 of
    arXiv 2503.00383 (diagonal covariance) gives, in nats per image,

        I(x; z_wire) ≤ L_C = Σ_j π_j [ −log π_j + ½ Σ_d log(1 + v_jd/σ²) ].

    ``loss="bound"`` lowers L_C itself, by its tangent at variances that follow the features (``follow``): log is
    concave, so with the clusters fixed the tangent over all data lies above L_C. The loss is
    λ · (UNIT/m) · L_C, m the dimensions of the wire: while variances are far above 0.01, λ = 16 pulls as the published
    16 does on CIFAR-10. The strength of λ does not depend on the batch, and on Gaussian features by less than 15 % on
    the number of images, from 3 per cluster on: small clusters are merged and variances shrunk (`_mixture`).
    ``loss="released"`` is the published code's, each class with its own tables; it falls as 1/(images per class).

    ``leakage`` estimates the bound on features that the clusters were not made of.

    Args:
        weight: λ ≥ 0; 0 only estimates the leakage.
        loss: "bound" or "released".
        clusters: clusters per class, at most.
        schedule: factor on λ. "published": 0.001/lr while lr ≥ 4.1e-4, then 1, so that λ·lr, the pull of CEM per
            step, stays constant while that of the task falls. "constant": 1. "ramp": rises linearly to 1 at half time.
        refit: where each epoch's clusters come from: "epoch", the features that training just computed, at no cost;
            "pass", an extra pass over the images as they are; "augmented", one over augmented images, as published.
        threshold: τ of the released loss: clusters whose variance is below τσ² are left alone.
        per_class: make the clusters within each class; else all images are one class. With ``clusters=1`` besides, the
            bound is that of one Gaussian, ½ Σ_d log(1 + Var z_d/σ²), which shows what the mixture adds.
        follow: of the bound, within an epoch: centers and variances of a cluster are those of about its last so many
            features; 0: those of the last refit. Where an epoch moves the features far, as at the high rates of the
            fast recipe, the tangent at old variances has no limit to its steepness, and training can break down.

    >>> CEM(16).leakage() is None
    True
    """

    needs_features = True
    late_buffers = ("centers", "variance", "counts", "nats")
    centers: Any  # (C, K, m), None before the first refit; so are variance (C, K, m), counts (C, K) and nats ()
    variance: Any
    counts: Any
    nats: Any

    def __init__(
        self,
        weight: Weight = 16.0,
        loss: Literal["bound", "released"] = "bound",
        clusters: Count = 5,
        schedule: Literal["published", "constant", "ramp"] = "published",
        refit: Literal["epoch", "pass", "augmented"] = "epoch",
        threshold: Weight = 0.125,
        per_class: bool = True,
        follow: Whole = 100,
    ):
        super().__init__()
        self.weight, self.variant, self.clusters = float(weight), loss, clusters
        self.acts_after = int(weight > 0)  # the first epoch only collects the features that the clusters are made of
        self.schedule, self.source, self.threshold, self.per_class = schedule, refit, threshold, per_class
        self.follow = follow
        self.sigma2 = 0.0
        for name in self.late_buffers:
            self.register_buffer(name, None)

    def install(self, model) -> None:
        self.sigma2 = model.defense.noise_variance()
        if self.variant == "bound" and self.sigma2 == 0:
            raise UserError(
                "cem: the bound needs noise on the wire (it is infinite at σ = 0); add --defense gaussian:0.025, "
                "in Python defenses=[Gaussian(0.025), ...]"
            )

    def memory(self, batch: int, feature: tuple[int, ...], classes: int) -> dict[str, int]:
        rows = 2 * (classes if self.per_class else 1) + batch  # centers, variances; centers of each image
        return {"clusters": self.clusters * rows * FLOAT * math.prod(feature)}

    def loss(self, step: Step) -> Tensor | None:
        if self.centers is None or self.weight == 0:
            return None
        z = step.z.flatten(1).float()
        y = step.y if self.per_class else torch.zeros_like(step.y)
        distance = (self.centers[y] - z.detach()[:, None]).square().sum(-1)
        if self.variant == "bound":  # what was merged has a center still
            distance = distance.masked_fill(self.counts[y] == 0, torch.inf)
        index = y * self.clusters + distance.argmin(1)
        if self.variant == "bound":
            value = self._bound(z, index)
        else:
            threshold = self.threshold * self.sigma2
            value = _cem_losses.released(z, self.centers, self.variance, self.counts, index, threshold)
        return self.weight * self._factor(step) * value

    def _bound(self, z: Tensor, index: Tensor) -> Tensor:
        # Views, as what follows is changed in place; flatten would copy what is not contiguous.
        centers, variances = self.centers.view(-1, z.shape[1]), self.variance.view(-1, z.shape[1])
        if self.follow:
            before = self._spread()
            _cem_losses.follow(centers, variances, z.detach(), index, self.follow)
            self.nats += self._spread() - before
        variance = variances[index]
        tangent = (((z - centers[index]).square() - variance) / (variance + self.sigma2)).sum(1).mean()
        return UNIT / z.shape[1] * (self.nats + tangent / 2)

    def _spread(self) -> Tensor:
        """Return ½ Σ_j π_j Σ_d log(1 + v_jd/σ²), in nats."""
        return (self.counts * torch.log1p(self.variance / self.sigma2).sum(-1)).sum() / (2 * self.counts.sum())

    def _factor(self, step: Step) -> float:
        if self.schedule == "ramp":
            return min(1.0, 2 * step.progress)
        return 0.001 / step.lr if self.schedule == "published" and step.lr >= SWITCH else 1.0

    def refit(self, epoch: int, features: Features) -> None:
        z, y = (features.z, features.y) if self.source == "epoch" else features.extract(self.source == "augmented")
        classes = features.classes
        if not self.per_class:
            y, classes = torch.zeros_like(y), 1
        elif classes < 1 or bool((y < 0).any()):
            raise UserError("cem: some images have no label; label every image, or give per_class=false")
        fit = _mixture.fit if self.variant == "bound" else _kmeans.fit
        found = _cem_losses.filled(fit(z, y, classes, self.clusters, features.rng, start=self.centers), z)
        self.centers, self.counts, self.variance = found.centers, found.counts, found.variance
        if self.sigma2:
            self.nats = _mixture.held_out_nats(z, y, classes, self.clusters, self.sigma2, features.rng)

    def leakage(self) -> float | None:
        return None if self.nats is None else float(self.nats)
