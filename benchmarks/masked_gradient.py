"""A defense without a gradient is not private because the white-box attack failed: 3-bit wires, shown on CIFAR-10.

    python benchmarks/masked_gradient.py [--run runs/attacks/none] [--attacked 32] [--steps 200]

The wire of a trained run is rounded to eight levels, as a codec would. The gradient of that is zero: an optimization
that trusts it stays where it began. Ours goes around the rounding, and where it had not, the flag would tell. Writes
benchmarks/masked_gradient.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from splitveil import metrics, runs
from splitveil.attacks.base import Attack, Victim
from splitveil.attacks.decoder import DecoderAttack
from splitveil.attacks.linear import LinearAttack
from splitveil.attacks.rmle import RmleAttack
from splitveil.data import Access, protocol, to_float
from splitveil.defenses.base import Defense, Stack
from splitveil.evaluation import reliability
from splitveil.evaluation.evaluate import mean_image_error
from splitveil.model import SplitModel
from splitveil.statistics import intervals
from splitveil.storage.files import write_json

LEVELS = 8


class Rounded(Defense):
    """Each value of the wire, in [0, 1], to the nearest of eight levels; its derivative is zero."""

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        return torch.round(z.clamp(0, 1) * (LEVELS - 1)) / (LEVELS - 1)


class TrustingRmle(RmleAttack):
    """`rmle` as usually published: it follows the defense's own gradient, whatever that is."""

    def _choose(self, truth: Tensor, wire: Tensor) -> None:
        self.box.modes = ("exact",)
        super()._choose(truth, wire)


def main() -> None:
    """Attack, compare, print, leave the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/attacks/none"))
    parser.add_argument("--attacked", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    run = runs.Run.open(args.run)
    images = runs.load_images(run.settings)
    given = protocol("inference_time", images, seed=run.settings.seed, attacker_test_size=args.attacked)
    own = given.attacker_train.subset(torch.arange(1800))
    trained = run.model(images)
    mean, std = images.mean, images.std
    model = SplitModel(trained.encoder, trained.tail, defense=Stack(Rounded()), mean=mean, std=std)
    attacks: dict[str, Attack] = {
        "linear": LinearAttack(),
        "decoder": DecoderAttack(8, "conv_normN1C32", lr=3e-3, batch_size=64),
        "rmle that trusts the gradient": TrustingRmle(args.steps, start="mean", lr=0.02, tuning=4),
        "rmle": RmleAttack(args.steps, start="mean", lr=0.02, tuning=4),
        "rmle from linear": RmleAttack(args.steps, start="linear", lr=0.02, tuning=4),
    }
    truth, errors = to_float(given.attacker_test.images), {}
    for name, attack in attacks.items():
        victim, rng = Victim(model, frozenset(Access)), torch.Generator().manual_seed(0)
        attack.fit(victim, own, rng)
        with torch.no_grad():
            errors[name] = metrics.mse(attack.reconstruct(victim.query(truth, rng)), truth)
    baseline = mean_image_error(own, given.attacker_test)
    report(args, errors, {name: attack.needs for name, attack in attacks.items()}, baseline)


def report(args: argparse.Namespace, errors: dict[str, Tensor], needs: dict[str, Any], baseline: float) -> None:
    """Table, flags of an evaluation with either white-box attack, record."""
    table = Table("attack", "MSE", title=f"{LEVELS} levels on the wire; mean image {baseline:.4f}")
    for name, error in errors.items():
        table.add_row(name, str(intervals.bootstrap_ci(error)))
    Console().print(table)
    flags = {}
    for title, left_out in {
        "trusting": ("rmle", "rmle from linear"),
        "ours": ("rmle that trusts the gradient",),
    }.items():
        kept = {name: error for name, error in errors.items() if name not in left_out}
        flags[title] = reliability.black_box_wins(kept, needs)
        print(f"white box {title}: {'; '.join(flags[title]) or 'no flag'}")
    record = {
        "mse": {name: intervals.bootstrap_ci(error).as_dict() for name, error in errors.items()},
        "baseline_mse": baseline,
        "flags": flags,
        "attacked": args.attacked,
        "steps": args.steps,
        "machine": runs.environment(),
        "command": "python benchmarks/masked_gradient.py",
    }
    write_json(args.out, record)


if __name__ == "__main__":
    main()
