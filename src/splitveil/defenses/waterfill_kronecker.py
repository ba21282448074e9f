"""Water-filled noise for wide wires: the directions are products of directions of channels and of places."""

from __future__ import annotations

import torch
from torch import Tensor

from ..registry import plugin
from ._correlated import Correlated
from ._waterfilling import LEAST
from ._waterfilling_kronecker import Products


@plugin("waterfill_kronecker")
class WaterfillKronecker(Correlated):
    """Water-filled noise, as `waterfill`, for wires of up to 64 k values.

    The covariance C of a feature of channels × places and the Fisher information F of the tail are taken for
    Kronecker products of a matrix for the channels and one for the places. Then so are the directions that `waterfill`
    would find, P ⊗ Q, and the device multiplies by two small matrices instead of a large one. How much each direction
    varies, explains and is worth is measured and not taken from the products, so that a poor approximation costs
    privacy or accuracy but makes no statement wrong. `splitveil harden` takes it for wires of more than 4,096 values.

    Args:
        mu: price μ of a nat of the task; the smaller, the more noise.
        sigma: standard deviation σ of the noise that every direction has at least, in units of the feature.

    >>> defense = WaterfillKronecker(0.1)
    >>> z = torch.rand(2, 8, 4, 4)
    >>> torch.equal(defense.on_wire(z, torch.Generator()), z)
    True
    """

    late_buffers = ("center", "channels", "places", "channels_back", "places_back", "kept", "scale", "gain")
    center: Tensor | None
    """m, mean of the features, (C · S,)."""
    channels: Tensor | None
    """Pᵀ, (C, C), and ``places`` Qᵀ, (S, S): the coordinates of a feature Z are Pᵀ Z Q."""
    channels_back: Tensor | None
    """Inverse of ``channels``; ``places_back`` that of ``places``."""
    kept: Tensor | None
    """The k coordinates that are sent, as places in the flattened (C, S)."""
    scale: Tensor | None
    """Factor of each before its noise of variance 1, (k,)."""
    gain: Tensor | None
    """Factor of each y in the best estimate of its coordinate, (k,)."""

    def _solve(self, products: Products) -> None:
        """Compute the buffers in float64."""
        noise = products.noise(self.mu, self.sigma)
        ratio = products.variance / noise
        kept = torch.nonzero(ratio >= LEAST).flatten()
        kept = kept if len(kept) else ratio.argmax()[None]
        self.center, self.kept = products.mean.float(), kept
        self.channels, self.places = products.channels.float(), products.places.float()
        self.channels_back = torch.linalg.inv(products.channels).float()
        self.places_back = torch.linalg.inv(products.places).float()
        self.scale = noise[kept].rsqrt().float()
        self.gain = (noise[kept].sqrt() * ratio[kept] / (1 + ratio[kept])).float()

    def _coordinates(self, centered: Tensor) -> Tensor:
        """Return Pᵀ Z Q of features (B, C · S), flattened, (B, C · S)."""
        maps = centered.view(centered.shape[0], len(self._have("channels")), -1)
        return (self._have("channels") @ maps @ self._have("places").T).flatten(1)

    def _sent(self, z: Tensor) -> Tensor:
        found = self._coordinates(z.flatten(1).float() - self._have("center"))
        return found[:, self._have("kept")] * self._have("scale")

    def _shown(self, sent: Tensor) -> Tensor:
        found = sent.new_zeros(sent.shape[0], len(self._have("center")))
        found[:, self._have("kept")] = sent * self._have("gain")
        maps = found.view(sent.shape[0], len(self._have("channels")), -1)
        return self._have("center") + (self._have("channels_back") @ maps @ self._have("places_back").T).flatten(1)

    def _sent_of(self, wire: Tensor) -> Tensor:
        found = self._coordinates(wire.flatten(1).float() - self._have("center"))
        return found[:, self._have("kept")] / self._have("gain")

    def _variance(self, noise: Tensor) -> Tensor:
        found = torch.zeros_like(self._have("center"))
        found[self._have("kept")] = self._have("gain").square() * noise
        maps = found.view(len(self._have("channels")), -1)
        return (self._have("channels_back").square() @ maps @ self._have("places_back").square().T).flatten()
