"""Attacks tried for two steps of each of their loops, and how long the whole of them will take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import config
from ..attacks.base import BATCH
from ..data import ImageSet
from ..runs import Run
from ..runtime import Budget, OptimizationLoop, Runtime
from .evaluate import reconstruct
from .interception import hold_out
from .stage import Stage, ThreatModel, set_up


@dataclass(frozen=True)
class Tried:
    """Two steps of every loop of an attack: of its fit, and of its answer to one batch of wires.

    Attributes:
        fit: loops of the fit.
        answer: loops of the answer.
        fit_seconds: what the fit took.
        answer_seconds: what the answer took.
    """

    fit: Sequence[OptimizationLoop]
    answer: Sequence[OptimizationLoop]
    fit_seconds: float
    answer_seconds: float

    def seconds(self, batches: int, fewer: Tried | None = None, times: float = 1.0) -> float:
        """Return the seconds that the whole attack will take.

        Args:
            batches: of wires that it answers.
            fewer: the same attack tried with half of the attacker's images, which tells what grows with their number.
            times: how many times more images the attacker has than were tried.
        """
        fit = self.fit_seconds - sum(loop.seconds for loop in self.fit)
        others = fewer.fit if fewer and len(fewer.fit) == len(self.fit) else self.fit
        fit = times * fit + sum(_grown(*pair, times) for pair in zip(self.fit, others, strict=True))
        answer = self.answer_seconds + sum(loop.full_seconds() - loop.seconds for loop in self.answer)
        return fit + batches * answer


def two_steps(stage: Stage) -> Tried:
    """Take two steps of every loop of an attack; nothing is written.

    Args:
        stage: attack and what it sees.
    """
    test, runtime = stage.given.attacker_test, Runtime(budget=Budget(steps=2))
    stage.attack.fit(stage.victim.of(stage.attack), stage.given.attacker_train, stage.rng, runtime)
    fitted, seconds = len(runtime.loops), runtime.seconds
    reconstruct(stage.attack, stage.tap, test.subset(torch.arange(min(BATCH, len(test)))), runtime)
    return Tried(runtime.loops[:fitted], runtime.loops[fitted:], seconds, runtime.seconds - seconds)


def rehearse(run: Run, spec: config.Spec, images: ImageSet, **threat_model: Any) -> dict[str, Any]:
    """Take two steps of every loop of an attack, on its real images; nothing is written.

    Args:
        run: trained model in its folder.
        spec: name and settings of the attack.
        images: image set of the run.
        threat_model: fields of `ThreatModel`.

    Returns:
        attack, protocol and images as in a summary; ``needs``; ``loops``: [name, steps]; ``seconds``:
        an estimate of the whole attack, from the two steps.
    """
    stage = set_up(run, spec, images, ThreatModel(**threat_model))
    tried = two_steps(stage)
    held, _ = hold_out(stage.given.attacker_train, run.settings.seed)
    return {
        **stage.identity(),
        "needs": sorted(access.value for access in stage.attack.needs),
        "loops": [[loop.name, loop.wanted] for loop in (*tried.fit, *tried.answer)],
        "seconds": tried.seconds(math.ceil((len(held) + len(stage.given.attacker_test)) / BATCH)),
    }


def _grown(few: OptimizationLoop, fewer: OptimizationLoop, times: float) -> float:
    """Return the seconds of a whole loop whose attacker has ``times`` more images than that of ``few``.

    The steps of an epoch grow with the number of images, fixed numbers of steps do not; what a round costs beside its
    steps is spent on the images that the attacker holds out, which grow too.
    """
    if not few.done:
        return 0.0
    steps = few.wanted * (times if few.wanted > fewer.wanted else 1.0)
    rounds = few.rounds * (times if few.rounds > fewer.rounds else 1.0)
    beside = (few.seconds - few.step_seconds) / max(1, math.ceil(few.done / few.per_round))
    return steps * few.step_seconds / few.done + rounds * beside * times
