"""The attack whose answer is where a search begins."""

from __future__ import annotations

from .base import Attack
from .decoder import DecoderAttack
from .linear import LinearAttack
from .residual import ResidualAttack


def first_guess(start: str, decoder: DecoderAttack) -> Attack | None:
    """Return the attack that gives a search its first guess: ``linear``, ``decoder`` as given, or ``residual``.

    None: the search begins without one, as at noise or at the mean image.
    """
    return {"linear": LinearAttack(), "decoder": decoder, "residual": ResidualAttack()}.get(start)
