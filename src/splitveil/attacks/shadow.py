"""Attack without a query: a substitute encoder aligned with overheard wires, then a decoder for the substitute."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..data import Split, to_float
from ..errors import WireError
from ..memory import FLOAT, trained
from ..randomness import seeded_layers
from ..ranges import Batch, Count, Rate, Weight
from ..registry import plugin
from ..runtime import Runtime
from ..zoo.decoders import Network
from ._held_out import hold_out_images
from ._substitute import Substitute, Substituted, imitated, place_of
from .base import BATCH, Attack, Extent, Victim
from .decoder import DecoderAttack

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Kernel widths, in units of the median squared distance."""


@plugin("shadow")
class ShadowAttack(Attack):
    """Query-free: sees only the wires under attack, and has images of its own that never pass the encoder.

    A substitute encoder is trained so that its features of the attacker's images, with the noise and the hidden entries
    that the defense's law tells of, are distributed as the observed wires (multi-kernel maximum mean discrepancy, Long
    et al. 2015, the alignment of FORA, weight 0.8) while a small head can still rebuild the images from them; then the
    `decoder` attack is trained on the substitute, under the same law. Alignment fixes the distribution only, not which
    feature means what: expect little, and read a success as alarming.

    It learns from the wires of the first call of `reconstruct` (the traffic that it overhears) and answers later calls
    from them, so `fit` only keeps the images.

    Args:
        epochs: epochs of the decoder. steps: steps of the alignment. network: decoder network.
        lr: rate of the alignment. alignment: weight of the discrepancy against the head's squared error.
    """

    needs: ClassVar = frozenset()
    iterates: ClassVar = True
    floor: ClassVar = "mean"
    revision: ClassVar = 2  # a substitute that lies where the wires lie

    def __init__(
        self,
        epochs: Count = 50,
        steps: Count = 2000,
        network: Network = "res_normN8C64",
        lr: Rate = 1e-4,
        alignment: Weight = 0.8,
        batch_size: Batch = BATCH,
    ):
        self.steps, self.lr, self.alignment, self.batch_size = steps, lr, alignment, batch_size
        self._decoder = DecoderAttack(epochs, network, batch_size=batch_size)

    def check(self, wire: tuple[int, ...], size: int) -> None:
        if len(wire) != 3:
            raise WireError(f"shadow: the wire is {wire}; expected a feature map (C, H, W)")
        super().check(wire, size)

    def memory(self, extent: Extent) -> dict[str, int]:
        pixels = self.batch_size, *extent.image
        found = trained("wire", lambda: Substitute(extent.wire, extent.image[0]), *pixels)
        pairs = (2 * self.batch_size) ** 2  # of the batch and as many wires, drawn with repetition
        return {**super().memory(extent), "batch_size": FLOAT * pairs * (1 + len(WIDTHS)), **found}

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        self._images, self._rng, self._runtime = images.to(victim.device), rng, runtime or Runtime()
        self._victim = victim
        self.encoder: Substitute | None = None

    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        if self.encoder is None:
            with self._runtime.share(0.5), torch.enable_grad():
                self.encoder = self._align(wire.float()).eval().requires_grad_(False)
            held_out, train = hold_out_images(self._images, self._rng, "shadow")
            law = self._victim.law(wire)
            pairs = Substituted(self.encoder, held_out, law), Substituted(self.encoder, train, law)
            pairs = self._decoder.sighted(self._victim, pairs, self._rng, self._runtime)
            with torch.enable_grad():
                self._decoder.learn(*pairs, self._rng, self._runtime)
        return self._decoder.reconstruct(wire)

    def _align(self, wire: Tensor) -> Substitute:
        colors, *size = self._images.shape
        self.check(tuple(wire.shape[1:]), min(size))
        law = self._victim.law(wire)
        with seeded_layers(self._rng):
            encoder = Substitute(tuple(wire.shape[1:]), colors, place=place_of(wire, law)).to(wire.device)
            head = nn.Conv2d(wire.shape[1], colors, 1).to(wire.device)
        optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], self.lr)
        loop = self._runtime.loop(
            "shadow", self.steps, {"encoder": encoder, "head": head, "optimizer": optimizer}, self._rng
        )
        for _ in loop:
            ours = torch.randint(len(self._images), (self.batch_size,), generator=self._rng, device=wire.device)
            theirs = torch.randint(len(wire), (self.batch_size,), generator=self._rng, device=wire.device)
            x = to_float(self._images.images[ours])
            z = encoder.body(x)
            rebuilt = interpolate(head(z), size, mode="bilinear", align_corners=False)
            # Hidden in both alike: the discrepancy is then of what can be seen.
            ours_seen = imitated(encoder.placed(z), law, self._rng, theirs).flatten(1)
            loss = self.alignment * mk_mmd(ours_seen, wire[theirs].flatten(1)) + (rebuilt - x).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return encoder

    def curve(self) -> list[float]:
        return []  # the decoder's error on the substitute says nothing about the victim


def mk_mmd(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of rows a (N, m) and b (M, m) under a mean of five Gaussian kernels.

    mean k(a, a') + mean k(b, b') − 2 mean k(a, b) over all pairs (biased, never negative; Gretton et al. 2012, eq. 5).

    Args:
        a: rows (N, m).
        b: rows (M, m).

    >>> float(mk_mmd(torch.zeros(4, 2), torch.zeros(3, 2)))
    0.0
    """
    rows = torch.cat([a, b])
    squared = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    median = squared.detach().median().clamp(min=1e-12)
    kernel = torch.stack([(-squared / (width * median)).exp() for width in WIDTHS]).mean(0)
    n = len(a)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()
