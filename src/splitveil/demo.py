"""The demo: digits, noise alone against noise with CEM, the same attack on both, one page."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import bars, config, data, metrics, reading, runs
from .data import ImageSet
from .errors import UserError
from .evaluation import Outcome, evaluate, save
from .files import write_text
from .report.demo import DemoModel, DemoResult, demo_page
from .training import correct, fit

SETTINGS: dict[str, Any] = {"data": "digits", "arch": "resnet20_sgm", "cut": 5, "bottleneck": 2, "epochs": 12}
NOISE = "gaussian:0.05"
MODELS = {
    # cem:0 trains nothing; it measures the leakage, so that the two curves can be compared.
    "noise": ("Gaussian noise alone", (NOISE, "cem:0")),
    "cem": ("Gaussian noise and CEM", (NOISE, "cem:weight=8,schedule=ramp")),
}
ATTACK = config.Spec(name="decoder", parameters={"epochs": 15, "network": "res_normN2C32", "batch_size": 64})
PROTOCOL = "train_time"
MARKER = ".splitveil-demo"
SHOWN = 10


def run_demo(out: Path, *, seed: int = 0, bar: Any = None) -> Path:
    """Train and attack both models under ``out`` and write ``out/report.html``; returns its path.

    Args:
        bar: a rich Progress, or None.

    Raises:
        UserError: ``out`` exists and is not an earlier demo.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).exists())):
        raise UserError(f"{out} exists and holds no earlier demo; choose an empty or new folder for --out")
    write_text(out / MARKER, "made by splitveil demo; another demo may replace what is here\n")
    images = data.load("digits")
    trained = {name: _one(out / name, images, *MODELS[name], seed, bar) for name in MODELS}
    noise, cem = trained["noise"], trained["cem"]
    result = DemoResult(
        models=[_shown(title, trained[name]) for name, (title, _) in MODELS.items()],
        originals=noise.outcome.originals[:SHOWN].numpy(),
        baseline_mse=noise.outcome.summary["baseline_mse"],
        mse_difference=metrics.paired_difference(cem.outcome.values["mse"], noise.outcome.values["mse"]),
        accuracy_difference=metrics.paired_difference(cem.hits, noise.hits),
        settings=_settings(seed, noise),
        command=f"splitveil demo --out {out} --seed {seed}",
    )
    write_text(out / "report.html", demo_page(result))
    return out / "report.html"


@dataclass(frozen=True)
class _Trained:
    summary: dict[str, Any]
    records: list[dict[str, Any]]
    outcome: Outcome
    hits: Tensor  # 1 where a test image is classified right


def _one(folder: Path, images: ImageSet, title: str, defense: tuple[str, ...], seed: int, bar: Any) -> _Trained:
    if folder.exists():
        shutil.rmtree(folder)
    settings = config.parse({**SETTINGS, "defense": defense, "seed": seed}).resolve()
    progress = bar and bars.training(bar, f"train: {title}", settings.epochs)
    summary = fit(settings, images, folder, progress=progress)
    run = runs.Run.open(folder)
    progress = bar and bars.attack(bar, f"attack: {title}")
    outcome = evaluate(run, ATTACK, images, protocol_name=PROTOCOL, progress=progress)
    save(outcome, run, ATTACK.name)
    hits = correct(run.model(images), images.test, torch.Generator().manual_seed(seed)).float()
    records = reading.read_lines(folder / "metrics.jsonl", reading.EPOCH, "run the demo again")
    return _Trained(summary, records, outcome, hits)


def _shown(title: str, trained: _Trained) -> DemoModel:
    found = trained.outcome.summary
    return DemoModel(
        name=title,
        accuracy=metrics.binomial_ci(int(trained.hits.sum()), len(trained.hits)),
        **{key: _interval(found[key]) for key in ("mse", "ssim", "psnr")},
        leakage=[record["leakage_nats"] for record in trained.records],
        accuracy_curve=[record["accuracy_val"] for record in trained.records],
        attack_curve=found["curve"],
        seconds=trained.summary["seconds"] + found["seconds"],
        reconstructions=trained.outcome.reconstructions[:SHOWN].numpy(),
    )


def _settings(seed: int, trained: _Trained) -> dict[str, str]:
    machine, counts = trained.summary["environment"], trained.outcome.summary["images"]
    decoder = ATTACK.parameters
    return {
        "images": f"scikit-learn digits, shown as 32×32; {trained.summary['images']['train']} to train on",
        "network": f"{SETTINGS['arch']}, {SETTINGS['cut']} blocks on the device, {SETTINGS['bottleneck']} channels",
        "defenses": "; ".join(f"{title}: {' '.join(defense)}" for title, defense in MODELS.values()),
        "training": f"{SETTINGS['epochs']} epochs; validation images choose the epoch",
        "attack": f"decoder {decoder['network']}, {decoder['epochs']} epochs on {counts['attacker']} images, "
        f"scored on {counts['attacked']} others",
        "protocol": f"{PROTOCOL}: the attacker owns the training images and sees exactly what the wire carries",
        "seed": str(seed),
        "versions": f"splitveil {machine['splitveil']}, torch {machine['torch']}, Python {machine['python']}",
        "machine": machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores",
    }


def _interval(value: dict[str, Any]) -> metrics.Interval:
    return metrics.Interval(value["mean"], *value["ci95"])
