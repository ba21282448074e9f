"""What an attack is, and the only view of the victim that it gets."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..data import Access, Split, to_float
from ..defenses._law import Law, combined, law_of
from ..errors import AccessError, UserError
from ..memory import FLOAT, check, kept
from ..model import SplitModel
from ..ranges import arguments_of
from ..runtime import Progress, Work

__all__ = ["BATCH", "Attack", "Extent", "Observations", "Progress", "Tally", "Victim", "Work", "check_memory"]

BATCH = 256
CACHE_BYTES = 2**30
LOOKS_BYTES = 2**28
"""Of the looks that are made into one at once."""


class Victim:
    """A split model as an attacker may see it: what crosses the wire, and what else the protocol grants.

    The clean feature never leaves this class.

    Args:
        observed: wires of each image that the attacker sees, here and when it learns.
        all_looks: give out all of them, (B, observed, ...), and not the one wire (B, ...) that the law makes of them.
    """

    def __init__(self, model: SplitModel, grants: frozenset[Access], observed: int = 1, all_looks: bool = False):
        if observed < 1:
            raise UserError(f"observed is {observed}; expected at least 1 wire of each image")
        self._model, self.grants = model.eval().requires_grad_(False), grants
        self.observed, self.all_looks = observed, all_looks and observed > 1
        self.device: torch.device = model.mean.device
        self._tally = Tally()

    def again(self) -> Victim:
        """The same view, of which no query has been counted yet."""
        return Victim(self._model, self.grants, self.observed, self.all_looks)

    def of(self, attack: Attack) -> Victim:
        """The same as ``attack`` is to see it, with one count of queries: all looks, or one wire made of them."""
        view = Victim(self._model, self.grants, self.observed, attack.all_looks)
        view._tally = self._tally
        return view

    def one_wire(self, wire: Tensor) -> Tensor:
        """The wire (B, ...) that the law makes of what this view gives out."""
        if not self.all_looks:
            return wire
        looks = wire.transpose(0, 1)
        return combined(looks, law_of(self._model.defense, looks.flatten(0, 1)))

    def require(self, *needs: Access) -> None:
        """Raise AccessError where one of ``needs`` is not granted."""
        missing = [need.value for need in needs if need not in self.grants]
        if missing:
            granted = ", ".join(sorted(g.value for g in self.grants)) or "nothing"
            needed = ", ".join(missing)
            raise AccessError(f"the attack needs {needed}; the protocol grants {granted}; choose another protocol")

    @torch.no_grad()
    def query(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """z_wire of pixels x (B, 3, S, S) in [0, 1], noise drawn anew."""
        self.require(Access.QUERY)
        self._model.check_layout(x[:1])
        return self._seen(self._model.features(x), rng)

    @torch.no_grad()
    def intercept(self, x: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        """z_wire of pixels x (B, 3, S, S), each image's noise from its own generator."""
        self.require(Access.QUERY)
        z = self._model.features(x)
        if not self._noisy(z[:1]):
            return self._seen(z, streams[0])
        # One by one, as they are served: no other way gives an image the same noise in every batch.
        alone = zip(z.split(1), streams, strict=True)
        return torch.cat([self._seen(one, rng) for one, rng in alone])

    def _seen(self, z: Tensor, rng: torch.Generator) -> Tensor:
        return seen(self._model, z, rng, self.observed, self.all_looks)

    def _noisy(self, z: Tensor) -> bool:
        first, second = (self._model.protect(z, torch.Generator(z.device).manual_seed(seed)) for seed in (0, 1))
        return not torch.equal(first, second)

    def observe(self, split: Split) -> Observations:
        """The attacker's own images as often as it likes through the encoder."""
        self.require(Access.QUERY)
        self._model.check_layout(to_float(split.images[:1].to(self.device)))
        self._tally.images += len(split)
        return Observations(self._model, split, self._tally, self.observed, self.all_looks)

    def law(self, wire: Tensor) -> Law:
        """What the attacker, who knows the defense, can tell of wires (B, ...); of single looks where all are seen."""
        law = law_of(self._model.defense, wire)
        return law if self.all_looks else law.of_several(self.observed)

    @property
    def tally(self) -> Tally:
        """What has been sent through `observe`."""
        return self._tally

    def looks(self) -> float:
        """How often, on average, each image of `observe` has been sent; 0 where there was none."""
        return self._tally.asked / max(1, self._tally.images)

    @torch.no_grad()
    def logits(self, wire: Tensor) -> Tensor:
        """What the cloud answers to z_wire."""
        self.require(Access.LOGITS)
        return self._model.tail(wire).float()

    def white_box(self) -> SplitModel:
        """The model itself, with gradients with respect to its input."""
        self.require(Access.WEIGHTS)
        return self._model


@dataclass(slots=True)
class Tally:
    """Images that an attack may send, and wires that it has asked for."""

    images: int = 0
    asked: int = 0


class Observations:
    """Images with what the wire carries for them; each look draws the defense's noise anew."""

    def __init__(self, model: SplitModel, split: Split, tally: Tally, observed: int = 1, all_looks: bool = False):
        self._looks = observed, all_looks
        self._model, self._split, self._tally = model, split.to(model.mean.device), tally
        self._clean: Tensor | None = None

    def __len__(self) -> int:
        return len(self._split)

    @torch.no_grad()
    def wire(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """z_wire (B, ...) of the images ``index``, float32, with fresh noise; (B, observed, ...) where all are seen."""
        self._tally.asked += len(index)
        # The encoder is deterministic, so its output may be kept; what the attacker gets has passed the defense.
        if self._clean is None:
            first = self._encode(torch.arange(min(BATCH, len(self)), device=self._split.images.device))
            if len(self) * first[0].numel() * 4 > CACHE_BYTES:
                return seen(self._model, self._encode(index), rng, *self._looks)
            rest = torch.arange(len(first), len(self), device=first.device).split(BATCH)
            # Splitting nothing gives one empty part, which many networks cannot take.
            self._clean = torch.cat([first, *(self._encode(part) for part in rest if len(part))])
        return seen(self._model, self._clean[index], rng, *self._looks)

    def _encode(self, index: Tensor) -> Tensor:
        return self._model.features(to_float(self._split.images[index]).to(memory_format=torch.channels_last))

    def images(self, index: Tensor) -> Tensor:
        """The pixels of the images ``index``, float32 in [0, 1]."""
        return to_float(self._split.images[index])

    def labels(self, index: Tensor) -> Tensor:
        """Their classes."""
        return self._split.labels[index]


@torch.no_grad()
def seen(model: SplitModel, z: Tensor, rng: torch.Generator, observed: int = 1, all_looks: bool = False) -> Tensor:
    """What an attacker is given of ``observed`` wires of the features z (B, ...), each with its own noise, float32.

    One wire (B, ...), made of them as the defense's law says: by their mean, a weighted mean of the ranked ones, or the
    union of what they show. With ``all_looks`` all of them, (B, observed, ...).
    """
    if observed == 1:
        return model.protect(z, rng).float()
    rows = len(z) if all_looks else max(1, LOOKS_BYTES // (4 * observed * max(1, z.shape[1:].numel())))
    parts = []
    for part in z.split(rows):
        looks = torch.stack([model.protect(part, rng).float() for _ in range(observed)])
        together = looks.transpose(0, 1) if all_looks else combined(looks, law_of(model.defense, looks.flatten(0, 1)))
        parts.append(together)
    return torch.cat(parts)


@dataclass(frozen=True)
class Extent:
    """How much an attack has before it: what its memory depends on.

    Attributes:
        wire: shape of what crosses the wire, without the batch. image: (C, H, W) of an image.
        images: of the attacker. answered: wires that `Attack.reconstruct` gets at once. classes: of the network.
        noisy: whether the defense draws noise: without it, several draws are one.
        encoder: bytes that a backward pass through the encoder keeps for each image.
    """

    wire: tuple[int, ...]
    image: tuple[int, int, int]
    images: int
    answered: int
    classes: int
    noisy: bool
    encoder: int

    @classmethod
    def of(cls, victim: Victim, images: Split, answered: int) -> Extent:
        """Measure it on two of the attacker's images; ``answered`` images are under attack."""
        model, two = victim._model, to_float(images.images[:2].to(victim.device))
        with torch.enable_grad(), kept(model) as saved:
            z = model.features(two.requires_grad_())
        z = z.detach()
        with torch.no_grad():
            wire = model.protect(z, torch.Generator(z.device).manual_seed(0))
            classes = model.tail(wire).shape[1]
        noisy, encoder = victim._noisy(z), saved() // len(two)
        shape = tuple(wire.shape[1:])
        return cls(shape, images.shape, len(images), min(BATCH, answered), classes, noisy, encoder)

    @property
    def wire_bytes(self) -> int:
        """Bytes of a wire."""
        return FLOAT * math.prod(self.wire)

    @property
    def image_bytes(self) -> int:
        """Bytes of an image."""
        return FLOAT * math.prod(self.image)

    @property
    def size(self) -> int:
        """Pixels of the longer side of an image."""
        return max(self.image[1:])

    def batch(self, size: int) -> int:
        """Images in a batch of at most ``size``."""
        return max(2, min(size, self.images))

    def search(self, draws: int, tuning: int = 0, settings: int = 1) -> dict[str, int]:
        """Bytes of gradients through the encoder and the defense, for all images that are searched at once.

        Args:
            draws: of the defense's noise. tuning: images on which as many ``settings`` are tried at once.
        """
        # The draws are made one by one and then stacked, so that there are two of each.
        one = self.encoder + 2 * (draws if self.noisy else 1) * self.wire_bytes
        tried = {"tuning": min(tuning, self.images) * settings * one} if tuning else {}
        return {"draws": self.answered * one, **tried}


class Attack(ABC):
    """Base of every attack: settings in the constructor, data in the calls.

    **What a wire is.** Where the attacker sees one wire of each image, it is z_wire, (B, ...). Where it sees k of them
    (`observed` of `Victim`), an attack gets, in `reconstruct` and from `Victim.query` and `Observations.wire` alike,
    the one wire (B, ...) that the defense's law makes of them: their mean, the weighted mean of the ranked ones or the
    union of what they show (`Law.looks`); `Victim.law` then tells of that one. An attack that can weigh evidence sets
    ``all_looks = True``: it gets all of them, (B, k, ...), and `Victim.law` tells of each. Another attack inside it, as
    its start, is fitted on ``victim.of(start)`` and answers ``victim.one_wire(wire)``.
    """

    needs: ClassVar[frozenset[Access]] = frozenset({Access.QUERY})
    """Access without which the attack cannot run."""
    floor: ClassVar[Literal["linear", "mean", "none"]] = "linear"
    """Whose squared error it must beat: the linear attack's, which sees the same, or the mean image's where it sees
    less than the wire; none where its answers are not made for that error."""
    all_looks: ClassVar[bool] = False
    """Whether it takes every wire of an image that is observed, (B, k, ...), where k > 1."""
    learns: ClassVar[bool] = False
    """Whether `curve` is the error on held-out images after each epoch of a training."""
    holds_out: ClassVar[bool] = False
    """Whether `fit` begins with `hold_out_images` and uses that part only to choose when to stop."""
    instead_of_epochs: ClassVar[str | None] = None
    """Setting that takes the place of ``epochs`` where it is given."""
    iterates: ClassVar[bool] = False
    """Whether `reconstruct` optimizes too, so that a budget of time is shared between it and `fit`."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in arguments_of(self).items())})"

    @abstractmethod
    def fit(self, victim: Victim, images: Split, rng: torch.Generator, work: Work | None = None) -> None:
        """Learn from the victim and the attacker's own images; whatever is chosen is chosen on these.

        Optimizations run as loops of ``work`` (keep it for `reconstruct`): bar, budget and resuming come with that.
        """

    @abstractmethod
    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) in [0, 1] from z_wire (B, ...), or (B, k, ...); ``y`` only where labels are granted."""

    def check(self, wire: tuple[int, ...], size: int) -> None:
        """Refuse, before any work, wires of this shape (without the batch) or images of this size.

        ``size`` is the number of pixels of the images' shorter side. By default whatever the attacks refuse that this
        one holds, as its start or its decoder.

        Raises:
            WireError: the attack cannot take them.
        """
        for part in vars(self).values():
            if isinstance(part, Attack):
                part.check(wire, size)

    def memory(self, extent: Extent) -> dict[str, int]:
        """Return what takes memory, by the parameter that it grows with -> bytes at the peak to which that leads.

        They are lower bounds: what does not fit is refused before any work, and what might fit is tried. By default
        what the attacks need that this one holds, as its start or its decoder.
        """
        parts = [part.memory(extent) for part in vars(self).values() if isinstance(part, Attack)]
        return {name: needed for part in parts for name, needed in part.items()}

    def curve(self) -> list[float]:
        """Error on the attacker's held-out images after each epoch or round; empty where there are none."""
        return []


def check_memory(name: str, attack: Attack, victim: Victim, images: Split, answered: int) -> None:
    """Refuse, before any work, an attack that needs more memory than there is.

    Args:
        images: of the attacker. answered: images that it answers for.

    Raises:
        UserError: it does; the message says which parameter needs how much.
    """
    extent = Extent.of(victim, images, answered)
    observed = 2 * victim.observed * extent.answered * extent.wire_bytes if victim.observed > 1 else 0
    needs = {"observed": observed, **attack.memory(extent)}
    check(name, needs, victim.device)
