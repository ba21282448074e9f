"""The search for the most noise that a loss of accuracy allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Split, to_float
from ..defenses._correlated import Correlated
from ..defenses.base import Defense, Stack
from ..defenses.codec import Codec
from ..defenses.gaussian import Gaussian
from ..errors import CostlyError, DivergedError, UserError
from ..evaluation.tail import retrained
from ..model import SplitModel
from ..nn.copies import copy_of
from ..randomness import stream
from ..recipe import TAIL, VALIDATE
from ..training.loop import correct
from .ground import Ground, Noise, ground

RECIPE = {"optimizer": "sgd", "lr": 0.003, "batch_size": 128, "label_smoothing": 0.1, "network_dropout": False}
"""Retraining of a tail that is trained already: higher rates cost more accuracy than they bring."""
SHORT: dict[str, Any] = {**RECIPE, "epochs": 1}
"""The same at each step of the search, on at most `SHORT_IMAGES`."""
LONG: dict[str, Any] = {**RECIPE, "epochs": 1}
"""The same at the end, on all images."""
SHORT_IMAGES, GATHERED = 10_000, 10_000
LEAST_LOSS, MOST_LOSS = 0.002, 5.0
"""The second-order losses of the task in nats between which is searched."""
FAINT_LOSS = 1e-8
"""The least loss of a second search, where all of the first one cost too much. A network that is sure of images that
it has learned has next to no Fisher information there: it is predicted to lose far less than it does on others."""
STEPS = 6
"""Bisections of each search: they tell losses apart that differ by an eighth, in a second one by a fifth."""
LEAST_NOISE = 0.01
"""Least noise in every direction of a model without any, in units of the feature's deviation."""
FAINTEST_NOISE = 1e-5
"""Least noise of a model that has some, in the same units: beside less, the rest would drown in rounding."""
DRAWS = 2
"""Draws of noise for each validation image."""


@dataclass(frozen=True)
class Step:
    """One strength of the noise that was tried.

    Attributes:
        mu: μ of the defense.
        loss: the task's loss in nats, to second order, ½ Σ f_i n_i: what the search varies.
        sent: k, the numbers on the wire.
        accuracy: on the validation images, with the tail retrained for this noise, in [0, 1].
        linear_error: of a linear attacker, per pixel (see `Noise`).
        seconds: time of the retraining.
        accepted: whether the accuracy is within the allowed loss.
        whole: whether the tail was trained on all images, as it is at the end.
    """

    mu: float
    loss: float
    sent: int
    accuracy: float
    linear_error: float
    seconds: float
    accepted: bool
    whole: bool = False


@dataclass
class Search:
    """The state of a search, from which a stopped one goes on.

    Attributes:
        before: validation accuracy of the model that is hardened.
        mean_image: error of always answering the mean image, per pixel.
        steps: what was tried, in order; at the end once more with the tail trained on all images.
    """

    before: float
    mean_image: float
    steps: list[Step] = field(default_factory=list)

    @property
    def chosen(self) -> Step | None:
        """Return the accepted step of the most noise, with the tail of all images where that was good enough."""
        accepted = [step for step in self.steps if step.accepted]
        return max(accepted, key=lambda step: (step.loss, step.whole), default=None)

    def as_dict(self) -> dict[str, Any]:
        """Return the state for JSON."""
        return asdict(self) | {"chosen": self.steps.index(self.chosen) if self.chosen else None}


@dataclass(frozen=True)
class Hardening:
    """What a model is hardened with and how far.

    Attributes:
        model: trained; it stays as it is.
        train, validate: images for the statistics and the tail, and those on which accuracy is compared.
        max_drop: allowed loss of accuracy on the validation images, in points.
        seed: of all that is drawn.
        augmentation: arguments of `splitveil.data.augment` for the tail's images.
        bf16: compute the tail's training under autocast to bfloat16.
    """

    model: SplitModel
    train: Split
    validate: Split
    max_drop: float
    seed: int = 0
    augmentation: dict[str, Any] = field(default_factory=dict)
    bf16: bool = False

    def run(
        self,
        search: Search | None = None,
        tail: nn.Module | None = None,
        keep: Callable[[Search, nn.Module], None] = lambda *_: None,
        show: Callable[[int, int], None] = lambda *_: None,
    ) -> tuple[SplitModel, Search]:
        """Return the hardened model and the search.

        Args:
            search: state of a search that was stopped; None: begin.
            tail: tail of its last accepted step.
            keep: called after each step with the state and the tail of the last accepted step.
            show: called after each step with the steps done and their number.

        Raises:
            CostlyError: no noise at all fits into the allowed loss.
            UserError: too few images.
        """
        known, mean_image = self.known()
        if search is None:
            search = Search(self._accuracy(self.model), mean_image)
        tail = self.model.tail if tail is None else tail
        short = _some(self.train, SHORT_IMAGES, self.seed)
        while len(search.steps) < planned(search.steps):
            low, high = bracket(search.steps)
            step, trained = self.step(math.sqrt(low * high), known, search, tail, short, SHORT)
            tail = trained.tail if step.accepted else tail
            search.steps.append(step)
            keep(search, tail)
            show(len(search.steps), planned(search.steps) + 1)
        if (best := search.chosen) is None:
            raise CostlyError(
                f"already the least noise costs more than {self.max_drop} points of accuracy "
                f"({100 * search.before:.1f} % before); allow more, or use more training images"
            )
        trained = self._trained_on_all(best.loss, known, search, tail)
        show(planned(search.steps) + 1, planned(search.steps) + 1)
        if trained is None:  # more training is not always better: the tail that was good enough stays
            trained = with_tail(put_on(self.model, self._noise(best.loss, known).defense), tail)
        return trained.eval(), search

    def _trained_on_all(self, loss: float, known: Ground, search: Search, tail: nn.Module) -> SplitModel | None:
        """Return the model with its tail trained on all images; None where that costs too much accuracy."""
        try:
            step, trained = self.step(loss, known, search, tail, self.train, LONG)
        except DivergedError:
            return None
        search.steps.append(step)
        return trained if step.accepted else None

    def known(self) -> tuple[Ground, float]:
        """Return what the noise follows from, and the error of always answering the mean image, per pixel."""
        some, mean_image = _some(self.train, GATHERED, self.seed), mean_image_error(self.train.images)
        rng, before = stream(self.model.mean.device, self.seed, TAIL, 1), Stack(*staying(self.model.defense))
        return ground(self.model, some.images, rng, before), mean_image

    def step(
        self,
        loss: float,
        known: Ground,
        search: Search,
        tail: nn.Module,
        images: Split,
        recipe: dict[str, Any],
    ) -> tuple[Step, SplitModel]:
        """Return what the noise that costs the task ``loss`` nats comes to, and the model with it.

        In the search the tail is left as it was where its training costs more accuracy than it brings.

        Args:
            loss: the task's loss, to second order.
            known: what the noise follows from.
            search: in which it is a step.
            tail: where the training of the tail begins.
            images: that the tail learns from.
            recipe: of its training.
        """
        start, noise = time.perf_counter(), self._noise(loss, known)
        model = put_on(self.model, noise.defense)
        turned = {"augmentation": self.augmentation, "bf16": self.bf16, "recipe": recipe}
        if recipe is SHORT:
            trained, accuracy = adapted(model, tail, images, self.seed, self._accuracy, **turned)
        else:
            trained = retrained(model, tail, images, self.seed, **turned)
            accuracy = self._accuracy(trained)
        accepted = accuracy >= search.before - self.max_drop / 100
        tried = Step(
            noise.setting,
            loss,
            noise.sent,
            accuracy,
            noise.linear_error,
            time.perf_counter() - start,
            accepted,
            whole=recipe is LONG,
        )
        return tried, trained

    def _noise(self, loss: float, known: Ground) -> Noise:
        """Return the noise that costs the task ``loss`` nats to second order."""
        return known.noise(price(known, loss), self._sigma(known))

    def _sigma(self, known: Ground) -> float:
        """Return the deviation of the noise that is replaced; where there is none, a part of the signal's."""
        given = self.model.defense
        parts = given if isinstance(given, Stack) else [given]
        variance = sum(part.sigma**2 for part in parts if isinstance(part, Gaussian))
        return max(variance**0.5, FAINTEST_NOISE * known.deviation) if variance else LEAST_NOISE * known.deviation

    def _accuracy(self, model: SplitModel) -> float:
        return noisy_accuracy(model, self.validate, self.seed)


def noisy_accuracy(model: SplitModel, images: Split, seed: int) -> float:
    """Return the accuracy of a model over `DRAWS` draws of its noise for each image, in [0, 1].

    Args:
        model: trained.
        images: images and their classes.
        seed: of the noise.
    """
    rngs = [stream(model.mean.device, seed, VALIDATE, draw) for draw in range(DRAWS)]
    return float(torch.cat([correct(model, images, rng) for rng in rngs]).double().mean())


def adapted(
    model: SplitModel, tail: nn.Module, images: Split, seed: int, score: Callable[[SplitModel], float], **turned: Any
) -> tuple[SplitModel, float]:
    """Return a model with the tail trained on its wire, or as it was where that is better; and its score.

    The rate of `RECIPE` suits most tails and ruins one whose features are large.

    Args:
        model: with its noise; it stays as it is.
        tail: where the training begins.
        images: that the tail learns from.
        seed: of the training.
        score: accuracy of a model, in [0, 1].
        turned: further arguments of `retrained`.
    """
    untouched = with_tail(model, tail)
    before = score(untouched)
    try:
        trained = retrained(model, tail, images, seed, **turned)
    except DivergedError:
        return untouched, before
    after = score(trained)
    return (trained, after) if after >= before else (untouched, before)


def with_tail(model: SplitModel, tail: nn.Module) -> SplitModel:
    """Return a copy of a model with a copy of another tail, in evaluation mode.

    Args:
        model: it stays as it is.
        tail: it stays as it is.
    """
    copied = copy_of(model)
    copied.tail = copy_of(tail)
    return copied.eval()


def planned(steps: list[Step]) -> int:
    """Return how many steps a search takes: a second one follows where all of the first one cost too much.

    Args:
        steps: what was tried so far.
    """
    first = [step for step in steps if not step.whole][:STEPS]
    return STEPS if len(first) < STEPS or any(step.accepted for step in first) else 2 * STEPS


def bracket(steps: list[Step]) -> tuple[float, float]:
    """Return the losses between which the next step lies: the largest accepted and the least refused.

    Args:
        steps: what was tried.

    >>> bracket([Step(1, 0.1, 5, 0.9, 0.02, 1.0, True), Step(0.1, 0.7, 5, 0.8, 0.03, 1.0, False)])
    (0.1, 0.7)
    """
    tried = [step for step in steps if not step.whole]
    least = LEAST_LOSS if planned(tried) == STEPS else FAINT_LOSS
    low = max((step.loss for step in tried if step.accepted), default=least)
    return low, min((step.loss for step in tried if not step.accepted), default=MOST_LOSS)


def mean_image_error(images: Tensor) -> float:
    """Return the mean squared error per pixel of always answering the mean image.

    Args:
        images: uint8 (N, C, S, S).

    >>> round(mean_image_error(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)), 6)
    0.25
    """
    total, square = torch.zeros(images[0].shape, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for part in images.split(1000):
        x = to_float(part.cpu()).double()
        total += x.sum(0)
        square += x.square().sum()
    return float(square / len(images) - (total / len(images)).square().sum()) / images[0].numel()


def price(known: Ground, loss: float) -> float:
    """Return μ whose noise costs the task ``loss`` nats to second order, by bisection on a logarithmic scale.

    Args:
        known: of the model.
        loss: ½ Σ f_i n_i, in nats.
    """
    low, high = -12.0, 6.0
    while known.loss(10**high) > loss:  # the noise is 0 at the latest where μ f_i exceeds all g_i ≤ 1
        high += 6
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if known.loss(10**middle) > loss else (low, middle)
    return 10 ** ((low + high) / 2)


def put_on(model: SplitModel, defense: Defense) -> SplitModel:
    """Return a copy of a model whose wire carries another noise in place of its Gaussian noise.

    `staying` says what becomes of its other defenses.

    Args:
        model: trained; it stays as it is.
        defense: the other noise.
    """
    copied = copy_of(model)
    copied.defense = Stack(*staying(copied.defense), defense.to(model.mean.device))
    return copied.eval()


def staying(defense: nn.Module | None) -> list[Defense]:
    """Return the defenses of a trained model that stay when its Gaussian noise is replaced.

    What else changes the wire stays before the water-filled noise, and what acts only in a training is left out.

    Args:
        defense: of the model; None: it has none.

    Raises:
        UserError: a defense that is none of splitveil's, or a model that is hardened already, or coded.
    """
    parts = list(defense) if isinstance(defense, Stack) else [defense] if isinstance(defense, Defense) else []
    if isinstance(defense, nn.Module) and not parts and not isinstance(defense, Stack):
        raise UserError(f"the wire of {type(defense).__name__} cannot be hardened; expected defenses of splitveil")
    kept = []
    for part in parts:
        if isinstance(part, Correlated):
            raise UserError("the model is hardened already; harden the one that it was made from")
        if isinstance(part, Codec):  # its grid is that of another wire, and it comes behind all noise
            raise UserError("the wire of this model is coded; harden the one that it was made from, then code that")
        # Other noise stays, Gaussian or not: a defense may promise more than its variance, as local_dp and cloak do.
        changes = type(part).on_wire is not Defense.on_wire and not isinstance(part, Gaussian)
        if changes or type(part).restructure_like is not Defense.restructure_like:
            kept.append(part)
    return kept


def _some(images: Split, count: int, seed: int) -> Split:
    rng = torch.Generator().manual_seed(seed)
    return images.subset(torch.randperm(len(images), generator=rng)[:count])
