"""An attack on a finished run, scored image by image and left in the run folder."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import config, metrics, reliability
from .attacks.base import BATCH, Attack, Progress, Victim
from .data import Access, ImageSet, Protocol, Split, protocol, to_float
from .data.protocol import divide
from .errors import UserError
from .files import write_json, write_text
from .report.images import image_grid_png
from .runs import Run, environment

SHOWN = 10
"""Images in the picture: the first of the attacked images, by index and not by beauty."""
PSNR_LIMIT = 100.0
"""Decibels at which an image counts as exact: infinity has no mean and no JSON."""
METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": metrics.mse,
    "psnr": lambda x, y: metrics.psnr(x, y).clamp(max=PSNR_LIMIT),
    "ssim": metrics.ssim,
}


@dataclass(frozen=True)
class Outcome:
    """What an attack achieved.

    ``summary`` is what summary.json holds; ``values`` each metric per image, (N,); ``originals`` and
    ``reconstructions`` uint8 (N, 3, S, S), in the same order.
    """

    summary: dict[str, Any]
    values: dict[str, Tensor]
    originals: Tensor
    reconstructions: Tensor


def attack_run(
    run: Run, spec: config.Spec, images: ImageSet, *, label: str | None = None, **options: Any
) -> dict[str, Any]:
    """`evaluate`, and leave ``RUN/attacks/LABEL/`` with summary.json, per_image.csv and reconstructions.png.

    Args:
        label: name of the folder; the attack's by default.
    """
    outcome = evaluate(run, spec, images, **options)
    save(outcome, run, label or spec.name)
    return outcome.summary


def save(outcome: Outcome, run: Run, name: str) -> None:
    """Write the three files of an attack; the summary last, so that its presence says the attack is done."""
    folder = run.path / "attacks" / name
    rows = [("original", outcome.originals[:SHOWN]), (name, outcome.reconstructions[:SHOWN])]
    image_grid_png(rows, folder / "reconstructions.png")
    write_text(folder / "per_image.csv", _csv(outcome.values))
    write_json(folder / "summary.json", outcome.summary)


def evaluate(
    run: Run,
    spec: config.Spec,
    images: ImageSet,
    *,
    protocol_name: str = "inference_time",
    attacker_size: int | None = None,
    attacked: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Outcome:
    """Fit the attack ``spec`` on what the protocol gives the attacker and score it image by image.

    Args:
        attacker_size: train the attack on only this many of its images, class-balanced.
        attacked: reconstruct only this many images, class-balanced.
        seed: of the attack's own randomness; which images it gets depends on the run's seed only.

    Raises:
        UserError: unknown names, sizes beyond what there is, access that the protocol does not grant.
    """
    spec = spec.resolve("attacks")
    attack: Attack = spec.make("attacks")
    given = parts(run, images, protocol_name, attacker_size, attacked)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = run.model(images).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    victim = Victim(model, given.grants)
    victim.require(*attack.needs)
    rng = torch.Generator(device).manual_seed(run.settings.seed * 1_000_003 + seed)
    start = time.perf_counter()
    attack.fit(victim, given.attacker_train, rng, progress)
    found = reconstruct(attack, victim, given.attacker_test, rng)
    seconds = time.perf_counter() - start
    truth = to_float(given.attacker_test.images)
    baseline = mean_image_error(given.attacker_train, given.attacker_test)
    values = {name: metric(found, truth) for name, metric in METRICS.items()}
    flags = reliability.no_better_than_the_mean(values["mse"], baseline)
    flags += reliability.of_model(model, given.attacker_test)
    flags += reliability.of_queries(model, victim, attack.needs, given.attacker_train)
    summary = {
        "attack": spec.model_dump(),
        "protocol": given.name,
        **{name: metrics.bootstrap_ci(value, _fixed()).as_dict() for name, value in values.items()},
        "baseline_mse": baseline,
        "flags": flags,
        "seconds": seconds,
        "seed": seed,
        "images": {"attacker": len(given.attacker_train), "attacked": len(given.attacker_test)},
        "curve": attack.curve(),
        "environment": environment(),
    }
    return Outcome(summary, values, given.attacker_test.images, torch.round(found * 255).to(torch.uint8))


@torch.no_grad()
def reconstruct(attack: Attack, victim: Victim, split: Split, rng: torch.Generator) -> Tensor:
    """Reconstructions (N, 3, S, S) on the CPU: each image crosses the wire once."""
    found = []
    for images, labels in zip(split.images.split(BATCH), split.labels.split(BATCH), strict=True):
        wire = victim.query(to_float(images.to(victim.device)), rng)
        known = labels.to(victim.device) if Access.LABELS in attack.needs else None
        found.append(attack.reconstruct(wire, known).cpu())
    return torch.cat(found)


def mean_image_error(train: Split, test: Split) -> float:
    """MSE of answering the mean of ``train`` for every image of ``test``: what an attacker knows without the wire."""
    total = torch.stack([part.double().sum(0) for part in train.images.split(4096)]).sum(0)
    mean = (total / len(train) / 255).float()
    truth = to_float(test.images)
    return float(metrics.mse(mean.expand_as(truth), truth).mean())


def parts(run: Run, images: ImageSet, name: str, attacker_size: int | None, attacked: int | None) -> Protocol:
    """Who has which images when the run is attacked under protocol ``name``; sizes as in `evaluate`."""
    trained = run.settings.protocol
    if name != trained and "auxiliary" in (name, trained):
        raise UserError(
            f"the run was trained under protocol {trained}, so its attacker cannot be {name}'s: "
            f"train it with --protocol {name}, or attack it with --protocol {trained}"
        )
    if attacked is not None and attacked < 2:
        raise UserError(f"attacked is {attacked}; expected at least 2 images: one has no confidence interval")
    given = protocol(name, images, seed=run.settings.seed, attacker_test_size=attacked)
    if attacker_size is None:
        return given
    if not 2 <= attacker_size <= len(given.attacker_train):
        raise UserError(f"attacker size {attacker_size}: protocol {name} has {len(given.attacker_train)} images for it")
    fewer, _ = divide(given.attacker_train, attacker_size, torch.Generator().manual_seed(run.settings.seed))
    return Protocol(**{**vars(given), "attacker_train": fewer})


def _csv(values: dict[str, Tensor]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *values])
    columns = [value.tolist() for value in values.values()]
    writer.writerows(
        [i, *(f"{v:.8g}" if math.isfinite(v) else v for v in row)] for i, row in enumerate(zip(*columns, strict=True))
    )
    return text.getvalue()


def _fixed() -> torch.Generator:
    # The interval of a figure must not change when it is printed again.
    return torch.Generator().manual_seed(0)
