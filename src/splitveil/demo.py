"""The demo: a grid of four cells on digits, three noises against one with CEM, shown by the report of all grids."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from . import config, data
from .bench.cell import run_cell
from .bench.cells import Cell, Grid
from .bench.driver import describe
from .bench.folder import GridFolder, steps
from .errors import UserError
from .progress_bars import Bars
from .report.bench import build
from .storage.files import write_text
from .storage.folders import foreign

SETTINGS: dict[str, Any] = {
    **{"data": "digits", "arch": "resnet20_sgm", "cut": 5, "bottleneck": 2, "epochs": 9},
    "protocol": "train_time",
}
NOISE = "gaussian:0.05"
MODELS = {
    # cem:0 trains nothing; it estimates the leakage, so that the two can be compared.
    "Gaussian noise alone": (NOISE, "cem:0"),
    "Gaussian noise and CEM": (NOISE, "cem:weight=8,schedule=ramp"),
    # The curve of noise alone, on which CEM is compared at equal accuracy.
    **{f"Gaussian noise of {sigma} alone": (f"gaussian:{sigma}", "cem:0") for sigma in (0.4, 1)},
}
ATTACKS = {
    "linear": config.Spec(name="linear"),
    "decoder": config.Spec(name="decoder", parameters={"epochs": 10, "network": "res_normN2C32", "batch_size": 64}),
}
ABOUT = (
    "CEM hides nothing from the eye here: whoever sees the attacker's pictures can read most of the digits, with CEM "
    "as without. This is a tour of the method, not evidence for a deployment: one small image set (scikit-learn's "
    "digits, shown as 32×32), two cheap attacks, one seed, short trainings. A stronger attack may recover more. A "
    "defense is judged by three or more trainings of each, at equal accuracy (splitveil bench, splitveil compare). The "
    "independent classifier that reads the reconstructions is a support vector machine, trained on the clean training "
    "images."
)
MARKER = ".splitveil-demo"


def run_demo(out: Path, *, seed: int = 0, bar: Bars | None = None) -> Path:
    """Train and attack the four models under ``out``, write ``out/report.html`` and return its path.

    Args:
        out: a new folder, or one that an earlier demo made, whose cells are replaced.
        seed: of all trainings.
        bar: shows how far each model is; None: nothing does.

    Raises:
        UserError: ``out`` exists and is not an earlier demo.
    """
    out = Path(out)
    if foreign(out) and not (out / MARKER).exists():
        raise UserError(f"{out} exists and holds no earlier demo; choose an empty or new folder for --out")
    write_text(out / MARKER, "made by splitveil demo; another demo may replace what is here\n")
    for name in ("cells", "grids", "noise", "cem"):  # the last two are of earlier versions
        shutil.rmtree(out / name, ignore_errors=True)
    grid = Grid("demo", ABOUT, tuple(_cell(title, seed) for title in MODELS))
    describe(grid, out, f"splitveil demo --out {shlex.quote(str(out))} --seed {seed}")
    images = data.load("digits")
    reader = Reader.of(images)
    read = {"reidentified": reader, "recognized": replace(reader, original=True)}
    for cell in grid.cells:
        shown = _progress(cell, out, bar)
        # The retraining of tails would add a third to the time.
        run_cell(cell, out, grid=grid.name, images=images, check=shown, retrain=False, extra=read)
    return build(out)


@dataclass(frozen=True)
class Reader:
    """A reader of digits that is neither the defender's nor the attacker's: a metric of attacks.

    Attributes:
        machine: support vector machine on the images, averaged down to 8×8 as scikit-learn has them.
        original: read the originals, which is the best that it can do.
    """

    machine: Any
    original: bool = False

    @classmethod
    def of(cls, images: data.ImageSet) -> Reader:
        """Return a reader that has learned the clean training images.

        Args:
            images: digits.
        """
        from sklearn.svm import SVC

        return cls(SVC().fit(_averaged(data.to_float(images.train.images)), images.train.labels.numpy()))

    @property
    def about(self) -> dict[str, Any]:
        """Return what reads."""
        return {"reader": "support vector machine of the clean training images"}

    def __call__(self, found: Tensor, truth: Tensor, labels: Tensor) -> Tensor:
        """Return whether it reads the right digit, bool (N,), in images (N, 3, 32, 32) in [0, 1]."""
        read = self.machine.predict(_averaged(truth if self.original else found))
        return torch.from_numpy(read == labels.cpu().numpy())


def _averaged(images: Tensor) -> Any:
    return avg_pool2d(images.float().mean(1, keepdim=True), images.shape[-1] // 8).flatten(1).cpu().numpy()


def _cell(title: str, seed: int) -> Cell:
    settings = config.parse({**SETTINGS, "defense": MODELS[title], "seed": seed}).resolve()
    attacks = {label: spec.resolve("attacks") for label, spec in ATTACKS.items()}
    return Cell(settings, attacks, axes={"label": title})


def _progress(cell: Cell, out: Path, bar: Bars | None) -> Any:
    """Return what `run_cell` calls after each step: it shows the epochs and attacks that are done."""
    if bar is None:
        return None
    folder, total = GridFolder(out).run(cell.id), cell.settings.epochs + len(cell.attacks)
    task = bar.add_task(cell.axes["label"], total=total, note="training, then attacks")
    return lambda: bar.update(task, completed=sum(steps(folder)))
