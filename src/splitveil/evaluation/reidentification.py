"""Re-identification: how often an independent classifier recognizes the class in a reconstruction.

The judge is the evaluator's tool, neither the defender's nor the attacker's: it is trained on the clean training images
of the run's image set, with another network and another seed than the victim.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import TypedDict

from .. import config, runs
from ..data import ImageSet, to_float
from ..data.protocol import without
from ..errors import UserError
from ..memory import placed
from ..model import SplitModel
from ..recipe import RECIPES
from ..storage import reading
from ..storage.files import write_safetensors
from ..training import trainer

SEED = 20_250_000
"""Seed of every judge, so that two runs are judged by the same one."""
EPOCHS = 30
RECIPE = "published"
ARCH = "resnet20"
STEPS, LEAST_BATCH = 300, 32
"""Fewest steps of a judge's training by the fast recipe, and the smallest batches that are taken to make them."""
FILE = "judge.safetensors"


@dataclass(frozen=True)
class Judge:
    """A classifier of clean images that scores reconstructions.

    Attributes:
        about: network, seed, epochs, number of training images, ``accuracy`` on the clean test images with its
            interval, and the fingerprint of all it was made from. A share of reconstructions that are recognized
            means little without that accuracy beside it.
    """

    model: SplitModel
    about: dict[str, Any]

    @classmethod
    def train(
        cls,
        images: ImageSet,
        seed: int = SEED,
        progress: trainer.Progress | None = None,
        *,
        arch: str = ARCH,
        epochs: int = EPOCHS,
        recipe: str = RECIPE,
    ) -> Judge:
        """Train a judge with the project's own recipe on the clean training images of ``images``.

        Training images whose pixels are among the test images are left out: an attack reconstructs test images, which
        the judge must not have seen. A tenth of the training images chooses the epoch.

        Args:
            images: image set of the attacked run.
            seed: of the weights and of the training.
            progress: called after each step, as that of a training.
            arch: network, see `splitveil list models`.
            epochs: of the training.
            recipe: of the training, "published" or "fast".

        Raises:
            UserError: unknown network, or too few images.
        """
        identity = fingerprint(images, seed, arch=arch, epochs=epochs, recipe=recipe)
        known = replace(images, train=without(images.train, [images.test]))
        settings = _settings(images, seed, arch, epochs, recipe)
        # Layers draw their weights from torch's global generators, which are the caller's.
        with torch.random.fork_rng(), tempfile.TemporaryDirectory(prefix="splitveil-judge-") as folder:
            summary = trainer.fit(settings, known, folder, progress=progress)
            model = runs.Run.open(folder).model(known)
        about = {"network": arch, "seed": seed, "epochs": epochs, "images": summary["images"]["train"]}
        about |= {"recipe": recipe} if recipe != RECIPE else {}
        return cls(_placed(model), about | {"accuracy": summary["accuracy"], "fingerprint": identity})

    @torch.no_grad()
    def correct(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return in which images the judge sees the true class: bool (N,), on the CPU.

        Args:
            images: (N, C, S, S), uint8 or floats in [0, 1], of the size of the training images.
            labels: int64, (N,).

        Raises:
            UserError: shapes do not fit.
        """
        shape = self.model.image_shape
        if tuple(images.shape[1:]) != shape or labels.shape != images.shape[:1]:
            raise UserError(
                f"a judge got images {tuple(images.shape)} and labels {tuple(labels.shape)}; "
                f"expected (N, {', '.join(map(str, shape))}) and (N,)"
            )
        found = []
        for part in images.split(trainer.EVALUATION_BATCH):
            x = (to_float(part) if part.dtype == torch.uint8 else part.float()).to(self.model.mean.device)
            found.append(self.model.tail(self.model.features(x.to(memory_format=torch.channels_last))).argmax(1))
        return torch.cat(found).cpu() == labels.cpu()

    def metrics(self) -> dict[str, Recognition]:
        """Return the metrics that `evaluate` takes as ``extra``.

        ``reidentified``: whether the judge sees the true class in the reconstruction; ``recognized``: in the original,
        which is the best that the judge can do.
        """
        return {"reidentified": Recognition(self, False), "recognized": Recognition(self, True)}

    def save(self, path: str | Path) -> None:
        """Write weights and ``about`` as one safetensors file, in one rename.

        Args:
            path: file that is written or replaced.
        """
        write_safetensors(path, self.model.state_dict(), {"judge": json.dumps(self.about)})

    @classmethod
    def load(cls, path: str | Path, images: ImageSet) -> Judge:
        """Load a judge of ``images``.

        Args:
            path: file that `save` wrote.
            images: image set that the judge was trained on.

        Raises:
            UserError: the file is missing, damaged, no judge, or a judge of other images.
        """
        path = Path(path)
        about = _about(path)
        arch, seed, epochs, recipe = about["network"], about["seed"], about["epochs"], about.get("recipe", RECIPE)
        if fingerprint(images, seed, arch=arch, epochs=epochs, recipe=recipe) != about["fingerprint"]:
            raise UserError(
                f"{path} was trained on other images than {images.name} here, or by another version; delete it, a new "
                "one is made"
            )
        with torch.random.fork_rng():  # as above
            model = runs.build_model(_settings(images, seed, arch, epochs, recipe), images)
        runs.load_weights(model, path)
        return cls(_placed(model), about)


@dataclass(frozen=True)
class Recognition:
    """A metric of an attack: whether ``judge`` sees the true class in the original or in the reconstruction."""

    judge: Judge
    original: bool

    @property
    def about(self) -> dict[str, Any]:
        """Return the judge's description."""
        return self.judge.about

    def __call__(self, found: Tensor, truth: Tensor, labels: Tensor) -> Tensor:
        """Return bool (N,) for reconstructions and originals (N, C, S, S) and their classes (N,)."""
        return self.judge.correct(truth if self.original else found, labels)


def judge_for(
    run: runs.Run,
    images: ImageSet,
    *,
    cache: str | Path | None = None,
    progress: trainer.Progress | None = None,
    epochs: int = EPOCHS,
    recipe: str = RECIPE,
) -> Judge:
    """Return the judge of a run; train it where it is not kept yet.

    Args:
        run: attacked run.
        images: its image set.
        cache: folder in which runs with the same images share a judge, under its fingerprint; without it the judge is
            kept as ``RUN/judge.safetensors``.
        progress: called after each step, as that of a training.
        epochs: of the judge's training.
        recipe: of the judge's training.

    Raises:
        UserError: the judge that is kept is damaged, or there are too few images.
    """
    arch = independent_of(run.settings.arch, images.size)
    identity = fingerprint(images, SEED, arch=arch, epochs=epochs, recipe=recipe)
    path = run.path / FILE if cache is None else Path(cache) / f"judge-{identity[:12]}.safetensors"
    if path.is_file() and _about(path)["fingerprint"] == identity:
        return Judge.load(path, images)
    judge = Judge.train(images, progress=progress, arch=arch, epochs=epochs, recipe=recipe)
    judge.save(path)
    return judge


def independent_of(victim: str, image_size: int) -> str:
    """Return the judge's network: of another family than the victim's, and cheap to train.

    Args:
        victim: network of the attacked run.
        image_size: side of the images in pixels.

    >>> independent_of("vgg11_bn_sgm", 32), independent_of("timm:resnet18@layer2", 32)
    ('resnet20', 'vgg11_bn')
    """
    if "resnet" not in victim:
        return ARCH
    return "vgg11_bn" if image_size >= 32 else "mobilenetv2"  # VGG's poolings leave nothing of smaller images


def fingerprint(images: ImageSet, seed: int, *, arch: str, epochs: int, recipe: str = RECIPE) -> str:
    """Return the SHA-256 of all that makes a judge: the images, their classes, network, seed, epochs and recipe.

    Args:
        images: image set of the attacked run.
        seed: of the judge.
        arch: network of the judge.
        epochs: of its training.
        recipe: of its training; the published one, which earlier versions always took, leaves no trace.
    """
    labels = [split.labels.cpu().numpy().tobytes() for split in (images.train, images.test)]
    parts = [images.train.digest(), images.test.digest(), images.classes, arch, seed, epochs]
    parts += [recipe] if recipe != RECIPE else []
    parts += [_batches(images, epochs, recipe)] if _batches(images, epochs, recipe) else []
    parts += [RECIPES["fast"]["optimizer"]] if recipe == "fast" else []  # before, it was SGD: that judge is another one
    return hashlib.sha256(b"".join([*labels, json.dumps(parts).encode()])).hexdigest()


def _settings(images: ImageSet, seed: int, arch: str, epochs: int, recipe: str) -> config.TrainConfig:
    # Where the network is cut does not matter: nothing is defended. train_time: all but a tenth is trained on.
    values = {"data": images.name, "arch": arch, "cut": 1, "protocol": "train_time", "epochs": epochs, "seed": seed}
    return config.parse({**values, **_batches(images, epochs, recipe), "recipe": recipe}).resolve()


def _batches(images: ImageSet, epochs: int, recipe: str) -> dict[str, Any]:
    """Return smaller batches for the fast recipe where its own make too few steps, with the rate that goes with them.

    Of 500 images it makes one step an epoch, and a judge of a dozen steps sees nothing.
    """
    fast = RECIPES["fast"]
    batch = fast["batch_size"]
    while recipe == "fast" and batch > LEAST_BATCH and 0.9 * len(images.train) * epochs < STEPS * batch:
        batch //= 2
    share = batch / fast["batch_size"]
    return {} if share == 1 else {"batch_size": batch, "lr": fast["lr"] * share}


def _placed(model: SplitModel) -> SplitModel:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return placed(model.eval().requires_grad_(False), device)


class About(TypedDict):
    """The description in a judge's file."""

    network: str
    seed: reading.Count
    epochs: reading.Count
    images: reading.Count
    accuracy: reading.Interval
    fingerprint: str
    recipe: NotRequired[str]


ABOUT = TypeAdapter(About)


def _about(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            stored = (file.metadata() or {}).get("judge", "")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the judge {path}: {error}; delete it, a new one is made") from None
    try:
        return dict(ABOUT.validate_json(stored, strict=True))
    except ValidationError:
        raise UserError(f"{path} holds no judge; expected what Judge.save wrote; move it away") from None
