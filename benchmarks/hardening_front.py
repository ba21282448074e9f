"""Water-filled noise, isotropic noise and CEM on the same encoders, at several accuracies: who protects more?

    python benchmarks/hardening_front.py --root data/cifar10 --out front [--seeds 1 2 3] [--only 'plain-1*']

The plan, written before the first run. Encoders of the fast recipe, 12 epochs, all 50,000 images of CIFAR-10, VGG-11,
cut 4, bottleneck 8, gaussian 0.025, last epoch: `plain`; `cem16` (the bound); `one16` (the bound of one Gaussian,
without classes and clusters). Noise on a frozen encoder, of strengths fixed here: isotropic, and water-filled for a
fixed loss of the task to second order. Every tail, that of the undefended wire too, is trained on for the same pass
over all images (`splitveil.hardening.search.LONG`). Attacker: inference_time, 9,000 images to learn from, 1,000
attacked, one wire per image for all attacks: `linear` and a decoder. Every attack is scored with MSE and SSIM, and
every wire by the share of photos found among 1,000.

Endpoint: the difference in log MSE of the decoder to isotropic noise of equal test accuracy on the plain encoder of
the same seed (`splitveil.statistics.noise_curve`), hierarchical over seeds and images. A difference that counts is
10 %. Of the water-filled points the one at 0.02 nats stands for a small loss of accuracy and the one at 0.06 for a
larger one. Seeds 1, 2, 3, in this order; before all three are there nothing is called better. Priority: the plain
encoder, then CEM, both of seed 1; then the plain encoders of seeds 2 and 3; then the rest.

Planned later, before the first of its runs: the encoder trained on. `+encoder` marks a noise with which encoder and
tail are trained on together for two passes over all images by the recipe of the tails, A as it was, after the tail
alone. Isotropic noise is given the same, as more training helps without any noise too: what counts is the difference
between the two, each against the curve of frozen encoders.

Planned with it: `posterior`, noise that takes from the wire the most information about the feature, whatever the pixels
are: the least Σ ½ log(1 + 1/n_i) + μ/2 Σ f_i n_i, so n_i = (√(1 + 4/(μ f_i)) − 1)/2, where water-filling takes the most
from a linear attacker; and `again`, water-filled noise with the Fisher information of the tail that was trained on
through the first noise, and another pass of the tail.

Planned when the first points of the plain encoder of seed 1 were there: `sensitive`, water-filled noise where g_i is
not what a linear attacker explains but how much the answer of a trained decoder D changes along the direction s_i,
E‖∂D/∂z s_i‖² over the variance of the images; of a linear D it is the same. The defender trains D on its own images.

Planned when the training of `cem16` had fallen to an accuracy of 18 % in its tenth epoch, where CEM's schedule doubles
λ: `cem4`, the same bound with a quarter of λ.

Planned when CEM's clusters had been made to follow the features within an epoch, before a training on all images with
it: `follow4` and `follow16`, the bound with λ = 4 and 16, in this order and in place of `cem4`, which was never trained
to its end; and `one4`, that of one Gaussian, in place of `one16`, which was not begun. `cem16` stays as it was, with
clusters that do not follow.

Added when the accuracy of `cem16` was seen to lie near the end of the curve, and before its attacks: isotropic noise
of 0.5. The curve of a seed is made of the strengths that are there, three at least.

Added when it had become an attack of the product, before its attacks of more than one pair: `residual`, with its
defaults, on some of the points of the plain encoder (`splitveil attack POINT --attack residual --attacked 1000`).

Changed before any result was there: a decoder of 32 instead of 64 channels, and four and three instead of five and four
strengths, as a point took six minutes.

Every point is kept in its folder, so that a rerun goes on. Writes hardening_front.json into --out: of the points that
--only and --points name; with --no-run and without these of all that are there.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import functools
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from splitveil import config, runs
from splitveil.attacks.decoder import DecoderAttack
from splitveil.bounds.base import Channel
from splitveil.bounds.linkage import Linkage
from splitveil.data import Access, ImageSet, augment, to_float
from splitveil.defenses._waterfilling import Directions
from splitveil.defenses.base import Stack
from splitveil.defenses.gaussian import Gaussian
from splitveil.evaluation.evaluate import attack_run
from splitveil.hardening import run as hardening
from splitveil.hardening.ground import Ground, Noise, ground
from splitveil.hardening.search import GATHERED, LONG, Hardening, Search, _some, staying
from splitveil.model import SplitModel
from splitveil.randomness import stream
from splitveil.recipe import TAIL, batches
from splitveil.results import records
from splitveil.statistics.noise_curve import LEAST_POINTS, at_equal_accuracy
from splitveil.storage.files import write_json
from splitveil.training.trainer import fit
from splitveil.victim import Victim

SETTINGS = {"data": "cifar10", "arch": "vgg11_bn_sgm", "cut": 4, "bottleneck": 8, "recipe": "fast", "epochs": 12}
SETTINGS |= {"optimizer": "sgd"}
ENCODERS = {
    "plain": ["gaussian:0.025"],
    "cem16": ["gaussian:0.025", "cem:16,follow=0"],
    "follow4": ["gaussian:0.025", "cem:4"],
    "follow16": ["gaussian:0.025", "cem:16"],
    "one4": ["gaussian:0.025", "cem:4,clusters=1,per_class=false"],
}
SIGMAS = (0.025, 0.07, 0.13, 0.22, 0.5)
LOSSES = (0.02, 0.06, 0.15)
TRAINED_ON = {"isotropic-0.13+encoder": {"sigma": 0.13}, "waterfill-0.06+encoder": {"loss": 0.06}}
OTHERS = {
    "posterior-0.02": {"loss": 0.02, "posterior": True},
    "posterior-0.06": {"loss": 0.06, "posterior": True},
    "sensitive-0.02": {"loss": 0.02, "sensitive": True},
    "sensitive-0.06": {"loss": 0.06, "sensitive": True},
    "again-0.06": {"loss": 0.06, "again": True},
}
SEEDS, PASSES = (1, 2, 3), 2
ATTACKS = {"linear": "linear", "decoder": "decoder:epochs=15,network=conv_normN1C32,lr=0.003,batch_size=128"}
STRONGER = {"residual": "residual"}
ATTACKED, GALLERY = 1000, "1,000"
RECORD = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Posterior(Directions):
    """Directions whose noise leaves the least information about the feature."""

    def noise(self, mu: float) -> torch.Tensor:
        """Return n_i, (D,), where −1/(n_i (1 + n_i)) + μ f_i = 0."""
        return ((1 + 4 / (mu * self.fisher)).sqrt() - 1) / 2


@dataclass(frozen=True)
class Fixed(Hardening):
    """Noise of one strength that is given: no search.

    Attributes:
        sigma: of isotropic noise; 0: water-filled noise.
        loss: of the task in nats, by water-filled noise, to second order.
        passes: over all images in which the encoder is trained on with the tail.
        posterior: leave the least information about the feature instead of the least linear answer.
        sensitive: measure what a direction shows by a decoder's derivative.
        again: take the Fisher information once more, of the tail that was trained on.
        shared: what is known of the encoder, for all its noises.
    """

    sigma: float = 0.0
    loss: float = 0.0
    passes: int = 0
    posterior: bool = False
    sensitive: bool = False
    again: bool = False
    shared: dict[str, Any] = field(default_factory=dict)

    def run(
        self,
        search: Search | None = None,
        tail: nn.Module | None = None,
        keep: Callable[[Search, nn.Module], None] = lambda *_: None,
        show: Callable[[int, int], None] = lambda *_: None,
    ) -> tuple[SplitModel, Search]:
        """Put the noise on and train the tail on, once."""
        if not self.shared:
            known, mean_image = self.known()
            self.shared.update(known=known, search=Search(self._accuracy(self.model), mean_image))
        known, search = self.shared["known"], copy.deepcopy(self.shared["search"])
        if self.sensitive and "sensitive" not in self.shared:
            self.shared["sensitive"] = self._sensitive(known)
        step, trained = self.step(self.loss, known, search, self.model.tail, self.train, LONG)
        search.steps.append(step)
        if self.again:
            some, before = _some(self.train, GATHERED, self.seed), Stack(*staying(self.model.defense))
            rng = stream(trained.mean.device, self.seed, TAIL, 3)
            known = ground(trained, some.images, rng, before)
            step, trained = self.step(self.loss, known, search, trained.tail, self.train, LONG)
            search.steps = [step]
        if self.passes:
            self._train_on(trained)
        return trained.eval(), search

    def _sensitive(self, known: Any) -> Directions:
        """Return the directions with g_i by the derivative of a decoder that is trained on the defender's images."""
        rng, own = stream(self.model.mean.device, self.seed, TAIL, 4), known.directions
        attack = DecoderAttack(epochs=3, network="conv_normN1C32", lr=0.003, batch_size=128)
        attack.fit(Victim(copy.deepcopy(self.model), frozenset(Access)), self.train, rng)
        some, square = _some(self.train, GATHERED, self.seed), torch.zeros_like(own.shapes)
        for part in some.images.split(250):
            wire = self.model.encode(to_float(part), rng).detach().requires_grad_()
            answer = attack.decoder.eval()(wire)
            drawn = torch.randn(answer.shape, generator=rng)  # E[(Jᵀv)(Jᵀv)ᵀ] = JᵀJ
            slope = torch.autograd.grad((answer * drawn).sum(), wire)[0].flatten(1).double()
            square += slope.T @ slope / len(some)
        shown = ((own.shapes.T @ square) * own.shapes.T).sum(1) / known.statistics.variance
        return Directions(own.shapes, own.fisher, shown)

    def _train_on(self, model: SplitModel) -> None:
        """Train encoder and tail together through the noise, which stays; batch norm keeps its statistics."""
        rng, images = stream(model.mean.device, self.seed, TAIL, 2), self.train.to(model.mean.device)
        model.eval().requires_grad_(True)
        plans = [index for _ in range(self.passes) for index in batches(len(images), LONG["batch_size"], rng)]
        sgd = torch.optim.SGD(model.parameters(), LONG["lr"], momentum=0.9, nesterov=True, weight_decay=5e-4)
        rate = torch.optim.lr_scheduler.OneCycleLR(sgd, LONG["lr"], total_steps=len(plans), cycle_momentum=False)
        for index in plans:
            x = augment(images.images[index], rng, **self.augmentation).to(memory_format=torch.channels_last)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
                logits = model.tail(model.encode(x, rng))
            smoothing = LONG["label_smoothing"]
            loss = nn.functional.cross_entropy(logits.float(), images.labels[index], label_smoothing=smoothing)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            rate.step()

    def _noise(self, loss: float, known: Ground) -> Noise:
        if self.posterior:
            known, own = copy.copy(known), known.directions  # type: ignore[attr-defined]
            known.directions = Posterior(own.shapes, own.fisher, own.explained)  # type: ignore[attr-defined]
        if self.sensitive:
            known = copy.copy(known)
            known.directions = self.shared["sensitive"]  # type: ignore[attr-defined]
        if not self.sigma:
            return super()._noise(loss, known)
        width = len(known.statistics.mean)  # type: ignore[attr-defined]
        error = known.linear_error(torch.eye(width, dtype=torch.float64) / self.sigma)  # type: ignore[attr-defined]
        return Noise(Gaussian(self.sigma), self.sigma, width, error)


def points(encoder: str) -> dict[str, dict[str, Any]]:
    """The noises on an encoder: all on the plain one, two on the others."""
    isotropic = {f"isotropic-{sigma}": {"sigma": sigma} for sigma in SIGMAS}
    filled = {f"waterfill-{loss}": {"loss": loss} for loss in LOSSES}
    if encoder == "plain":
        trained_on = {name: noise | {"passes": PASSES} for name, noise in TRAINED_ON.items()}
        return {**isotropic, **filled, **OTHERS, **trained_on}
    return {name: {**isotropic, **filled}[name] for name in ("isotropic-0.025", "waterfill-0.06")}


def plan(seeds: tuple[int, ...] = SEEDS) -> list[tuple[str, int]]:
    """Encoders and seeds in the order of their priority."""
    first, *others = seeds
    every = [("plain", first), *((name, first) for name in ENCODERS if name != "plain")]
    every += [("plain", seed) for seed in others]
    return every + [(name, seed) for seed in others for name in ENCODERS if name != "plain"]


def linkage(run: runs.Run, images: ImageSet) -> float:
    """How often the right photo is the first among 1,000."""
    channel = Channel.of(run.model(images), images.test, torch.Generator().manual_seed(0))
    found = Linkage().estimate(channel, torch.Generator().manual_seed(0))
    (one,) = [e.value for e in found if e.quantity == "success" and f"among {GALLERY}," in e.about]
    return one


def measure(base: runs.Run, images: ImageSet, folder: Path, noise: dict[str, Any]) -> dict[str, Any]:
    """Make one point, unless it is there, and return its figures, which a file beside its folder keeps."""
    if (kept := folder.with_suffix(folder.suffix + ".json")).is_file():
        return json.loads(kept.read_text("utf-8"))
    if folder.exists() and not (folder / "summary.json").is_file():
        shutil.rmtree(folder)  # noise of a given strength has no steps between which it could go on
    kind: Any = functools.partial(Fixed, **noise)
    made = hardening.harden(base, images, folder, max_drop=100, resume=folder.exists(), kind=kind)
    run, found = runs.Run.open(folder), {"accuracy": made["accuracy"], "seconds": made["seconds"]}
    for label, text in ATTACKS.items():
        file = folder / "attacks" / label / "summary.json"
        if not file.is_file():
            attack_run(run, config.Spec.model_validate(text), images, label=label, attacked=ATTACKED)
        each = records.per_image(folder, label)
        found[label] = {metric: float(each[metric].mean()) for metric in ("mse", "ssim")}
    found |= {"linkage_1000": linkage(run, images), "linear_error": made["hardening"]["steps"][0]["linear_error"]}
    write_json(kept, found)
    return found


def compared(out: Path, rows: dict[str, Any]) -> dict[str, Any]:
    """Every other point against isotropic noise on the plain encoder of its seed, at equal accuracy.

    Each seed alone, with intervals over its images; all together, over seeds and images, when all are there.
    """
    curve, found = [f"isotropic-{sigma}" for sigma in SIGMAS], {}
    for encoder in ENCODERS:
        for point in points(encoder):
            if encoder == "plain" and point in curve:
                continue
            seeds = [seed for seed in SEEDS if f"{encoder}-{seed}/{point}" in rows]
            for label in (*ATTACKS, *STRONGER):
                for chosen in [[seed] for seed in seeds] + [seeds] * (tuple(seeds) == SEEDS):
                    about = _difference(out, rows, (encoder, point), chosen, label)
                    name = f"{encoder}-{chosen[0]}" if len(chosen) == 1 else encoder
                    found.setdefault(f"{name}/{point}", {})[label] = about
    return found


def _difference(
    out: Path, rows: dict[str, Any], own: tuple[str, str], seeds: list[int], label: str
) -> dict[str, Any] | None:
    """One point against the curve of the strengths that all these seeds have; None: there are too few."""

    def attacked(encoder: str, point: str) -> bool:
        files = [out / f"{encoder}-{seed}-points" / point / "attacks" / label / "summary.json" for seed in seeds]
        return all(f"{encoder}-{seed}/{point}" in rows for seed in seeds) and all(map(Path.is_file, files))

    there = [sigma for sigma in SIGMAS if attacked("plain", f"isotropic-{sigma}")]
    if len(there) < LEAST_POINTS or not attacked(*own):
        return None
    wanted = [*(("plain", f"isotropic-{sigma}") for sigma in there), own]
    folders = [[out / f"{name}-{seed}-points" / one for name, one in wanted] for seed in seeds]
    errors = [np.stack([records.per_image(folder, label)["mse"] for folder in each]) for each in folders]
    hits = [np.stack([records.answers(folder).astype(float) for folder in each]) for each in folders]
    (result,) = at_equal_accuracy(there, errors, hits, shared=(False, True))
    difference = result.difference and result.difference.as_dict()
    return {"accuracy": result.accuracy, "log_ratio": difference, "beyond": result.beyond}


def means(rows: dict[str, Any]) -> dict[str, Any]:
    """Return the mean over the encoders of each point that all seeds have, under the name without the seed."""
    found: dict[str, Any] = {}
    for encoder in ENCODERS:
        for point in points(encoder):
            own = [rows.get(f"{encoder}-{seed}/{point}") for seed in SEEDS]
            if all(own):
                found[f"{encoder}/{point}"] = _mean(own)
    return found


def _mean(of_seeds: list[Any]) -> Any:
    """Return the mean of numbers, or of each entry that all of several dictionaries have."""
    if not isinstance(of_seeds[0], dict):
        return float(np.mean(of_seeds)) if isinstance(of_seeds[0], float | int) else None
    return {key: _mean([one[key] for one in of_seeds]) for key in of_seeds[0] if all(key in one for one in of_seeds)}


def table(rows: dict[str, Any], compared: dict[str, Any]) -> str:
    """The rows of the tables in docs/hardening-measured.md: means over the seeds, then each encoder."""
    return "\n\n".join(
        "\n".join(_row(name, row, compared.get(name, {})) for name, row in part.items()) for part in (means(rows), rows)
    )


def _row(name: str, row: dict[str, Any], compared: dict[str, Any]) -> str:
    cells = [*name.split("/"), f"{100 * row['accuracy']['mean']:.1f}", f"{row['linear']['mse']:.4f}"]
    for label in ("decoder", "residual"):
        about = (compared.get(label) or {}).get("log_ratio")
        cells += [f"{row[label]['mse']:.4f}" if label in row else "", _percent(about) if about else ""]
    cells += [f"{row['decoder']['ssim']:.2f}", f"{100 * row['linkage_1000']:.1f}"]
    return f"| {' | '.join(cells)} |"


def _percent(log_ratio: dict[str, Any]) -> str:
    value, low, high = (100 * np.expm1(x) for x in (log_ratio["mean"], *log_ratio["ci95"]))
    return f"{value:+.0f} % [{low:+.0f}, {high:+.0f}]"


def main() -> None:
    """Train, harden, attack and write the record after each point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--out", type=Path, default=Path("front"))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--only", default="*", help="names of encoders, with * and ?, such as plain-1")
    parser.add_argument("--no-run", action="store_true", help="only gather the points that are done")
    parser.add_argument("--points", default="*", help="names of noises, in the same way")
    given = parser.parse_args()
    rows: dict[str, Any] = {}
    for encoder, seed in plan(tuple(given.seeds)):
        if not fnmatch.fnmatch(name := f"{encoder}-{seed}", given.only):
            continue
        # Absolute: the root is a setting of the run, and a resumed run must have the same settings.
        own = {**SETTINGS, "defense": ENCODERS[encoder], "seed": seed, "root": given.root.absolute()}
        settings = config.parse(own).resolve()
        images, folder = runs.load_images(settings), given.out / name
        if given.no_run and not (folder / "summary.json").is_file():
            continue
        fit(settings, images, folder, resume=True)
        base, shared = runs.Run.open(folder), {}
        for point, noise in points(encoder).items():
            place, start = given.out / f"{name}-points" / point, time.perf_counter()
            done = place.with_suffix(place.suffix + ".json").is_file()
            if not fnmatch.fnmatch(point, given.points) or (given.no_run and not done):
                continue
            row = measure(base, images, place, noise | {"shared": shared})
            rows[f"{name}/{point}"] = row | {
                label: {metric: float(values.mean()) for metric, values in records.per_image(place, label).items()}
                for label in STRONGER
                if (place / "attacks" / label / "summary.json").is_file()
            }
            errors = "  ".join(f"{label} {row[label]['mse']:.4f}" for label in ATTACKS)
            accuracy = 100 * row["accuracy"]["mean"]
            print(f"{name}/{point}  {accuracy:.2f} %  {errors}  {time.perf_counter() - start:.0f} s", flush=True)
            if not given.no_run:
                write(given.out, rows)
    print(table(rows, write(given.out, rows)))


def write(out: Path, rows: dict[str, Any]) -> dict[str, Any]:
    """Write the record of the points that are there, and return their comparisons."""
    about = {"environment": runs.environment(), "command": "python benchmarks/hardening_front.py"}
    about |= {"attacks": ATTACKS, "attacked": ATTACKED, "settings": SETTINGS, "encoders": ENCODERS}
    about |= {"points": rows, "compared": compared(out, rows)}
    write_json(out / RECORD.name, about)
    return about["compared"]


if __name__ == "__main__":
    main()
