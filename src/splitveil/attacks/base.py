"""The base class of attacks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..data import Access, Split, to_float
from ..memory import FLOAT, check, kept
from ..ranges import arguments_of
from ..runtime import Progress, Runtime, Work
from ..victim import BATCH, Observations, Tally, Victim, seen

__all__ = [
    "BATCH",
    "Attack",
    "Extent",
    "Observations",
    "Progress",
    "Runtime",
    "Tally",
    "Victim",
    "Work",
    "check_memory",
    "seen",
]


@dataclass(frozen=True)
class Extent:
    """The sizes on which the memory of an attack depends.

    Attributes:
        wire: shape of what crosses the wire, without the batch.
        image: shape (C, H, W) of an image.
        images: number of the attacker's images.
        answered: number of wires that `Attack.reconstruct` gets at once.
        classes: number of the network's classes.
        noisy: whether the defense draws noise; without noise, one draw is enough.
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
        """Measure the sizes on two of the attacker's images.

        Args:
            victim: view of the model.
            images: of the attacker.
            answered: number of images under attack.
        """
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
        """Return the bytes of a wire."""
        return FLOAT * math.prod(self.wire)

    @property
    def image_bytes(self) -> int:
        """Return the bytes of an image."""
        return FLOAT * math.prod(self.image)

    @property
    def size(self) -> int:
        """Return the pixels of the longer side of an image."""
        return max(self.image[1:])

    def batch(self, size: int) -> int:
        """Return the images in a batch of at most ``size``.

        Args:
            size: images in a batch, if there are so many.
        """
        return max(2, min(size, self.images))

    def search(self, draws: int, tuning: int = 0, settings: int = 1) -> dict[str, int]:
        """Return the bytes of gradients through the encoder and the defense, for all images that are searched at once.

        Args:
            draws: of the defense's noise in each step.
            tuning: images on which settings are tried.
            settings: number of settings that are tried at once on each of them.

        Returns:
            Bytes by the parameter that they grow with.
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
    """The attack whose squared error it must beat: ``linear``, which sees the same; ``mean`` (the mean image) where it
    sees less than the wire; ``none`` where its answers are not made for that error."""
    all_looks: ClassVar[bool] = False
    """Whether it takes all wires of an image, (B, k, ...), where several are observed."""
    learns: ClassVar[bool] = False
    """Whether `curve` is the error on held-out images after each epoch of a training."""
    holds_out: ClassVar[bool] = False
    """Whether `fit` begins with `hold_out_images` and uses that part only to choose when to stop."""
    instead_of_epochs: ClassVar[str | None] = None
    """Setting that takes the place of ``epochs`` where it is given."""
    revision: ClassVar[int] = 1
    """Number of the attack's code; raise it with each change after which it may answer otherwise, and attacks that were
    made before are made again where they are asked for."""
    sees_through: ClassVar[bool] = False
    """Whether it learns which entries of wires are hidden, also beneath noise, and which offset was added."""
    iterates: ClassVar[bool] = False
    """Whether `reconstruct` optimizes too, so that a budget of time is shared between it and `fit`."""

    def __init__(self) -> None:
        super().__init__()  # without settings: a signature that the command line can read

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in arguments_of(self).items())})"

    @abstractmethod
    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        """Learn from the victim and the attacker's own images; settings may be chosen on these only.

        Args:
            victim: the attacker's view of the model.
            images: of the attacker.
            rng: generator of all that the attack draws.
            runtime: run every optimization as one of its loops, and keep it for `reconstruct`: the progress bar, the
                budget and resuming come with that. None: no bar, no limit, nothing kept.
        """

    @abstractmethod
    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        """Return images (B, C, H, W) in [0, 1] for wires.

        Args:
            wire: z_wire (B, ...); (B, k, ...) where ``all_looks`` is set and k > 1 wires of each image are observed.
            y: labels (B,), only where the protocol grants them.
        """

    def check(self, wire: tuple[int, ...], size: int) -> None:
        """Refuse, before any work, wires or images that the attack cannot take.

        By default, ask the attacks that this one holds, as its start or its decoder.

        Args:
            wire: shape of a wire, without the batch.
            size: pixels of the images' shorter side.

        Raises:
            WireError: the attack cannot take them.
        """
        for part in vars(self).values():
            if isinstance(part, Attack):
                part.check(wire, size)

    def fewest(self) -> int:
        """Return how many images of its own the attacker must have at least.

        By default, as many as the attacks need that this one holds, as its start or its decoder; three where some are
        held out.
        """
        parts = [part.fewest() for part in vars(self).values() if isinstance(part, Attack)]
        return max([3 if self.holds_out else 1, *parts])

    def memory(self, extent: Extent) -> dict[str, int]:
        """Return lower bounds of the memory that the attack takes at its peaks.

        What does not fit is refused before any work, and what might fit is tried. By default, return what the attacks
        need that this one holds, as its start or its decoder.

        Args:
            extent: sizes on which the memory depends.

        Returns:
            Bytes by the parameter that they grow with.
        """
        parts = [part.memory(extent) for part in vars(self).values() if isinstance(part, Attack)]
        return {name: needed for part in parts for name, needed in part.items()}

    def curve(self) -> list[float]:
        """Return the error on the attacker's held-out images after each epoch or round; empty where there are none."""
        return []


def check_memory(
    name: str,
    attack: Attack,
    victim: Victim,
    images: Split,
    answered: int,
    device: torch.device | None = None,
) -> None:
    """Refuse, before any work, an attack that needs more memory than there is.

    Args:
        name: of the attack, for the message.
        attack: asked for its needs.
        victim: view of the model.
        images: of the attacker.
        answered: number of images that it answers for.
        device: on which it will be made; None: that of ``victim``.

    Raises:
        UserError: it needs more; the message says which parameter needs how much.
    """
    extent = Extent.of(victim, images, answered)
    observed = 2 * victim.observed * extent.answered * extent.wire_bytes if victim.observed > 1 else 0
    device = device or victim.device
    held = images.images.nbytes if device.type != "cpu" else 0  # a CPU reads them where they are
    check(name, {"observed": observed, "attacker images": held, **attack.memory(extent)}, device)
