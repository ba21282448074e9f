"""Does a mean of the last weights do better than the last weights, at the end of a training by the fast recipe?

    python benchmarks/weight_averaging.py --root data/cifar10 --out runs/fast8 [--epochs 8]

The plan, written before the first run. It trains what `splitveil train --recipe fast --epochs 8 --data cifar10 --cut 4
--bottleneck 8 --defense gaussian:0.025` trains, to the same weights, and keeps beside them means of the weights:
uniform ones over the last half epoch and the last epoch, and fading ones (each step takes 1/20 or 1/88 of the
difference). A mean of weights has no statistics of its batch norms: these are computed anew from 5,120 augmented
training images. Compared on the 5,000 validation images, with one noise each, the same for all: the difference in
accuracy to the last weights, with a 95 % interval over these images. What is worth half a point becomes part of the
recipe if a second seed agrees. One training: nothing is said of longer ones. The test images score the last weights
alone. Writes benchmarks/weight_averaging.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitveil import config, runs
from splitveil.recipe import VALIDATE
from splitveil.statistics.intervals import paired_difference
from splitveil.storage.files import write_json
from splitveil.training import trainer
from splitveil.training.feature_buffer import FeatureBuffer
from splitveil.training.loop import correct

SETTINGS = {"data": "cifar10", "cut": 4, "bottleneck": 8, "defense": ["gaussian:0.025"], "recipe": "fast"}
UNIFORM, FADING, NORMED = (0.5, 1.0), (20, 88), 5120
RECORD = Path(__file__).with_suffix(".json")


class Watching(trainer.Trainer):
    """A training that keeps means of its last weights and changes nothing of itself."""

    def __init__(self, *given: Any, **named: Any):
        super().__init__(*given, **named)
        self.steps = self._plan(0)[0]
        self.means: dict[str, dict[str, Tensor]] = {name: {} for name in self._shares(1)}

    def _shares(self, taken: int) -> dict[str, float]:
        """Return which share the weights after so many steps have in each mean."""
        left = taken - self.settings.epochs * self.steps
        shares = {f"last {part:g} epochs": 1 / max(1, left + round(part * self.steps)) for part in UNIFORM}
        return shares | {f"1/{window} a step": max(1 / window, 1 / taken) for window in FADING}

    def _step(self, part: Any, rng: torch.Generator, progress: float, keep: FeatureBuffer | None) -> dict[str, Tensor]:
        losses = super()._step(part, rng, progress, keep)
        shares = self._shares(round(progress * self.settings.epochs * self.steps) + 1)
        with torch.no_grad():
            for name, share in shares.items():
                for key, weight in self.model.named_parameters():
                    self.means[name].setdefault(key, weight.detach().clone()).lerp_(weight, share)
        return losses

    def _checkpoint(self) -> None:
        super()._checkpoint()
        record = self.state.records[-1]
        print(f"epoch {record['epoch'] + 1}: {record['accuracy_val']:.4f}, {record['seconds']:.0f} s", flush=True)

    def _summary(self) -> dict[str, Any]:
        summary = super()._summary()
        last = {name: value.clone() for name, value in self.model.state_dict().items()}
        found = {"last weights": self._right()}
        for name, mean in self.means.items():
            self.model.load_state_dict({**last, **mean})
            self._norms_anew()
            found[name] = self._right()
        self.model.load_state_dict(last)
        differences = {
            name: paired_difference(hits, found["last weights"]).as_dict()
            for name, hits in found.items()
            if name != "last weights"
        }
        accuracy = {name: float(hits.mean()) for name, hits in found.items()}
        about = {"command": "python benchmarks/weight_averaging.py", "epochs": self.settings.epochs}
        kept = ("accuracy", "seconds", "precision", "environment", "images")
        about |= {"seed": self.settings.seed, **{name: summary[name] for name in kept}}
        write_json(record_of(self.settings.seed), about | {"validation_accuracy": accuracy, "difference": differences})
        return summary

    def _right(self) -> np.ndarray:
        """Return which validation images are classified right, (N,)."""
        return correct(self.model.eval(), self.parts.utility_val, self._rng(VALIDATE, 0)).double().numpy()

    @torch.no_grad()
    def _norms_anew(self) -> None:
        norms = [layer for layer in self.model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        momenta = [layer.momentum for layer in norms]
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # a mean over all that follows
        self.model.train()
        rng = self._rng(VALIDATE, 0, 1)
        for index in torch.randperm(self.count, generator=rng)[:NORMED].split(self.settings.batch_size):
            self.model(self._augmented(index, rng), rng)
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum


def record_of(seed: int) -> Path:
    """Return the file of the record, so that a second seed does not replace the first."""
    return RECORD if seed == 0 else RECORD.with_stem(f"{RECORD.stem}_seed_{seed}")


def main() -> None:
    """Train and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--out", type=Path, default=Path("runs/fast8"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    own = {**SETTINGS, "root": given.root.absolute(), "epochs": given.epochs, "seed": given.seed}
    settings = config.parse(own).resolve()
    trainer.Trainer = Watching  # type: ignore[misc]
    trainer.fit(settings, runs.load_images(settings), given.out)
    print(record_of(given.seed).read_text("utf-8"))


if __name__ == "__main__":
    main()
