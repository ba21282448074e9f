"""Before a bundle is written: the two ONNX files against PyTorch, on real images and with the same draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Split
from ..defenses._codec import Coder, Grid
from ..errors import UserError
from ..statistics.intervals import Interval, binomial_ci, paired_hits
from .draws import Draw
from .graphs import CloudGraph, DeviceGraph, Session
from .quantized import Cost

BATCH = 50
SHARE = 1e-4
"""Largest share of codes that may differ, by one step: numbers half-way between two values of the grid."""
CLOSE = 1e-4
"""Largest difference of two logits, relative to the largest."""
BATCHES = (1, 2, 17)


@dataclass(frozen=True)
class Pair:
    """The graphs of PyTorch and the sessions of the ONNX files that were made of them.

    Attributes:
        device, cloud: graphs in PyTorch.
        encoder, tail: the same as ONNX.
        draws: inputs of the device's graph.
        served: the tail that is served, where that is not ``tail`` but its int8 form.
        calibrated: number of images from which that was made.
    """

    device: DeviceGraph
    cloud: CloudGraph
    encoder: Session
    tail: Session
    draws: Sequence[Draw]
    served: Session | None = None
    calibrated: int = 0

    @property
    def coder(self) -> Coder:
        """Return the coder of both sides."""
        return self.device.coder

    def numbers(self, images: int, rng: torch.Generator) -> list[Tensor]:
        """Return numbers for every draw.

        Args:
            images: number of images.
            rng: where they are drawn from.
        """
        return [draw.sample(images, rng) for draw in self.draws]

    def encoded(self, image: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        """Return the wire that the ONNX file makes.

        Args:
            image: uint8 (B, H, W, C).
            numbers: of every draw, for these images.
        """
        named = {draw.name: one for draw, one in zip(self.draws, numbers, strict=True)}
        return self.encoder({"image": image, **named})


@dataclass(frozen=True)
class Comparison:
    """The bundle and PyTorch on the same images and draws.

    Attributes:
        images: number of images.
        accuracy_torch: of PyTorch, with the wire as float32 numbers.
        accuracy_bundle: of the ONNX files, with the coded wire.
        difference: bundle − PyTorch, paired.
        codes_differ: share of the numbers on the wire that differ.
        int8: what the int8 tail costs; None: the tail is in float32.
    """

    images: int
    accuracy_torch: Interval
    accuracy_bundle: Interval
    difference: Interval
    codes_differ: float
    int8: Cost | None = None


@torch.no_grad()
def compare(pair: Pair, images: Split, rng: torch.Generator) -> Comparison:
    """Hold the ONNX files against PyTorch, and score both.

    Args:
        pair: graphs and sessions.
        images: test images.
        rng: where the draws come from.

    Raises:
        UserError: more codes differ than ties explain, or logits do; an image's wire depends on those beside it; the
            draws change nothing.
    """
    check_batches(pair, as_input(images.images[: max(BATCHES)]), rng)
    differ, values = 0, 0
    before, plain, after = [], [], []
    for part in images.images.split(BATCH):
        image, numbers = as_input(part), pair.numbers(len(part), rng)
        sent = pair.device.replayed(part.float() / 255, numbers)
        expected, wire = pair.coder.encode(sent), pair.encoded(image, numbers)
        differ += differing(pair.coder, wire, expected)
        values += sent.numel()
        logits = pair.tail({"wire": wire})
        check_logits(logits, pair.cloud(wire))
        before.append(pair.cloud.receive(sent).argmax(1))
        plain.append(logits.argmax(1))
        after.append(plain[-1] if pair.served is None else pair.served({"wire": wire}).argmax(1))
    check_share(differ, values)
    cost = Cost.of(pair.calibrated, torch.cat(plain), torch.cat(after), images.labels) if pair.served else None
    right_torch, right_bundle = torch.cat(before) == images.labels, torch.cat(after) == images.labels
    return Comparison(
        len(images),
        binomial_ci(int(right_torch.sum()), len(images)),
        binomial_ci(int(right_bundle.sum()), len(images)),
        paired_hits(right_bundle, right_torch),
        differ / values,
        cost,
    )


def check_batches(pair: Pair, image: Tensor, rng: torch.Generator) -> None:
    """Refuse graphs that mix images, and a device's whose wire does not change with the draws.

    Args:
        pair: graphs and sessions.
        image: up to 17 images, uint8 (B, H, W, C).
        rng: where the draws come from.

    Raises:
        UserError: one of these.
    """
    numbers = pair.numbers(len(image), rng)
    alone = torch.cat([pair.encoded(image[i : i + 1], [n[i : i + 1] for n in numbers]) for i in range(len(image))])
    for size in BATCHES:
        together = pair.encoded(image[:size], [n[:size] for n in numbers])
        check_share(differing(pair.coder, together, alone[:size]), alone.numel(), f"in a batch of {size} from alone")
    for tail in filter(None, (pair.tail, pair.served)):
        rows = [tail({"wire": alone[i : i + 1]}) for i in range(len(alone))]
        check_logits(tail({"wire": alone}), torch.cat(rows), "in a batch from alone")  # the server batches strangers
    if pair.draws and torch.equal(alone, pair.encoded(image, pair.numbers(len(image), rng))):
        raise UserError("the exported wire is the same for any draws: the noise is smaller than a step of the codec")


def check_share(differ: int, values: int, where: str = "from PyTorch's") -> None:
    """Refuse more differing codes than ties between two values of the grid explain.

    Args:
        differ: number of codes that differ.
        values: number of codes.
        where: how they were made, for the message.

    Raises:
        UserError: more than one in 10,000, and more than one.
    """
    if differ > max(1, SHARE * values):
        raise UserError(f"the exported wire differs {where} in {differ:,} of {values:,} numbers; expected ties alone")


def check_logits(found: Tensor, expected: Tensor, where: str = "from PyTorch") -> None:
    """Refuse logits that differ.

    Args:
        found: of the ONNX file, (B, classes).
        expected: of PyTorch.
        where: how they were made, for the message.

    Raises:
        UserError: they differ by more than 10⁻⁴ of the largest, or of 1.
    """
    scale = max(1.0, float(expected.abs().max()))
    apart = float((found - expected).abs().max())
    if not apart <= CLOSE * scale:
        raise UserError(f"the exported tail answers {apart:.2g} off {where}; expected at most {CLOSE * scale:.2g}")


def differing(coder: Coder, found: Tensor, expected: Tensor) -> int:
    """Return in how many numbers two wires differ.

    Args:
        coder: of both.
        found: one wire, (B, n).
        expected: the other.

    Raises:
        UserError: codes that differ by more than one step.
    """
    if isinstance(coder, Grid):
        apart = (coder.unpacked(found) - coder.unpacked(expected)).abs()
        if float(apart.max()) > 1:
            raise UserError(f"the exported wire is {float(apart.max()):.0f} steps off; expected one at most")
        return int((apart > 0).sum())
    one, other = coder.decode(found), coder.decode(expected)
    relative = 2e-3 if coder.codec == "float16" else CLOSE
    return int((~torch.isclose(one, other, rtol=relative, atol=CLOSE * float(other.abs().max()))).sum())


def as_input(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) as the device's graph takes them, (B, H, W, C).

    Args:
        images: uint8.
    """
    return images.permute(0, 2, 3, 1).contiguous()
