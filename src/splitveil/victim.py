"""The only view of the victim that attacks get: what crosses the wire, and what else the protocol grants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .data import Access, Split, to_float
from .defenses._law import Law, law_of
from .defenses._looks import combined
from .errors import AccessError, UserError
from .model import SplitModel

if TYPE_CHECKING:
    from .attacks.base import Attack

BATCH = 256
CACHE_BYTES = 2**30
LOOKS_BYTES = 2**28
"""Most bytes of wires that are combined at once."""


class Victim:
    """A split model as an attacker may see it: what crosses the wire, and what else the protocol grants.

    The clean feature never leaves this class.

    Args:
        model: network with its defense.
        grants: access that the protocol grants.
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
        """Return the same view with its count of queries at zero."""
        return Victim(self._model, self.grants, self.observed, self.all_looks)

    def of(self, attack: Attack) -> Victim:
        """Return the view for ``attack``: with all wires of an image, or with one wire made of them.

        Args:
            attack: its ``all_looks`` decides.

        Returns:
            A view that shares this one's count of queries.
        """
        view = Victim(self._model, self.grants, self.observed, attack.all_looks)
        view._tally = self._tally
        return view

    def one_wire(self, wire: Tensor) -> Tensor:
        """Return one wire for each image, made by the law from all that this view gives out.

        Args:
            wire: (B, observed, ...) where this view gives out all wires, else (B, ...).

        Returns:
            (B, ...).
        """
        if not self.all_looks:
            return wire
        looks = wire.transpose(0, 1)
        return combined(looks, law_of(self._model.defense, looks.flatten(0, 1)))

    def require(self, *needs: Access) -> None:
        """Check that the protocol grants what the attack needs.

        Args:
            needs: kinds of access.

        Raises:
            AccessError: one of ``needs`` is not granted.
        """
        missing = [need.value for need in needs if need not in self.grants]
        if missing:
            granted = ", ".join(sorted(g.value for g in self.grants)) or "nothing"
            needed = ", ".join(missing)
            raise AccessError(f"the attack needs {needed}; the protocol grants {granted}; choose another protocol")

    @torch.no_grad()
    def query(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return what crosses the wire for images, with noise drawn anew.

        Args:
            x: pixels (B, C, H, W) in [0, 1].
            rng: generator of the defense's noise.

        Returns:
            z_wire (B, ...), float32; (B, observed, ...) where all wires are seen.

        Raises:
            AccessError: queries are not granted.
        """
        self.require(Access.QUERY)
        self._model.check_layout(x[:1])
        return self._seen(self._model.features(x), rng)

    @torch.no_grad()
    def intercept(self, x: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        """Return what crosses the wire for images, each with noise from its own generator.

        Args:
            x: pixels (B, C, H, W) in [0, 1].
            streams: one generator for each image.

        Returns:
            z_wire, as `query` gives it.

        Raises:
            AccessError: queries are not granted.
        """
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
        """Return the attacker's own images, to be sent through the encoder as often as it likes.

        Args:
            split: images of the attacker.

        Raises:
            AccessError: queries are not granted.
        """
        self.require(Access.QUERY)
        self._model.check_layout(to_float(split.images[:1].to(self.device)))
        self._tally.images += len(split)
        return Observations(self._model, split, self._tally, self.observed, self.all_looks)

    def law(self, wire: Tensor) -> Law:
        """Return what an attacker who knows the defense can tell of the noise and the hidden entries of wires.

        Args:
            wire: (B, ...).

        Returns:
            The law of one wire where all are seen, else that of the one wire which is made of them.
        """
        law = law_of(self._model.defense, wire)
        return law if self.all_looks else law.of_several(self.observed)

    @property
    def tally(self) -> Tally:
        """Return the count of what has been sent through `observe`."""
        return self._tally

    def looks(self) -> float:
        """Return how often, on average, each image of `observe` has been sent; 0 where there was none."""
        return self._tally.asked / max(1, self._tally.images)

    @torch.no_grad()
    def logits(self, wire: Tensor) -> Tensor:
        """Return the logits (B, classes) that the cloud answers to wires (B, ...).

        Raises:
            AccessError: logits are not granted.
        """
        self.require(Access.LOGITS)
        return self._model.tail(wire).float()

    def white_box(self) -> SplitModel:
        """Return the model itself, which can be differentiated with respect to its input.

        Raises:
            AccessError: weights are not granted.
        """
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
        """Return what crosses the wire for some of the images, with fresh noise.

        Args:
            index: rows of the images, (B,).
            rng: generator of the defense's noise.

        Returns:
            z_wire (B, ...), float32; (B, observed, ...) where all wires are seen.
        """
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
        """Return the pixels (B, C, H, W) of the images ``index``, float32 in [0, 1]."""
        return to_float(self._split.images[index])

    def labels(self, index: Tensor) -> Tensor:
        """Return the classes (B,) of the images ``index``."""
        return self._split.labels[index]


@torch.no_grad()
def seen(model: SplitModel, z: Tensor, rng: torch.Generator, observed: int = 1, all_looks: bool = False) -> Tensor:
    """Return what an attacker sees of ``observed`` wires of each feature, each with its own noise, float32.

    Args:
        model: network with its defense.
        z: features (B, ...).
        rng: generator of the defense's noise.
        observed: wires of each feature.
        all_looks: return all of them.

    Returns:
        One wire (B, ...), made of them as the defense's law says: by their mean, a weighted mean of the ranked ones, or
        the union of what they show. With ``all_looks`` all of them, (B, observed, ...).
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
