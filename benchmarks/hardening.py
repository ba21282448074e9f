"""Water-filled noise against isotropic noise on one trained encoder, each as strong as a loss of accuracy allows.

    splitveil train --recipe fast --optimizer sgd --epochs 24 --data cifar10 --root data/cifar10 \\
        --cut 4 --bottleneck 8 --defense gaussian:0.025 --out base
    python benchmarks/hardening.py base --out hardening [--max-drop 1] [--decoder decoder:epochs=12]

The plan, written before the first run. Arms: `splitveil harden`, and the same search over the standard deviation of
isotropic noise, with the same retraining of the same tail, on the same images. Both are given --max-drop points of
accuracy on the validation images. Attacker: protocol of the run (inference_time: 9,000 test images to learn from),
1,000 attacked images with noise of the same seeds; linear attack and decoder. Endpoint: the ratio of the two errors
with its paired 95 % interval over the images, beside both accuracies on the test images. One encoder and one seed: no
claim about other encoders. A difference that counts is 10 %. Every arm is kept in its folder, so that a rerun goes on.
Writes hardening.json beside the arms after each.

Second round, planned on 2026-11-28 before its first run: two further encoders, seeds 1 and 2, 12 epochs of the fast
recipe (the first had seed 0 and 24 epochs), the same two arms at one point, the same attacks. Endpoint over the three
encoders: the mean of the log ratios with Student's interval over encoders. One look, when all arms are there.

Third round, planned on 2026-11-29 before its first run: one network each of another family and of larger images, one
seed, both arms at one point of accuracy, the same endpoint; both wires are wide, so that the directions are products
(`waterfill_kronecker`). TinyImageNet's 20 classes, 20 epochs of the fast recipe with batches of 128 at rate 0.1:
`resnet20` cut 4, bottleneck 8, and `torchvision:resnet18@layer2`, both with gaussian 0.025. The protocol leaves 900
images to the attacker, of which few are attacked: 100. Added when the water-filled arms were there,
before those of isotropic noise: `residual`, with its defaults, as a decoder takes but 48 steps on so few images.

Changed after the first run was begun and before the one that is recorded: tails are retrained by SGD at 0.003, chosen
on validation images with water-filled noise, where Adam lost 3 to 5 points at both noises that had been tried; one pass
over all images.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitveil import runs
from splitveil.cli import main as command
from splitveil.defenses.gaussian import Gaussian
from splitveil.hardening import run as hardening
from splitveil.hardening.ground import Noise, Whole
from splitveil.hardening.search import Hardening
from splitveil.results import records
from splitveil.statistics.intervals import bootstrap_ci, paired_ratio
from splitveil.storage.files import write_json


class Isotropic(Hardening):
    """The same search with noise that is the same in every direction."""

    def _noise(self, loss: float, known: Any) -> Noise:
        # To second order the task loses ½ tr(F) (σ² − σ₀²) beyond the noise that it was trained with.
        sigma = (self._sigma(known) ** 2 + 2 * loss / known.sharpness) ** 0.5
        width, none = math.prod(self.model.wire_shape), math.inf  # the price at which nothing is added to σ
        if isinstance(known, Whole):
            error = known.linear_error(torch.eye(width, dtype=torch.float64) / sigma)
        else:
            error = known.sample.error(torch.arange(width), known.products.noise(none, sigma))
        return Noise(Gaussian(sigma), sigma, width, error)


ARMS: dict[str, type[Hardening]] = {"waterfill": Hardening, "isotropic": Isotropic}


def errors(folder: Path, attack: str) -> Tensor:
    """Per-image squared errors of an attack on an arm, in the order of the images."""
    return torch.from_numpy(records.per_image(folder, attack)["mse"])


def main() -> None:
    """Run the arms, attack them and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("hardening"))
    parser.add_argument("--max-drop", type=float, nargs="+", default=[1.0])
    parser.add_argument("--decoder", default="decoder:epochs=12")
    parser.add_argument("--arm", choices=ARMS, help="only this one")
    given = parser.parse_args()
    opened = runs.Run.open(given.run)
    images = runs.load_images(opened.settings)
    for drop in given.max_drop:
        for name, kind in ARMS.items():
            folder = given.out / f"{name}-{drop:g}"
            if given.arm not in (None, name):
                continue
            hardening.harden(opened, images, folder, max_drop=drop, resume=folder.exists(), kind=kind)
            command(["attack", str(folder), "--attack", "linear", "--attack", given.decoder])
            write_json(given.out / "hardening.json", summary(given.out, opened, given.max_drop))


def summary(out: Path, run: runs.Run, drops: list[float]) -> dict[str, Any]:
    """All arms that are there, and the ratios of their errors."""
    found: dict[str, Any] = {"environment": runs.environment(), "before": run.summary["accuracy"], "arms": {}}
    for drop in drops:
        for name in ARMS:
            folder = out / f"{name}-{drop:g}"
            if not (folder / "attacks").is_dir():
                continue
            made = runs.Run.open(folder).summary
            attacks = {
                path.parent.name: errors(folder, path.parent.name) for path in folder.glob("attacks/*/summary.json")
            }
            found["arms"][folder.name] = {
                "accuracy": made["accuracy"],
                "accuracy_val": made["accuracy_val"],
                "seconds": made["seconds"],
                "bytes": made["wire"]["bytes"],
                "steps": made["hardening"]["steps"],
                "mse": {label: bootstrap_ci(values).as_dict() for label, values in attacks.items()},
            }
        pair = [out / f"{name}-{drop:g}" for name in ARMS]
        if all(folder.name in found["arms"] for folder in pair):
            labels = found["arms"][pair[0].name]["mse"].keys() & found["arms"][pair[1].name]["mse"].keys()
            found[f"ratio-{drop:g}"] = {
                label: paired_ratio(*(errors(folder, label) for folder in pair)).as_dict() for label in sorted(labels)
            }
    return found


if __name__ == "__main__":
    main()
