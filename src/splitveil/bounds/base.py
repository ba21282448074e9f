"""The base class of bounds, which examine a wire as a random channel and return estimates.

An `Estimate` says whether it is a lower bound, an upper bound or a point estimate, of which quantity, how precise it
is, and under which assumptions it holds. `Channel` holds what bounds examine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..data import Split, to_float
from ..data._select import in_proportion
from ..data.protocol import divide
from ..defenses._correlated import acting, sends_fewer
from ..defenses.base import Stack, name_of
from ..defenses.codec import Codec, codec_of
from ..errors import UserError
from ..model import SplitModel
from ..ranges import arguments_of
from ..statistics.intervals import Interval

Kind = Literal["lower", "upper", "point"]
Quantity = Literal["leakage", "mse", "success", "epsilon"]
UNITS: dict[Quantity, str] = {
    "leakage": "nats per image",
    "mse": "squared pixel range",
    "success": "probability",
    "epsilon": "epsilon of local differential privacy",
}
SIGNS: dict[Kind, str] = {"lower": "at least", "upper": "at most", "point": "about"}
PARTS = ("fit", "choose", "held_out")
SHARES = (0.5, 0.1, 0.4)
"""Parts of the images on which a density is fitted, on which one of several is chosen, and for the estimate."""
BATCH = 500
SHARED = 3
"""Revision of the code that all bounds share: the channel, and densities. Raise it with each change after which they
may say otherwise; bounds of another one are computed again."""


class BoundError(UserError):
    """A bound says nothing about this wire; the message names the assumption that does not hold."""


@dataclass(frozen=True)
class Estimate:
    """One number about a wire, with everything that is needed to read it.

    Attributes:
        value: in the unit of ``quantity`` (`UNITS`).
        kind: "lower" or "upper" where it is a bound under ``assumptions``; "point" where it is none.
        quantity: "leakage", the mutual information I(x; z_wire); "mse", an attacker's error on pixels in [0, 1];
            "success", the probability that an attacker is right; "epsilon", that of local differential privacy, ε.
        about: what was computed, in a few words.
        assumptions: sentences without which it does not hold.
        images: how many it was computed from.
        interval: 95 % interval of ``value``; None where it has no sampling error.

    Raises:
        UserError: an unknown kind or quantity, or a value or an end of its interval that is not finite.

    >>> print(Estimate(12.5, "upper", "leakage", "one Gaussian", images=100, interval=Interval(12.5, 12.1, 12.9)))
    at most 12.50 [12.10, 12.90] nats per image (one Gaussian, 100 images)
    """

    value: float
    kind: Kind
    quantity: Quantity
    about: str = ""
    assumptions: tuple[str, ...] = ()
    images: int = 0
    interval: Interval | None = None

    def __post_init__(self) -> None:
        for name, value, known in (("kind", self.kind, SIGNS), ("quantity", self.quantity, UNITS)):
            if value not in known:
                raise UserError(f"{name} is {value!r}; expected one of {', '.join(known)}")
        ends = () if self.interval is None else (self.interval.lo, self.interval.hi)
        if not all(math.isfinite(value) for value in (self.value, *ends)):
            given = self.value if self.interval is None else format(self.interval, ".4g")
            raise UserError(f"an estimate is {given}; expected finite numbers, or a BoundError that says why not")

    def __str__(self) -> str:
        number = str(self.interval) if self.interval else format(self.value, ".4g")
        of = ", ".join(part for part in (self.about, f"{self.images:,} images" if self.images else "") if part)
        return f"{SIGNS[self.kind]} {number} {UNITS[self.quantity]}" + (f" ({of})" if of else "")

    def as_dict(self) -> dict[str, Any]:
        """Return the estimate for JSON."""
        return {
            "value": self.value,
            "kind": self.kind,
            "quantity": self.quantity,
            "unit": UNITS[self.quantity],
            "about": self.about,
            "assumptions": list(self.assumptions),
            "images": self.images,
            "interval": self.interval.as_dict() if self.interval else None,
        }


@dataclass(frozen=True)
class Conditional:
    """z_wire given the image: N(``mean``, diag(``variance``)), both (N, D)."""

    mean: Tensor
    variance: Tensor

    def draw(self, rng: torch.Generator) -> Tensor:
        """Return one wire for each image, (N, D).

        Args:
            rng: generator of the noise.
        """
        noise = torch.randn(self.mean.shape, generator=rng, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.variance.sqrt() * noise

    def log_density(self, wire: Tensor) -> Tensor:
        """Return log p(z_wire | x) of each wire for its own image, (N,), in nats.

        Args:
            wire: (N, D), in the order of the images.
        """
        square = (wire - self.mean).square() / self.variance
        return -0.5 * (square + (2 * math.pi * self.variance).log()).sum(1)


class Channel:
    """A split model as a random channel from an image to its wire, and the images on which it is examined.

    Args:
        model: with its defense. It is examined in evaluation mode, on the device where it is.
        fit, choose, held_out: images that the model was not trained on. Densities are fitted on the first, chosen
            between on the second; the third, used once, gives the estimate.

    >>> from torch import nn
    >>> from splitveil.defenses.gaussian import Gaussian
    >>> model = SplitModel(nn.Flatten(), nn.Identity(), defense=[Gaussian(0.5)], example=torch.rand(1, 3, 2, 2))
    >>> images = Split(torch.zeros(40, 3, 2, 2, dtype=torch.uint8), torch.zeros(40, dtype=torch.long))
    >>> channel = Channel.of(model, images, torch.Generator().manual_seed(0))
    >>> channel.dimension, len(channel.held_out), float(channel.conditional("fit").variance[0, 0])
    (12, 16, 0.25)
    """

    def __init__(self, model: SplitModel, fit: Split, choose: Split, held_out: Split):
        self.model = model.eval()
        self.fit, self.choose, self.held_out = fit, choose, held_out
        self.device = model.mean.device
        self._features: dict[str, Tensor] = {}
        self.kept: dict[Any, Any] = {}
        """What bounds have found out and others ask for again."""

    @classmethod
    def of(cls, model: SplitModel, images: Split, rng: torch.Generator, shares: Sequence[float] = SHARES) -> Channel:
        """Divide images, every class in proportion to its size, and examine the model on them.

        Each part is then a sample of the same population as all images, which the bounds are about.

        Args:
            model: with its defense.
            images: that the model was not trained on.
            rng: generator of the division.
            shares: parts for fitting, choosing and holding out, with sum 1.

        Raises:
            UserError: fewer than 20 images.
        """
        if len(images) < 20:
            raise UserError(f"{len(images)} images; a bound needs at least 20, and hundreds to be of use")
        fit, rest = divide(images, round(shares[0] * len(images)), rng, in_proportion)
        choose, held_out = divide(rest, round(shares[1] * len(images)), rng, in_proportion)
        return cls(model, fit, choose, held_out)

    @property
    def dimension(self) -> int:
        """Return the number of values of a clean feature; a defense may send fewer."""
        return int(self.features("choose")[:1].numel())

    def labels(self, part: str) -> Tensor:
        """Return the classes of a part's images, (N,).

        Args:
            part: "fit", "choose" or "held_out".
        """
        return getattr(self, part).labels.to(self.device)

    @torch.no_grad()
    def features(self, part: str) -> Tensor:
        """Return the clean features of a part, (N, ...), computed once.

        Args:
            part: "fit", "choose" or "held_out".
        """
        if part not in PARTS:
            raise UserError(f"part is {part!r}; expected one of {', '.join(PARTS)}")
        if part not in self._features:
            images = getattr(self, part).images.split(BATCH)
            self._features[part] = torch.cat([self.model.features(to_float(x.to(self.device))) for x in images])
        return self._features[part]

    @torch.no_grad()
    def conditional(self, part: str) -> Conditional:
        """Return the Gaussian law of each image's wire given the image, in float64.

        Args:
            part: "fit", "choose" or "held_out".

        Raises:
            BoundError: the wire carries no noise, or a defense whose noise is not Gaussian.
        """
        z = self.features(part)
        found = self._law(z)
        mean, variance = (value.double().flatten(1) for value in found)
        if not bool((variance > 0).all()):
            raise BoundError(
                f"the wire carries no noise: given the image it is certain, and {self._most(found[0])}; add a defense "
                "with noise, such as gaussian:0.025"
            )
        return Conditional(mean, variance)

    def _most(self, wire: Tensor) -> str:
        """Return what a wire (N, ...) that is certain given the image can tell at most, in words."""
        if not self.coded:
            return "the leakage is infinite"
        defense: Any = self.model.defense
        count = 8 * defense.bytes_sent(self.model.wire_shape or tuple(wire.shape[1:]))
        return f"nothing but its {count:,} bits ({count * math.log(2):,.0f} nats) limits what it tells"

    @property
    def coded(self) -> bool:
        """Return whether a codec sends the wire; `conditional` tells of the wire before it."""
        return codec_of(self.model.defense) is not None

    @torch.no_grad()
    def received(self, part: str, law: Conditional, rng: torch.Generator) -> Tensor:
        """Return one wire for each image as it arrives, behind the codec if there is one, (N, D).

        Args:
            part: "fit", "choose" or "held_out".
            law: of ``conditional(part)``.
            rng: generator of the noise.
        """
        wires, codec = law.draw(rng), codec_of(self.model.defense)
        if codec is None:
            return wires
        shape = wires.shape if codec.of_numbers else self.features(part).shape
        return codec.coded(wires.float().view(shape)).double().flatten(1)

    def _law(self, z: Tensor) -> tuple[Tensor, Tensor]:
        defense: Any = self.model.defense
        start = z.float(), torch.zeros_like(z, dtype=torch.float32)
        told = None
        if not (_changed_behind_fewer(defense) or _changed_behind_projection(defense, *start)):
            told = start if defense is None else getattr(defense, "gaussian_law", lambda *_: None)(*start)
        if told is None:
            parts = defense if isinstance(defense, Stack) else [defense]
            names = ", ".join(name_of(type(part)) for part in parts)
            raise BoundError(
                f"the wire of {names} has no Gaussian density given the image, which this bound needs: it takes "
                "defenses that add Gaussian noise last (gaussian, cloak, vib); linkage and infonce need none, and "
                "remain"
            )
        return told[0], told[1].expand_as(told[0])


def _changed_behind_fewer(defense: object) -> bool:
    """Return whether more than a codec changes the wire behind a defense that sends fewer numbers, as `waterfill`.

    The law of `gaussian_law` is then that of the numbers with the later noise on them, but this noise is on the wire
    that is made of the numbers, where it hides less or more.
    """
    parts = acting(defense)
    behind = next((parts[place + 1 :] for place, part in enumerate(parts) if sends_fewer(part)), [])
    return not all(isinstance(part, Codec) for part in behind)


def _changed_behind_projection(defense: object, mean: Tensor, variance: Tensor) -> bool:
    """Return whether anything changes the wire behind a projection that has noise before it, as `gaussian` and `pca`.

    The law is then that of the projection's fewer numbers, and what comes behind acts on the wire that is made of them.

    Args:
        defense: of the model.
        mean: features (B, ...).
        variance: of the noise on them, of the same shape.
    """
    parts, told = acting(defense), (mean, variance)
    for part in parts:
        if part.projects and part is not parts[-1] and bool(told[1].any()):
            return True
        if (told := part.gaussian_law(*told)) is None:
            return False
    return False


class Bound:
    """Base of every bound: settings go to the constructor, the channel to `estimate`."""

    revision: ClassVar[int] = 1
    """Number of the bound's code; raise it with each change after which it may say otherwise, and bounds that were
    computed before are computed again where they are asked for."""

    def __init__(self) -> None:
        pass

    def estimate(self, channel: Channel, rng: torch.Generator) -> list[Estimate]:
        """Return what the bound says about a channel.

        Args:
            channel: model and images.
            rng: generator of all that is drawn.

        Raises:
            BoundError: it says nothing about this wire.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        """Return the class with its settings."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in arguments_of(self).items())})"
