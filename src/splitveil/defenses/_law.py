"""The law of the wire given the feature, as anybody knows it who knows the defense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from ._directions import Directions
from ._looks import averaged, share_of, weights_of
from ._matched import matched

Looks = Literal["mean", "ranked", "union"]
Noise = Literal["gaussian", "laplace"]


@dataclass(frozen=True)
class Law:
    """The conditional law of the wire given the feature z, as far as a defense has one to tell.

    Attributes:
        variance: variance of the noise on each visible entry, broadcastable to the wire; None: unknown, to be measured.
        visible: bool, as the wire: the entries that carry z. None: all do.
        laplace: the part of ``variance`` that is Laplace noise; the rest counts as Gaussian.
        offsets: (K, ...), of which one, all equally likely, was added to the feature: ``variance`` is None.
        beside: variance of the noise beside the ``offsets``; None: unknown, to be measured.
        kept, possible: of `matched`, where entries were hidden before an offset was added and the wire shows which.
        reduced, unit: wire (B, ...) -> (B, k): `gaussian_law`'s mean, with noise of variance 1, or of unit on the wire.
        directions: in which a projection leaves the noise that came before it, to be measured there; None: none.
        forgotten: whether offsets, or what had been hidden beneath them, can be told better than this law says.
        covered: variance of the noise that lies over hidden entries, by which small ones can still be told; None: none.
    """

    variance: Tensor | float | None = 0.0
    visible: Tensor | None = None
    laplace: float = 0.0
    offsets: Tensor | None = None
    beside: Tensor | float | None = 0.0
    kept: Tensor | None = None
    possible: Tensor | None = None
    reduced: Callable[[Tensor], Tensor] | None = None
    unit: float = 0.0
    directions: Directions | None = None
    forgotten: bool = False
    covered: Tensor | float | None = None

    @property
    def exact(self) -> bool:
        """Return whether z determines the whole wire."""
        return isinstance(self.variance, float) and self.variance == 0 and self.visible is None

    @property
    def looks(self) -> Looks:
        """Return how several wires of one image are made into one that says (nearly) as much.

        The "mean" is sufficient for Gaussian noise; where entries are hidden, the "union" of what is visible, averaged
        where it is so several times; for noise with a sharp peak no statistic of one look's size is sufficient, but the
        best weighted mean of the "ranked" looks has 1.01 times the least variance possible (see `ranked_weights`).
        """
        if self.visible is not None:
            return "union"
        return "ranked" if self.laplace else "mean"

    def with_noise(self, variance: Tensor | float, kind: Noise = "gaussian") -> Law:
        """Return the law after independent noise on every entry, which covers hidden entries.

        >>> Law(0.01).with_noise(0.03).variance
        0.04
        """
        if not isinstance(variance, Tensor) and variance == 0:
            return self
        if self.offsets is not None and self.visible is None:
            return self._noisier(variance)
        laplace = self.laplace + (float(variance) if kind == "laplace" else 0.0)
        if self.variance is None or self.visible is not None:
            over = variance if self.visible is not None else None if self.covered is None else self.covered + variance
            within = None if self.directions is None else self.directions.with_noise(variance)
            told = self.forgotten or self.offsets is not None
            # Over hidden entries the sum is no longer Laplace noise, nor is it in the directions of a projection.
            peaked = laplace if self.visible is None and over is None and within is None else 0.0
            return Law(None, laplace=peaked, directions=within, forgotten=told, covered=over)
        return replace(self, variance=self.variance + variance, laplace=laplace, reduced=None)

    def silent(self, visible: Tensor | None = None) -> Law:
        """Return the law after a change of which nothing is known, but which entries are ``visible`` behind it."""
        return Law(None, visible, laplace=self.laplace, forgotten=self.forgotten or self.offsets is not None)

    def _noisier(self, variance: Tensor | float) -> Law:
        """Return the law after noise beside the offsets: nothing equals one of them any more."""
        beside = None if self.beside is None or self.kept is not None else self.beside + variance
        return replace(self, beside=beside, kept=None, possible=None, forgotten=self.forgotten or self.kept is not None)

    def rounded(self, variance: Tensor, visible: Tensor | None) -> Law:
        """Return the law after a rounding of this variance, to one value of all hidden entries, the not ``visible``."""
        if self.visible is None:
            return self.with_noise(variance)
        law = self if self.offsets is None else self._noisier(variance)
        return replace(law, variance=None if self.variance is None else self.variance + variance, visible=visible)

    def shifted(self, offsets: Tensor, wire: Tensor) -> Law:
        """Return the law after one of the ``offsets``, all equally likely, was added to each feature.

        Args:
            offsets: (K, ...).
            wire: as the hook `law` is given it; what was hidden before now equals the offset.

        >>> import torch
        >>> Law(0.01).shifted(torch.ones(3, 2), torch.zeros(1, 2)).beside
        0.01
        """
        if not offsets.any():
            return self
        if self.offsets is not None:
            return self.silent()
        kept, possible = (None, None) if self.visible is None else matched(wire, offsets)
        return Law(None, offsets=offsets, beside=self.variance, kept=kept, possible=possible, forgotten=self.forgotten)

    def hiding(self, visible: Tensor, scale: float = 1.0) -> Law:
        """Return the law after all but the ``visible`` entries were set to zero and these multiplied by ``scale``."""
        law = self._noisier(0.0) if self.kept is not None and scale != 1 else self  # scaled, it equals no offset
        seen, fewer = visible if self.visible is None else visible & self.visible, {"reduced": None, "directions": None}
        variance, beside = (None if told is None else told * scale**2 for told in (self.variance, law.beside))
        law = replace(law, variance=variance, visible=seen, laplace=self.laplace * scale**2, beside=beside)
        return replace(law, offsets=None if self.offsets is None else self.offsets * scale, covered=None, **fewer)

    def of_several(self, looks: int) -> Law:
        """Return the law of the one wire that `combined` makes of several looks."""
        return self if looks == 1 else averaged(self, looks)

    def share(self, looks: Tensor | None = None) -> float:
        """Return the part of the noise's variance that is Laplace noise (see `share_of`)."""
        return share_of(self, looks)

    def weights(self, looks: int) -> Tensor | None:
        """Return the weight of each ranked look in one wire, (looks,); None: all the same."""
        return weights_of(self.share(), looks)


def law_of(defense: Any, wire: Tensor) -> Law:
    """Return the law that ``defense`` (None: there is none) tells of a wire (B, ...)."""
    if defense is None:
        return Law()
    told = getattr(defense, "law", None)
    return Law(None) if told is None else told(wire, Law())
