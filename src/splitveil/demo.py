"""The demo: digits, noise alone against noise with CEM, the same attacks on both, one page."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import config, data, progress_bars, runs
from .data import ImageSet
from .errors import UserError
from .evaluation.evaluate import Outcome, evaluate, save
from .report.demo import DemoModel, DemoResult, demo_page
from .statistics import intervals
from .statistics.best_attacker import BestAttacker, best_attacker
from .storage import reading
from .storage.files import write_text
from .training.trainer import correct, fit

SETTINGS: dict[str, Any] = {"data": "digits", "arch": "resnet20_sgm", "cut": 5, "bottleneck": 2, "epochs": 12}
NOISE = "gaussian:0.05"
MODELS = {
    # cem:0 trains nothing; it measures the leakage, so that the two curves can be compared.
    "noise": ("Gaussian noise alone", (NOISE, "cem:0")),
    "cem": ("Gaussian noise and CEM", (NOISE, "cem:weight=8,schedule=ramp")),
}
ATTACKS = {
    "linear": config.Spec(name="linear"),
    "decoder": config.Spec(name="decoder", parameters={"epochs": 15, "network": "res_normN2C32", "batch_size": 64}),
}
"""The last one's curve is drawn; what is reported is the best attacker, who chooses among them."""
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
        originals=noise.last.originals[:SHOWN].numpy(),
        baseline_mse=noise.last.summary["baseline_mse"],
        mse_difference=intervals.paired_difference(cem.best("mse"), noise.best("mse")),
        accuracy_difference=intervals.paired_difference(cem.hits, noise.hits),
        settings=_settings(seed, noise),
        command=f"splitveil demo --out {out} --seed {seed}",
    )
    write_text(out / "report.html", demo_page(result))
    return out / "report.html"


@dataclass(frozen=True)
class _Trained:
    summary: dict[str, Any]
    records: list[dict[str, Any]]
    outcomes: dict[str, Outcome]
    attacker: BestAttacker
    hits: Tensor  # 1 where a test image is classified right

    @property
    def last(self) -> Outcome:
        return list(self.outcomes.values())[-1]

    def best(self, metric: str) -> Tensor:
        """The best attacker's metric on each attacked image, (N,)."""
        return self._chosen([outcome.values[metric] for outcome in self.outcomes.values()])

    def reconstructions(self) -> Tensor:
        """The best attacker's answers, uint8 (N, 3, S, S)."""
        return self._chosen([outcome.reconstructions for outcome in self.outcomes.values()])

    def _chosen(self, parts: list[Tensor]) -> Tensor:
        index = torch.tensor([list(self.outcomes).index(name) for name in self.attacker.chosen])
        return torch.stack(parts)[index, torch.arange(len(index))]


def _one(folder: Path, images: ImageSet, title: str, defense: tuple[str, ...], seed: int, bar: Any) -> _Trained:
    if folder.exists():
        shutil.rmtree(folder)
    settings = config.parse({**SETTINGS, "defense": defense, "seed": seed}).resolve()
    progress = bar and progress_bars.training(bar, f"train: {title}", settings.epochs)
    summary = fit(settings, images, folder, progress=progress)
    run = runs.Run.open(folder)
    outcomes = {}
    for name, spec in ATTACKS.items():
        progress = bar and progress_bars.attack(bar, f"{name} attack: {title}")
        outcomes[name] = evaluate(run, spec, images, protocol_name=PROTOCOL, progress=progress)
        save(outcomes[name], run, name)
    held, values = ({name: getattr(found, part) for name, found in outcomes.items()} for part in ("held_out", "values"))
    attacker = best_attacker(held, values)
    assert attacker, "digits leave the attacker images to judge by"
    hits = correct(run.model(images), images.test, torch.Generator().manual_seed(seed)).float()
    records = reading.read_lines(folder / "metrics.jsonl", reading.EPOCH, "run the demo again")
    return _Trained(summary, records, outcomes, attacker, hits)


def _shown(title: str, trained: _Trained) -> DemoModel:
    return DemoModel(
        name=title,
        attacker=trained.attacker.name if len(ATTACKS) > 1 else f"{trained.attacker.name}, the only attack",
        accuracy=intervals.binomial_ci(int(trained.hits.sum()), len(trained.hits)),
        **{key: intervals.bootstrap_ci(trained.best(key)) for key in ("mse", "ssim", "psnr")},
        leakage=[record["leakage_nats"] for record in trained.records],
        accuracy_curve=[record["accuracy_val"] for record in trained.records],
        attack_curve=trained.last.summary["curve"],
        seconds=trained.summary["seconds"] + sum(found.summary["seconds"] for found in trained.outcomes.values()),
        reconstructions=trained.reconstructions()[:SHOWN].numpy(),
    )


def _settings(seed: int, trained: _Trained) -> dict[str, str]:
    machine, counts = trained.summary["environment"], trained.last.summary["images"]
    judges = trained.last.summary["held_out"]["images"]
    attacks = ", ".join(f"{name} {spec.parameters}" if spec.parameters else name for name, spec in ATTACKS.items())
    return {
        "images": f"scikit-learn digits, shown as 32×32; {trained.summary['images']['train']} to train on",
        "network": f"{SETTINGS['arch']}, {SETTINGS['cut']} blocks on the device, {SETTINGS['bottleneck']} channels",
        "defenses": "; ".join(f"{title}: {' '.join(defense)}" for title, defense in MODELS.values()),
        "training": f"{SETTINGS['epochs']} epochs; validation images choose the epoch",
        "attacks": f"{attacks}; on {counts['attacker']} images, {judges} of which only judge the attacks; "
        f"scored on {counts['attacked']} others",
        "protocol": f"{PROTOCOL}: the attacker owns the training images and sees exactly what the wire carries",
        "seed": str(seed),
        "versions": f"splitveil {machine['splitveil']}, torch {machine['torch']}, Python {machine['python']}",
        "machine": machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores",
    }
