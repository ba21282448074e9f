"""What the simplest attacker makes of the bytes that are sent: the linear attack, on coded and on uncoded numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import metrics
from ..attacks.base import Victim
from ..attacks.linear import LinearAttack
from ..data import Access, Protocol, to_float
from ..data.protocol import some
from ..defenses._codec import Coder
from ..defenses._correlated import acting
from ..defenses.codec import sent_by
from ..model import SplitModel
from ..randomness import stream
from ..statistics.intervals import Interval, bootstrap_ci, paired_difference
from .graphs import onnx_bytes

LOOKS, ATTACKED, RANK = 2, 1_000, 64
"""Looks at each of the attacker's images; most images under attack; rank of the picture's matrix."""
FEWEST = 20
"""Least images of the attacker and under attack: fewer say nothing."""
BATCH = 250


@dataclass(frozen=True)
class Leak:
    """Squared errors of the linear attack, pixels in [0, 1].

    Attributes:
        images: number of images under attack.
        float32: error on the numbers as they are before the codec.
        coded: error on what the cloud reads.
        difference: coded − float32, paired.
        graph: ONNX file, ``wire`` -> ``image``, uint8 (B, H, W, C): what the attack on the coded wire makes of it.
    """

    images: int
    float32: Interval
    coded: Interval
    difference: Interval
    graph: bytes

    def as_dict(self) -> dict[str, Any]:
        """Return the errors for wire.json, with the checksum of the graph."""
        errors = {name: getattr(self, name).as_dict() for name in ("float32", "coded", "difference")}
        return {"images": self.images, **errors, "graph_sha256": hashlib.sha256(self.graph).hexdigest()}


class Numbers(nn.Module):
    """The defenses up to the numbers that are sent, and what the cloud reads of them.

    Args:
        model: with its defense.
        coder: of the wire; None: the numbers themselves.
    """

    def __init__(self, model: SplitModel, coder: Coder | None):
        super().__init__()
        self.parts, self.coder = acting(model.defense), coder

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return the numbers that the cloud reads, (B, ...)."""
        sent = sent_by(self.parts, z, rng)
        return sent if self.coder is None else self.coder.decode(self.coder.encode(sent))


class Picture(nn.Module):
    """The linear attack as a graph, its matrix as two narrow ones in half precision.

    The narrow matrices keep what A makes of a wire's distance from the mean wire, in the directions of pixels in which
    that varies most; what A makes of the mean wire itself goes whole into the constant.

    Args:
        coder: of the wire.
        weights: A, (D, P).
        constant: b, (P,).
        wires: numbers that the cloud reads, of some images, (N, D).
        shape: (C, H, W) of an image.
    """

    def __init__(self, coder: Coder, weights: Tensor, constant: Tensor, wires: Tensor, shape: tuple[int, ...]):
        super().__init__()
        self.coder, self.shape = coder, shape
        mean = wires.mean(0)
        rank = min(RANK, *weights.shape, len(wires))
        _, _, directions = torch.linalg.svd((wires - mean) @ weights, full_matrices=False)
        back, ahead = (weights @ directions[:rank].T).half(), directions[:rank].half()
        self.register_buffer("back", back)
        self.register_buffer("ahead", ahead)
        self.register_buffer("constant", constant.float() + mean @ weights - mean @ back.float() @ ahead.float())

    def forward(self, wire: Tensor) -> Tensor:
        """Return images uint8 (B, H, W, C) of coded wires (B, n)."""
        read = self.coder.decode(wire).flatten(1)
        pixels = (read @ self.back.float()) @ self.ahead.float() + self.constant  # type: ignore[operator]
        levels = (255 * pixels.clamp(0, 1)).round().view(-1, *self.shape)
        return levels.permute(0, 2, 3, 1).to(torch.uint8)


@torch.no_grad()
def leak_of(model: SplitModel, coder: Coder, given: Protocol, seed: int) -> Leak | None:
    """Attack what is sent linearly, before and behind the codec.

    Args:
        model: with its defense, on the CPU.
        coder: of the wire.
        given: images of the attacker and under attack.
        seed: of the noise and of the attack.

    Returns:
        None where there are too few images.
    """
    own = given.attacker_train
    attacked = some(given.attacker_test, ATTACKED, stream("cpu", seed, 6))
    if min(len(own), len(attacked)) < FEWEST:
        return None
    truth = to_float(attacked.images)
    errors: dict[str, Tensor] = {}
    for name, one in (("float32", None), ("coded", coder)):
        victim = Victim(_view(model, one), frozenset(Access))
        attack = LinearAttack(looks=LOOKS)
        attack.fit(victim, own, stream("cpu", seed, 4))
        rng = stream("cpu", seed, 5)
        wires = [victim.query(part, rng) for part in truth.split(BATCH)]
        errors[name] = metrics.mse(torch.cat([attack.reconstruct(wire) for wire in wires]), truth)
    picture = Picture(coder, attack.weights, attack.constant, torch.cat(wires).flatten(1), tuple(truth.shape[1:]))
    example = coder.encode(_coded(model)(truth[:3], stream("cpu", seed, 5)))
    return Leak(
        len(attacked),
        bootstrap_ci(errors["float32"], least=0.0),
        bootstrap_ci(errors["coded"], least=0.0),
        paired_difference(errors["coded"], errors["float32"]),
        onnx_bytes(picture, (example,), ["wire"], ["image"]),
    )


def _view(model: SplitModel, coder: Coder | None) -> SplitModel:
    """Return the model whose wire are the numbers that the cloud reads."""
    about: dict[str, Any] = {"mean": model.mean.tolist(), "std": model.std.tolist(), "layout": "channels_first"}
    return SplitModel(model.encoder, nn.Identity(), defense=Numbers(model, coder), **about).eval()


def _coded(model: SplitModel) -> Callable[[Tensor, torch.Generator], Tensor]:
    return _view(model, None).encode
