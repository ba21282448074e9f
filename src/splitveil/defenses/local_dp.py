"""Local differential privacy of the wire, with a sensitivity that clipping enforces."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..ranges import Inner, Positive
from ..registry import plugin
from ._law import Law
from ._model import wire_shape
from .base import Defense
from .laplace import laplace_noise


@plugin("local_dp")
class LocalDP(Defense, helpers=("noise_scale",)):
    """Local differential privacy: clips the feature, then adds the noise that its ε needs.

    z_wire = clip(z) + noise. For *any* two images x, x' and any set S of what is observed,

        P(observed ∈ S | x) ≤ e^ε P(observed ∈ S | x') + δ      (δ = 0 for ``laplace``),

    for one query, where "observed" is one entry of the wire (``per="entry"``; the m entries together then
    only have mε by composition) or the whole wire (``per="image"``). q queries have qε. Exact up to the
    rounding of floating-point noise (Mironov 2012). Post-processing keeps it: later parts of the stack do not
    weaken it.

    Clipping: to [low, high] entry by entry, or with ``norm`` to that length of the whole feature (L1 for
    ``laplace``, L2 for ``gaussian``; only with ``per="image"``). Sensitivity Δ and noise:
    ``laplace``: scale Δ/ε; Δ = high − low per entry, m(high − low) or 2·norm per image (Dwork et al. 2006).
    ``gaussian``: the least σ with Φ(Δ/2σ − εσ/Δ) − e^ε Φ(−Δ/2σ − εσ/Δ) ≤ δ, exact for every ε, unlike
    √(2 ln(1.25/δ))Δ/ε (Balle and Wang, ICML 2018); Δ = high − low, √m(high − low) or 2·norm.

    Args:
        epsilon: ε > 0. mechanism: "laplace" or "gaussian". per: "entry" or "image".
        low, high: range of an entry; [0, 1] fits encoders that end in a sigmoid. norm: length, instead of the range.
        delta: δ in (0, 1) of the Gaussian mechanism.

    >>> LocalDP(2.0).noise_scale(512)
    0.5
    """

    install_order = -1

    def __init__(
        self,
        epsilon: Positive = 10.0,
        mechanism: Literal["laplace", "gaussian"] = "laplace",
        per: Literal["entry", "image"] = "entry",
        low: float = 0.0,
        high: float = 1.0,
        norm: Positive | None = None,
        delta: Inner = 1e-5,
    ):
        super().__init__()
        if low >= high:
            raise UserError(f"local_dp: low is {low}, high {high}; expected low below high, e.g. low=0,high=1")
        if norm is not None and per != "image":
            raise UserError(f"local_dp: norm is {norm} with per={per}; expected a length with per=image")
        self.epsilon, self.mechanism, self.per = float(epsilon), mechanism, per
        self.low, self.high, self.norm, self.delta = float(low), float(high), norm, float(delta)
        self._scale: dict[int, float] = {}

    def install(self, model: Any) -> None:
        self._scale = {(m := math.prod(wire_shape(model, "local_dp"))): self.noise_scale(m)}

    def noise_scale(self, dimensions: int) -> float:
        """Return the scale b of the Laplace or σ of the Gaussian noise on a wire of this many dimensions.

        Args:
            dimensions: number of values on the wire.
        """
        power = 1.0 if self.mechanism == "laplace" else 0.5
        width = (self.high - self.low) * (dimensions**power if self.per == "image" else 1.0)
        sensitivity = width if self.norm is None else 2 * self.norm
        if self.mechanism == "laplace":
            return sensitivity / self.epsilon
        return gaussian_sigma(sensitivity, self.epsilon, self.delta)

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        flat = z.flatten(1).float()  # noise added in bfloat16 would be rounded away
        if flat.shape[1] not in self._scale:
            self._scale[flat.shape[1]] = self.noise_scale(flat.shape[1])
        if self.norm is None:
            flat = flat.clamp(self.low, self.high)
        else:
            length = flat.norm(p=1 if self.mechanism == "laplace" else 2, dim=1, keepdim=True)
            flat = flat * (self.norm / length.clamp_min(self.norm))
        if self.mechanism == "laplace":
            noise = laplace_noise(flat, rng)
        else:
            noise = torch.randn(flat.shape, generator=rng, device=z.device)
        return (flat + self._scale[flat.shape[1]] * noise).view_as(z)

    def law(self, wire: Tensor, before: Law) -> Law:
        scale = self._scale.get(wire[0].numel()) or self.noise_scale(wire[0].numel())
        clipped, laplace = before if before.exact else self._clipped(before), self.mechanism == "laplace"
        return clipped.with_noise(2 * scale**2, "laplace") if laplace else clipped.with_noise(scale**2)

    def _clipped(self, before: Law) -> Law:
        """Return the law after the clip, of earlier noise too; an entry that was set to zero stays zero within it."""
        if self.norm is None and not self.low <= 0 <= self.high:
            return before.silent()
        return replace(before.silent(before.visible), covered=before.covered)

    def noise_variance(self) -> float:
        # CEM's bound is that of Gaussian noise (see `laplace`) on the variances of z, which clipping entries lowers.
        if self.mechanism == "laplace" or self.norm is not None or not self._scale:
            return 0.0
        return next(iter(self._scale.values())) ** 2


def gaussian_sigma(sensitivity: float, epsilon: float, delta: float) -> float:
    """Return the least σ of the Gaussian mechanism for (ε, δ) at an L2 sensitivity (Balle and Wang 2018), by bisection.

    Args:
        sensitivity: L2 distance of the clipped features of two images, at most.
        epsilon: ε > 0.
        delta: δ in (0, 1).

    >>> round(gaussian_sigma(1.0, 1.0, 1e-5), 4)
    3.7306
    """
    low, high = 1e-6 * sensitivity, sensitivity
    while gaussian_delta(sensitivity / high, epsilon) > delta:
        high *= 2
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if gaussian_delta(sensitivity / middle, epsilon) > delta else (low, middle)
    return high


def gaussian_delta(shift: float, epsilon: float) -> float:
    """Return the δ that noise of deviation 1 gives at ε for neighbors ``shift`` apart.

    Args:
        shift: distance of the neighbors, in deviations of the noise.
        epsilon: ε > 0.
    """
    from scipy.special import log_ndtr  # in logarithms: far tails would otherwise round to 0 and large ε overflow

    near, far = log_ndtr([shift / 2 - epsilon / shift, -shift / 2 - epsilon / shift])
    return -math.exp(near) * math.expm1(min(0.0, epsilon + far - near))
