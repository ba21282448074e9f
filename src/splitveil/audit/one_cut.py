"""The measures of one cut: how much noise accuracy allows there, and what that noise leaves to attackers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .. import metrics
from ..attacks.base import BATCH, Victim, check_memory
from ..attacks.decoder import DecoderAttack
from ..bounds.base import BoundError, Channel, Estimate
from ..bounds.gaussian_channel import GaussianChannel
from ..bounds.linkage import GALLERIES, Linkage
from ..data import Protocol, Split, to_float
from ..errors import UserError
from ..evaluation.floors import MOST_WEIGHTS, linear_error
from ..evaluation.interception import Interception
from ..memory import capacity
from ..model import SplitModel
from ..randomness import stream
from ..recipe import ATTACK, TEST
from ..statistics.intervals import binomial_ci, bootstrap_ci
from ..training.loop import predict
from .equal_noise import STEPS, Search
from .recut import Cut

DECODER = "conv_normN2C32"
"""Network of the short decoder: two convolutions of 32 channels before the upsampling."""
GALLERY = 1000
"""Most candidates among which the right photo is looked for."""
NUMBERS = 40
"""Bytes of memory for each value of a wire that is bounded: features, law and draws, in double precision."""
UNITS = STEPS + 3
"""Steps of one cut that are shown."""


@dataclass(frozen=True)
class Ground:
    """What is the same at every cut.

    Attributes:
        search: of the noise.
        least: accuracy on the validation images that must be reached, in [0, 1].
        given: images of both sides.
        tested: test images for accuracy, linkage and leakage.
        seed: of the run.
        epochs: of the short decoder.
    """

    search: Search
    least: float
    given: Protocol
    tested: Split
    seed: int
    epochs: int


def measured(cut: Cut, model: SplitModel, ground: Ground, show: Callable[[str], None]) -> dict[str, Any]:
    """Return everything that is measured at a cut, for JSON; what cannot be is None and ``skipped`` says why.

    Args:
        cut: where.
        model: cut there, trained, without a defense.
        ground: what is the same at every cut.
        show: called after each of `UNITS` steps, with what was done.
    """
    start = time.perf_counter()
    noisy, tried = ground.search.run(model, ground.least, lambda: show("noise"))
    row: dict[str, Any] = {
        **asdict(cut),
        "wire": list(cut.wire),
        "bytes": 4 * math.prod(cut.wire),
        "tried": [asdict(one) for one in tried],
        **dict.fromkeys(("sigma", "accuracy_val", "accuracy", "linear", "decoder", "linkage", "leakage")),
        "skipped": {},
    }
    if noisy is None:
        row["skipped"]["noise"] = "already the least noise that was tried costs more accuracy than is allowed"
        return row | {"seconds": time.perf_counter() - start}
    chosen = max((one for one in tried if one.accepted), key=lambda one: one.sigma)
    predicted = predict(noisy, ground.tested.images, stream(noisy.mean.device, ground.seed, TEST, 0, 0))
    hits = int((predicted == ground.tested.labels.cpu()).sum())
    row |= {
        "sigma": chosen.sigma,
        "accuracy_val": chosen.accuracy,
        "accuracy": binomial_ci(hits, len(predicted)).as_dict(),
    }
    skipped = row["skipped"]
    row["leakage"], row["linkage"] = bounded(noisy, ground, skipped)
    show("bounds")
    victim = Victim(noisy, ground.given.grants)
    tap = Interception(victim, ground.seed, ground.given.name)
    wires = torch.cat([tap.wires(part).cpu() for part in ground.given.attacker_test.images.split(BATCH)])
    row["linear"] = linear(victim, wires, ground, skipped)
    show("linear")
    row["decoder"] = decoded(victim, wires, ground, skipped)
    show("decoder")
    return row | {"seconds": time.perf_counter() - start}


def bounded(model: SplitModel, ground: Ground, skipped: dict[str, str]) -> tuple[Any, Any]:
    """Return the held-out upper bound on the leakage, and linkage in the largest gallery, for JSON.

    Args:
        model: with its noise.
        ground: what is the same at every cut.
        skipped: gets the reason of what is None.
    """
    rng = stream(model.mean.device, ground.seed, ATTACK, 1)
    values, has = math.prod(model.wire_shape), capacity(model.mean.device)
    needed = NUMBERS * values * len(ground.tested)
    if has is not None and needed > 0.5 * has:
        why = f"{len(ground.tested)} wires of {values:,} values would take {needed / 2**30:.0f} GiB; test fewer images"
        skipped.update(leakage=why, linkage=why)
        return None, None
    channel = Channel.of(model, ground.tested, torch.Generator().manual_seed(ground.seed))
    found: dict[str, Any] = {"leakage": None, "linkage": None}
    try:
        (leakage,) = GaussianChannel().estimate(channel, rng)
        found["leakage"] = leakage.as_dict()
    except BoundError as error:
        skipped["leakage"] = str(error)
    try:
        found["linkage"] = _in_gallery(Linkage().estimate(channel, rng))
    except BoundError as error:
        skipped["linkage"] = str(error)
    return found["leakage"], found["linkage"]


def _in_gallery(estimates: list[Estimate]) -> dict[str, Any]:
    chances = [one for one in estimates if one.quantity == "success"]  # of the first galleries, as many as there are
    size, found = [pair for pair in zip(GALLERIES, chances, strict=False) if pair[0] <= GALLERY][-1]
    return {"gallery": size, "chance": 1 / size, **found.as_dict()}


def linear(victim: Victim, wires: Tensor, ground: Ground, skipped: dict[str, str]) -> dict[str, Any] | None:
    """Return the mean squared error of a quick linear attack with its interval, for JSON.

    Args:
        victim: the attacker's view.
        wires: of the attacked images, (N, ...).
        ground: what is the same at every cut.
        skipped: gets the reason where there is none.
    """
    own, attacked = ground.given.attacker_train, ground.given.attacker_test
    error = linear_error(victim, own, attacked, wires, ground.seed)
    if error is None:
        weights = wires[0].numel() * attacked.images[0].numel()
        skipped["linear"] = (
            f"a linear map from the wire to the pixels has {weights:,} weights; at most {MOST_WEIGHTS:,} are fitted"
            if weights > MOST_WEIGHTS
            else f"the attacker has {len(own)} images; a linear attack needs 5"
        )
        return None
    return bootstrap_ci(error, least=0.0).as_dict()


def decoded(victim: Victim, wires: Tensor, ground: Ground, skipped: dict[str, str]) -> dict[str, Any] | None:
    """Return the mean squared error of a decoder that was trained briefly, with its interval, for JSON.

    Args:
        victim: the attacker's view.
        wires: of the attacked images, (N, ...).
        ground: what is the same at every cut.
        skipped: gets the reason where there is none.
    """
    attack, attacked = DecoderAttack(epochs=ground.epochs, network=DECODER), ground.given.attacker_test
    own = ground.given.attacker_train
    try:
        attack.check(tuple(wires.shape[1:]), min(attacked.shape[1:]))
        check_memory("decoder", attack, victim, own, len(attacked))
        attack.fit(victim.again(), own, stream(victim.device, ground.seed, ATTACK, 0))
    except UserError as error:  # a wire or a number of images that it cannot take
        skipped["decoder"] = str(error)
        return None
    found = torch.cat([attack.reconstruct(part.to(victim.device)).cpu() for part in wires.split(BATCH)])
    return bootstrap_ci(metrics.mse(found, to_float(attacked.images)), least=0.0).as_dict()
