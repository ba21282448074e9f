"""The guide of a search for the image behind a wire: the encoder's gradient, a diffusion model, a first guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Split, to_float
from ..runtime import Runtime
from ._backward import Mode
from ._ddpm import Ddpm
from ._denoiser import Denoiser
from ._held_out import Search, choose, fit_start
from ._white_box import WhiteBox
from .base import Attack, Victim


@dataclass(frozen=True)
class Guide:
    """What an attacker with the encoder's weights prepares before a search.

    Attributes:
        denoiser: of the attacker's images in [-1, 1].
        first: a fitted attack that gives a first guess; None: there is none.
        truth, wire: the attacker's held-out images (J, 3, S, S) and what the wire carries for them.
        curve: held-out error of the denoiser after each epoch.
    """

    box: WhiteBox
    denoiser: Denoiser
    first: Attack | None
    truth: Tensor
    wire: Tensor
    curve: list[float]

    @classmethod
    def learn(
        cls,
        name: str,
        first: Attack | None,
        prior: Ddpm,
        victim: Victim,
        images: Split,
        rng: torch.Generator,
        runtime: Runtime,
        *,
        draws: int,
        held_out: int,
    ) -> Guide:
        """Train all parts; a tenth of the images, from which the ``held_out`` ones come, is kept from the training.

        Raises:
            UserError: fewer than three images.
        """
        held, own = fit_start(first, victim, images, rng, runtime, 0.3, name)
        with runtime.share(0.6):
            denoiser, curve = prior.learn(own, held, rng, runtime)
        truth = to_float(held.images[:held_out].to(victim.device))
        wire = victim.query(truth, rng)
        return cls(WhiteBox(victim, own, draws, rng), denoiser, first, truth, wire, curve)

    def choose(self, settings: Sequence[float], search: Search, runtime: Runtime) -> tuple[float, Mode]:
        """Return the setting and the backward pass with the lowest error on the held-out images."""
        chosen, through, _ = choose(settings, self.box.modes, search, self.truth, self.wire, runtime)
        return chosen, through
