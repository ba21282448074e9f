"""The worst that was found for a known water-filled noise: a decoder trained in another way, refined and averaged.

    python benchmarks/waterfill_attack.py RUN [RUN ...] --out benchmarks/waterfill_attack.json

The plan, written before the first recorded run. Question: does water-filled noise keep its lead over isotropic noise of
equal accuracy against an attacker who has read this code? Runs: one of each kind, made by `hardening_front.py` on the
same encoder, with equal test accuracy. Attacker: inference_time, 9,000 images to learn from, 1,000 attacked, one wire
per image, the same wires as for the attacks of that benchmark, and the encoder and the noise's law are known. The
attack, the same on every run:

1. A decoder at the resolution of the wire that learns what to add to the best linear answer. Its images are mirrored
   and shifted at random at every step and sent through the encoder again; the convolutions are trained by Muon (Jordan
   et al. 2024), and the weights of the last steps are averaged.
2. `refine` from its answer: the exact likelihood of the wire beside the decoder's own errors on held-out images.
3. The mean of both answers, weighted by the least error on held-out images: nearer to the posterior mean than either.

Chosen beforehand on the attacker's own held-out images of the same encoder behind isotropic noise of 0.1, none of them
attacked (MSE there, after seconds of one core): Muon at 0.02 (0.0106 after 60 s) and neither Adam (0.0126 after 80 s)
nor Muon at 0.05 (0.0114 after 60 s, in which it made fewer steps); no second network that is given the gradient of the
likelihood (0.0107 after 90 s with it, both of three blocks, Muon at 0.03). All was chosen on isotropic noise, which may
favor the water-filled noise. The class that the tail answers is not used.

Endpoint: the ratio of the errors of step 3 on the water-filled and on the isotropic run, with its paired 95 % interval
over the images. One encoder, one seed: no claim about others. Each run is attacked once and the answers' errors are
kept in its folder, so that a rerun only writes the record.

Changed before the first attack had ended, as the machine was busy with other work: 6 passes and not 18, 30 steps of
`refine` and not 40. A longer training would have lower errors.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, pixel_shuffle, pixel_unshuffle, relu
from torch.nn.utils.fusion import fuse_conv_bn_eval

from splitveil import metrics, runs
from splitveil.attacks._held_out import hold_out_images
from splitveil.attacks._moved import Moves
from splitveil.attacks._muon import Muon
from splitveil.attacks.base import BATCH, Attack, Victim
from splitveil.attacks.linear import LinearAttack
from splitveil.attacks.refine import RefineAttack
from splitveil.data import Access, ImageSet, Split, to_float
from splitveil.defenses._correlated import acting, sends_fewer
from splitveil.evaluation import evaluate, stage
from splitveil.evaluation.interception import Interception
from splitveil.model import SplitModel
from splitveil.randomness import seed_layers, stream
from splitveil.recipe import ATTACK
from splitveil.results import records
from splitveil.runtime import Runtime
from splitveil.statistics.intervals import bootstrap_ci, paired_ratio
from splitveil.storage.files import atomic_write, write_json

ATTACKED = 1000
MOVES, COPIES = Moves(shift=2, flip=True), 2
EPOCHS, BATCH_SIZE = 6, 64
ADAM, MUON, WARMUP, AVERAGED = 2e-3, 0.02, 50, 500
COARSE, FINE, BLOCKS = 96, 48, 4
REFINE_STEPS, MIXING = 30, 96
STEPS = ("decoder", "refined", "mean of both")
FILE = "waterfill_attack.npz"


class Block(nn.Module):
    """Residual block without a norm that begins as the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(relu(self.first(relu(x))))


class Correction(nn.Module):
    """What is added to an image (B, 3, 4 s, 4 s) by what a wire (B, D, s, s) says beyond it."""

    def __init__(self, channels: int):
        super().__init__()
        self.fine = nn.Conv2d(12, FINE, 3, padding=1)
        self.coarse = nn.Conv2d(48 + channels, COARSE, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(COARSE) for _ in range(BLOCKS)), nn.ReLU())
        self.up = nn.Conv2d(COARSE, 4 * FINE, 3, padding=1)
        self.out = nn.Sequential(Block(FINE), nn.ReLU())
        self.last = nn.Conv2d(FINE, 12, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    def forward(self, image: Tensor, wire: Tensor) -> Tensor:
        coarse = self.blocks(self.coarse(torch.cat([pixel_unshuffle(image, 4), wire], 1)))
        fine = pixel_shuffle(self.up(coarse), 2) + self.fine(pixel_unshuffle(image, 2))
        return pixel_shuffle(self.last(self.out(fine)), 2)


class Decoder(Attack):
    """Linear answer with a learned correction, from images that are moved at each step."""

    needs: ClassVar = frozenset({Access.QUERY, Access.WEIGHTS})
    holds_out: ClassVar = True

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        _, own = hold_out_images(images, rng, "decoder")
        self.model = victim.white_box()
        copies = torch.cat([MOVES(own.images, rng) for _ in range(COPIES)])
        self.linear = LinearAttack(looks=1)
        self.linear.fit(victim, Split(copies, own.labels.repeat(COPIES)), rng)
        with torch.random.fork_rng():
            seed_layers(rng)
            self.network = Correction(victim.query(to_float(own.images[:1]), rng).shape[1])
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.learn(own.images, rng)

    def learn(self, images: Tensor, rng: torch.Generator) -> None:
        """Train, and take the mean of the last weights."""
        weights = dict(self.network.named_parameters())
        inner = [name for name, weight in weights.items() if weight.dim() == 4 and not name.startswith("last")]
        muon = Muon([weights[name] for name in inner], MUON, torch.bfloat16)
        adam = torch.optim.Adam([weight for name, weight in weights.items() if name not in inner], ADAM)
        now = [weight.detach() for weight in weights.values()]
        mean, per_epoch = [weight.clone() for weight in now], len(images) // BATCH_SIZE
        for step in range(total := EPOCHS * per_epoch):
            if step % per_epoch == 0:
                order = torch.randperm(len(images), generator=rng)[: per_epoch * BATCH_SIZE].view(-1, BATCH_SIZE)
            part = min(1, (step + 1) / WARMUP) * (1 - step / total)
            x = to_float(MOVES(images[order[step % per_epoch]], rng)).to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                loss = mse_loss(self._answer(self._wire(x, rng)), x)
            self.network.zero_grad(set_to_none=True)
            loss.backward()
            adam.param_groups[0]["lr"], muon.param_groups[0]["lr"] = ADAM * part, MUON * part
            adam.step()
            muon.step()
            for weight, average in zip(now, mean, strict=True):
                average.lerp_(weight, max(1 / AVERAGED, 1 / (1 + step / 10)))
            if (step + 1) % per_epoch == 0:
                print(f"{(step + 1) // per_epoch} of {EPOCHS} passes, {time.process_time():.0f} s", flush=True)
        for weight, average in zip(now, mean, strict=True):
            weight.copy_(average)

    @torch.no_grad()
    def _wire(self, x: Tensor, rng: torch.Generator) -> Tensor:
        return self.model.protect(self.model.features(x).float(), rng).float()

    def _answer(self, wire: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            x = self.linear._answer(wire).view(-1, *self.linear.shape).to(memory_format=torch.channels_last)
        return x + self.network(x, wire).float()

    @torch.no_grad()
    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.cat([self._answer(part) for part in wire.split(BATCH)]).clamp(0, 1)


def fold(model: SplitModel) -> None:
    """Take the batch norms of the encoder into its convolutions: the same function, faster."""
    for part in [module for module in model.encoder.modules() if isinstance(module, nn.Sequential)]:
        for i in range(len(part) - 1):
            first, second = part[i], part[i + 1]
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                part[i], part[i + 1] = fuse_conv_bn_eval(first, second), nn.Identity()


def attacked(run: runs.Run, images: ImageSet) -> dict[str, np.ndarray]:
    """Attack a run and return the errors per image after each step, and what was chosen on held-out images."""
    start, seed = time.process_time(), run.settings.seed
    given = stage.parts(run.settings, images, "inference_time", None, ATTACKED)
    model = run.model(images).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fold(model.eval())
    victim, rng = Victim(model, given.grants), stream("cpu", seed, ATTACK, 1)
    same = torch.Generator()
    same.set_state(rng.get_state())
    held, _ = hold_out_images(given.attacker_train, same, "decoder")
    attack = RefineAttack(REFINE_STEPS)
    attack._first = first = Decoder()
    attack.fit(victim.of(attack), given.attacker_train, rng)
    # Neither the steps of the decoder nor the weight of the refinement has seen these.
    some = to_float(held.images[attack.tuning : attack.tuning + MIXING])
    wire = victim.query(some, rng)
    one, two = first.reconstruct(wire), attack.reconstruct(wire)
    weight = float(((some - one) * (two - one)).sum() / (two - one).square().sum().clamp(min=1e-12))
    weight = min(1.0, max(0.0, weight))
    tap = Interception(victim.of(attack), seed, given.name)
    refined, wires = evaluate.reconstruct(attack, tap, given.attacker_test)
    decoded, truth = first.reconstruct(wires), to_float(given.attacker_test.images)
    answers = decoded, refined, decoded.lerp(refined, weight)
    of_held = [(answer - some).square().mean() for answer in (one, two, one.lerp(two, weight))]
    errors = {name: metrics.mse(answer, truth).numpy() for name, answer in zip(STEPS, answers, strict=True)}
    chosen = {"refine_weight": attack.chosen, "refined_part": weight, "seconds": time.process_time() - start}
    return errors | {"held_out": np.array(of_held), **{name: np.array(value) for name, value in chosen.items()}}


def errors_of(folder: Path) -> dict[str, np.ndarray]:
    """All errors per image that are kept for a run: of this attack and of those made before."""
    found = {}
    for label in ("linear", "decoder"):
        if (folder / "attacks" / label / "summary.json").is_file():
            found[f"{label} of hardening_front"] = records.per_image(folder, label)["mse"]
    with np.load(folder / FILE) as kept:
        return found | {name: kept[name] for name in STEPS}


def described(folder: Path) -> dict[str, Any]:
    """The figures of one run."""
    run, errors = runs.Run.open(folder), errors_of(folder)
    with np.load(folder / FILE) as kept:
        chosen = {name: kept[name].tolist() for name in kept.files if name not in STEPS}
    mse = {label: bootstrap_ci(values).as_dict() for label, values in errors.items()}
    before = [label for label in errors if label not in STEPS]
    last = errors[STEPS[-1]]
    against = {label: paired_ratio(last, errors[label]).as_dict() for label in [*before, *STEPS[:-1]]}
    return {"accuracy": run.summary["accuracy"], "mse": mse, "ratio_of_last_to": against, "chosen": chosen}


def main() -> None:
    """Attack the runs that were not attacked yet and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    filled: dict[bool, list[Path]] = {True: [], False: []}
    for folder in given.runs:
        run = runs.Run.open(folder)
        images = runs.load_images(run.settings)
        if not (folder / FILE).is_file():
            found = attacked(run, images)
            with atomic_write(folder / FILE) as temporary, temporary.open("wb") as file:
                np.savez(file, **cast("Any", found))
            print(folder.name, {name: round(float(found[name].mean()), 5) for name in STEPS}, flush=True)
        filled[any(sends_fewer(part) for part in acting(run.model(images).defense))].append(folder)
    ratios = {
        f"{one.name} to {other.name}": {
            label: paired_ratio(errors_of(one)[label], values).as_dict()
            for label, values in errors_of(other).items()
            if label in errors_of(one)
        }
        for one in filled[True]
        for other in filled[False]
    }
    command = " ".join(["python benchmarks/waterfill_attack.py", *(folder.name for folder in given.runs)])
    about = {"environment": runs.environment(), "command": command, "attacked": ATTACKED}
    write_json(given.out, about | {"runs": {path.name: described(path) for path in given.runs}, "ratios": ratios})


if __name__ == "__main__":
    main()
