"""The accuracy that a wire allows: a tail trained anew on it, by the same short recipe for every defense.

The accuracy of a run also says how far its training came. On one wire a jointly trained tail reached 49 % and one that
was trained on the finished encoder 61 %: a defense that is kinder to the optimizer then looks as if it cost less.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR

from ..data import ImageSet, Split, augment, protocol
from ..errors import DivergedError
from ..memory import placed
from ..model import SplitModel
from ..nn import fastconv
from ..nn.copies import copy_of
from ..randomness import seeded_layers, stream
from ..recipe import TAIL, TEST, WEIGHTS, batches, precision
from ..runs import Run, build_model
from ..statistics.intervals import binomial_ci
from ..storage import reading
from ..storage.claims import claimed
from ..storage.files import write_json, write_text
from ..training import pins
from ..training.loop import dropouts
from ..training.lost import answers_text, lost_answers
from ..training.trainer import Progress, predict

RECIPE: dict[str, Any] = {"epochs": 8, "batch_size": 128, "lr": 0.001}
"""Recipe of every retraining: Adam (Kingma and Ba 2015), one-cycle rate (Smith and Topin 2017), last epoch."""
ANSWERS = reading.ANSWERS["retrained_accuracy"]


def retrained(
    model: SplitModel,
    tail: nn.Module,
    images: Split,
    seed: int = 0,
    *,
    augmentation: dict[str, Any] | None = None,
    bf16: bool = False,
    recipe: dict[str, Any] = RECIPE,
    progress: Progress | None = None,
) -> SplitModel:
    """Return a copy of ``model`` with the tail ``tail``, trained on what the encoder and the defense put on the wire.

    Encoder and defense stay as they are, in evaluation mode; every batch draws new noise. A tail without weights, as
    behind the last layer of a network, has nothing to learn and is only copied.

    Args:
        model: the trained model.
        tail: z_wire -> logits, with the weights from which its training begins. It is copied.
        images: uint8 (N, C, S, S) and their classes.
        seed: of their order and augmentation, the noise and dropout.
        augmentation: arguments of `splitveil.data.augment`.
        bf16: compute under autocast to bfloat16.
        recipe: "epochs", "batch_size" and "lr"; "optimizer": "adam", or "sgd" with Nesterov's momentum and weight
            decay; "label_smoothing"; "network_dropout" False leaves the tail's dropout layers out.
        progress: called after each step, as that of a training.

    Raises:
        DivergedError: the loss is not finite.

    >>> images = Split(torch.zeros(8, 3, 8, 8, dtype=torch.uint8), torch.arange(8) % 2)
    >>> tail = nn.Sequential(nn.Flatten(), nn.Linear(72, 2))
    >>> retrained(SplitModel(nn.Conv2d(3, 2, 3), tail), tail, images)(torch.rand(5, 3, 8, 8)).shape
    torch.Size([5, 2])
    """
    device, copied = model.mean.device, _with_tail(model, tail, recipe)
    if not any(True for _ in copied.tail.parameters()):
        return copied.eval()
    images, rng = images.to(device), stream(device, seed, TAIL)
    plans = [batches(len(images), recipe["batch_size"], rng) for _ in range(recipe["epochs"])]
    optimizer, rate = _scheduled(copied.tail, recipe, steps=sum(map(len, plans)))
    smoothing = recipe.get("label_smoothing", 0.0)
    turned, show = augmentation or {}, progress or (lambda *_: None)
    with seeded_layers(stream("cpu", seed, TAIL)):  # dropout layers draw from torch's global generators
        for epoch, plan in enumerate(plans):
            total = torch.zeros((), device=device)
            for number, index in enumerate(plan):
                x = augment(images.images[index], rng, **turned).to(memory_format=torch.channels_last)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    logits = copied.tail(_encoded(copied, x, rng))
                loss = cross_entropy(logits.float(), images.labels[index], label_smoothing=smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                rate.step()
                total += loss.detach()
                show(epoch, epoch * len(plan) + number + 1, {})
            _check_finite(total)
    fastconv.restore(copied)
    return copied.eval()


def _check_finite(loss: Tensor) -> None:
    if not math.isfinite(float(loss)):
        raise DivergedError("retraining the tail: the loss is not finite; look for values on the wire that are not")


def retrain(run: Run, images: ImageSet, *, progress: Progress | None = None) -> dict[str, Any]:
    """Train the tail of ``run`` anew on its wire, add the accuracy to its summary.json and return that.

    The tail begins at the run's initial weights and learns from the run's training images, augmented as in the
    training. The test images are only scored, with the noise that scored the run; the answers are kept in `ANSWERS`.
    An accuracy by this recipe that the summary already has is kept, unless its answers are lost.

    Args:
        run: trained model in its folder.
        images: image set of the run.
        progress: called after each step, as that of a training.

    Raises:
        UserError: other images than those of the run, weights that are missing or damaged, or another process at it.
    """
    pins.check(run.summary, images, run.path)
    with claimed(run.path, "training"):
        if done(summary := Run.open(run.path).summary) and not lost_answers(run.path, summary):
            return summary
        start, settings = time.perf_counter(), run.settings
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        parts = protocol(settings.protocol, images, seed=settings.seed)
        found = retrained(
            placed(run.model(images), device),
            initial_tail(run, images),
            parts.defender_train,
            settings.seed,
            augmentation=settings.augmentation,
            bf16=precision(settings.precision, device) == "bf16-mixed",
            progress=progress,
        )
        predicted = predict(found, parts.utility_test.images, stream(device, settings.seed, TEST, 0, 0))
        summary |= _kept(run, parts.utility_test.labels.cpu(), predicted, time.perf_counter() - start)
        write_json(run.path / "summary.json", summary)
        return summary


def done(summary: dict[str, Any]) -> bool:
    """Return whether a summary has the accuracy of a tail that was retrained by this version's `RECIPE`.

    Args:
        summary: what summary.json of a run holds.
    """
    about = summary.get("retraining") or {}
    return summary.get("retrained_accuracy") is not None and {key: about.get(key) for key in RECIPE} == RECIPE


def initial_tail(run: Run, images: ImageSet) -> nn.Module:
    """Return the tail of a run with its weights before the training.

    Args:
        run: trained model in its folder.
        images: image set of the run.
    """
    with seeded_layers(stream("cpu", run.settings.seed, WEIGHTS)):  # as the training began
        return build_model(run.settings, images).tail


def _kept(run: Run, labels: Tensor, predicted: Tensor, seconds: float) -> dict[str, Any]:
    write_text(run.path / ANSWERS, answers_text(labels, predicted))
    accuracy = binomial_ci(int((predicted == labels).sum()), len(labels)).as_dict()
    return {"retrained_accuracy": accuracy, "retraining": {**RECIPE, "seconds": seconds}}


def _with_tail(model: SplitModel, tail: nn.Module, recipe: dict[str, Any]) -> SplitModel:
    """Return a copy of ``model`` with a copy of ``tail``, of which only the tail is in training."""
    device, copied = model.mean.device, copy_of(model)
    copied.tail = placed(copy_of(tail), device)
    if device.type == "cpu":
        fastconv.accelerate(copied)
    copied.eval().requires_grad_(False).tail.train().requires_grad_(True)
    if not recipe.get("network_dropout", True):
        for layer in dropouts(copied.tail):
            layer.eval()
    return copied


def _scheduled(tail: nn.Module, recipe: dict[str, Any], steps: int) -> tuple[torch.optim.Optimizer, OneCycleLR]:
    """Return the optimizer of a tail, with its rate over so many steps."""
    sgd, fused = recipe.get("optimizer") == "sgd", next(tail.parameters()).device.type == "cuda" or None
    if sgd:
        settings = {"lr": recipe["lr"], "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "fused": fused}
        optimizer: torch.optim.Optimizer = torch.optim.SGD(tail.parameters(), **settings)
    else:
        optimizer = torch.optim.Adam(tail.parameters(), lr=recipe["lr"], fused=fused)
    return optimizer, OneCycleLR(optimizer, recipe["lr"], total_steps=steps, cycle_momentum=not sgd)


@torch.no_grad()
def _encoded(model: SplitModel, x: Tensor, rng: torch.Generator) -> Tensor:
    return model.encode(x, rng)
