"""Gradients through the wire for attacks that know the encoder: in expectation over noise, around what has none."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from ..data import Split, to_float
from ._backward import Mode, linear_map, modes_of
from ._directions import numbers_of, one_look
from ._hidden import HIDDEN_DRAWS, at_random
from ._rounded_laplace import rounded_laplace
from .base import BATCH, Victim

LEAST = 1e-4
"""Least variance of noise, in units of the wire's variance: entries without noise do not outweigh all others."""
MOSTLY = 0.5
"""Part of the noise's variance beyond which Laplace noise shapes its likelihood."""
ROWS = 512
"""Most attacker images from which a wire of another shape than the feature is approximated."""


class WhiteBox:
    """The encoder and its defense as a function of pixels that can be differentiated.

    The wire is the mean over ``draws`` of the defense's noise (expectation over transformation, Athalye et al. 2018),
    or the feature itself where the defense tells of noise that is only added. ``modes`` lists the backward passes worth
    trying: ``exact`` is the defense's own; ``straight_through`` passes the gradient around it (BPDA, the same paper):
    as the identity where wire and feature have one shape, else through a linear map fitted on the attacker's images. A
    defense whose derivative is the identity (additive noise) needs only ``exact``; one without any derivative
    (rounding, a detached step) only ``straight_through``.
    """

    def __init__(self, victim: Victim, images: Split, draws: int, rng: torch.Generator):
        self.model, self.device = victim.white_box(), victim.device
        x = to_float(images.images[:ROWS].to(self.device))
        self.one_wire = victim.one_wire
        with torch.no_grad():
            z = torch.cat([self.model.features(part) for part in x.split(BATCH)])
            look = partial(one_look, self.model, z, rng, victim)
            first, second = look(), look()
            self._numbers, self._told = numbers_of(self.model, victim.law(first), z, first, look)
        self.draws, self._map = 1 if self._told or torch.equal(first, second) else draws, None
        self.modes: tuple[Mode, ...] = ("exact",)
        if not self._told:
            self.modes = modes_of(self.model, z, first.shape[1:], rng)
            self._map = None if z.shape == first.shape else linear_map(z, first)
        shown = first if self._numbers is None else self._numbers(first)
        self.scale = float(shown.float().var(0, correction=min(1, len(first) - 1)).mean()) or 1.0
        """Variance of the wire over images, per dimension: losses in its unit mean the same for every encoder."""
        if self._numbers is None:
            self._know(victim, first, second)
        else:
            self._know_numbers(victim, shown)

    def _know_numbers(self, victim: Victim, shown: Tensor) -> None:
        """Take the noise of variance 1 that each of the numbers has at every look."""
        self._shape, self._additive, self.hides, self._peak = shown.shape[1:], False, False, 0.0
        self._together, self.noise = victim.all_looks, 1 / victim.observed
        self.variance = torch.full((shown[0].numel(),), self.noise, device=shown.device)
        self._weights = torch.ones_like(self.variance)

    def _know(self, victim: Victim, first: Tensor, second: Tensor) -> None:
        """Read what the defense tells of its noise; measure the rest from two looks at each image."""
        self._victim, self._shape = victim, first.shape[1:]
        law, again, both = victim.law(first), victim.law(second), torch.ones_like(first, dtype=torch.bool)
        self.hides = False  # whether entries are hidden at random, and anybody can tell which
        if law.visible is not None and again.visible is not None:
            both = law.visible & again.visible
            self.hides = at_random(law.visible, again.visible)
            self.draws = max(self.draws, HIDDEN_DRAWS) if self.hides else self.draws
        told = law.variance
        self._additive = told is not None and law.visible is None and self.modes == ("exact",)
        if told is None:
            told = ((first - second).square() / 2 * both).sum(0).float() / both.sum(0).clamp(min=1)
        self.variance = torch.as_tensor(told, device=first.device).expand(self._shape).flatten().float()
        """Variance of the noise on each visible entry, (m,)."""
        shapes = (self.hides or law.looks == "ranked") and law.share(torch.stack((first[both], second[both]))) > MOSTLY
        self._peak = (law.laplace / 2) ** 0.5 if shapes else 0.0
        self._together = victim.all_looks and law.looks != "union" and not self._peak
        if self._together:
            self.variance = self.variance / victim.observed
        precision = 1 / self.variance.clamp(min=LEAST * self.scale)
        self.noise = float(1 / precision.mean()) if bool(self.variance.any()) else 0.0
        """Harmonic mean of the variances: the noise's variance where it is the same everywhere, 0 without noise."""
        self._weights = precision / precision.mean()

    def target(self, wire: Tensor) -> Tensor:
        """Return what `feature_loss` compares with: the looks (B, k · m), or their mean (B, m) if nothing is lost."""
        wire = (wire.mean(1) if self._together else wire).float()
        return (wire if self._numbers is None else self._numbers(wire)).flatten(1)

    def comparable(self, wire: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return one wire of each image as `wire` returns it, (B, m), and which entries it shows; None: all."""
        one = self.one_wire(wire).flatten(1).float() if self._numbers is None else self.target(wire)
        return one, self._visible(one) if self.hides else None

    def wire(self, x: Tensor, rng: torch.Generator, mode: Mode = "exact", draws: int | None = None) -> Tensor:
        """Return the mean wire (B, m), flattened, of pixels x (B, 3, S, S), with gradients."""
        z = self.model.features(x)
        if self._told:
            return cast("Any", self.model.defense).gaussian_law(z, torch.zeros_like(z))[0].flatten(1)
        if self._additive:  # the mean is known: draws would add their own noise, which several looks do not have
            return z.flatten(1).float()
        source = z.detach() if mode == "straight_through" else z
        looks = torch.stack([self.model.protect(source, rng).float() for _ in range(draws or self.draws)])
        wire = self._expected(looks)
        if mode == "straight_through":
            around = z.flatten(1).float() if self._map is None else z.flatten(1).float() @ self._map
            wire = around + (wire - around).detach()
        return wire if self._numbers is None else self._numbers(wire)

    def _expected(self, looks: Tensor) -> Tensor:
        """Return the mean of looks (k, B, ...), of each entry over those that show it; NaN where none does: (B, m)."""
        looks = looks.flatten(2)
        if not self.hides:
            return looks.mean(0)
        visible = self._visible(looks.detach().flatten(0, 1)).view_as(looks)
        return torch.where(visible, looks, 0).sum(0) / torch.where(visible.any(0), visible.sum(0), torch.nan)

    def _visible(self, wire: Tensor) -> Tensor:
        visible = self._victim.law(wire.view(-1, *self._shape)).visible
        assert visible is not None
        return visible.flatten(1)

    def feature_loss(
        self, x: Tensor, target: Tensor, rng: torch.Generator, mode: Mode, draws: int | None = None
    ) -> Tensor:
        """Return the distance of each image to k looks at a wire: Σ_d w_d Σ_j (E D(f(x), ε)_d − z_jd)² / (k m s), (B,).

        w_d is the precision of the noise on entry d (Mahalanobis' distance), 1 on average, and 0 where a look hides the
        entry; s is the wire's variance over images. For Laplace noise of scale b and variance v, |·| · 2 v/b takes the
        place of the square: k m s / (2 σ²) times the distance is the negative sum of the looks' log-likelihoods, but
        for a constant, with σ² the harmonic mean of the variances (`noise`). The looks are as `target` makes them.
        """
        looks = target.view(len(target), -1, len(self._weights))
        error = self.wire(x, rng, mode, draws)[:, None] - looks
        if self.hides:
            visible = self._visible(target.reshape(-1, looks.shape[2])).view_as(looks)
            error = torch.where(visible & ~error.isnan(), error, 0)
        return (self._penalty(error) * self._weights).mean((1, 2)) / self.scale

    def _penalty(self, error: Tensor) -> Tensor:
        if not self._peak:
            return error.square()
        spread = 0.0 if self._additive else self.variance / self.draws
        return rounded_laplace(error, self.variance, self._peak, spread)
