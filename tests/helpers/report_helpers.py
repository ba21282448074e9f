"""Small bench folders, made of the files that a run leaves, without training anything, and the page made of one."""

from __future__ import annotations

import json
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from splitveil import config
from splitveil.bench.cells import Cell
from splitveil.bench.record import build
from splitveil.pictures import save_arrays
from splitveil.results import records
from splitveil.statistics import intervals

NETWORK = {"data": "cifar10", "arch": "vgg11_bn_sgm", "cut": 4, "bottleneck": 8, "train_size": 500, "epochs": 3}
ATTACKS = {"linear": "linear", "decoder": "decoder:epochs=2"}
IMAGES = 40
PLACES = np.array([1, 5, 6, 30])
"""The attacked images whose pictures are there."""
VOID = {"meta", "img", "input", "br"}


def interval(values: Any) -> dict[str, Any]:
    return intervals.bootstrap_ci(values).as_dict()


def cell(*defense: str, seed: int = 0, **settings: Any) -> Cell:
    """A cell as a grid makes it."""
    parsed = config.parse({**NETWORK, "defense": list(defense), "seed": seed, **settings}).resolve()
    specs = {label: config.Spec.model_validate(text).resolve("attacks") for label, text in ATTACKS.items()}
    return Cell(parsed, specs, 200, IMAGES, {"defense": list(defense), "seed": seed})


def run_folder(
    folder: Path,
    of: Cell,
    accuracy: float,
    errors: dict[str, np.ndarray],
    *,
    digest: str | None = "images-0",
    class_mean: float | None = 0.05,
    **more: Any,
) -> Path:
    """Everything that training and attacks leave and a record is made of.

    ``errors``: attack -> MSE of each image; ``class_mean``: that of the mean image of the true class, None as before it
    was measured.
    """
    folder.mkdir(parents=True)
    environment = {"splitveil": "0.1.0", "torch": "2.14", "python": "3.11", "processor": "any", "cores": 2, "gpu": None}
    summary = {
        "accuracy": intervals.binomial_ci(round(1000 * accuracy), 1000).as_dict(),
        **{"accuracy_val": accuracy, "epoch": 2, "leakage_nats": 100 * accuracy, "seconds": 12.0},
        **{"wire": {"shape": [8, 8, 8], "bytes": 2048}, "parameters": {"encoder": 1, "tail": 2, "defense": 0}},
        **{"environment": environment, "images": {"train": 90, "test": 1000}},
        **more,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    lines = [
        {"epoch": e, "loss": 2.0 - e / 2, "losses": {}, "accuracy_val": accuracy - 0.1 / (e + 1)}
        | {"leakage_nats": None, "seconds": 4.0}
        for e in range(3)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for label, mse in errors.items():
        attack = folder / "attacks" / label
        attack.mkdir(parents=True)
        values = {"mse": mse, "psnr": -10 * np.log10(mse), "ssim": 1 - 10 * mse}
        columns = values if class_mean is None else values | {"class_mean_mse": np.full(len(mse), class_mean)}
        rows = [
            ",".join([str(i), *(f"{v:.8g}" for v in row)]) for i, row in enumerate(zip(*columns.values(), strict=True))
        ]
        (attack / "per_image.csv").write_text("\n".join([",".join(["image", *columns]), *rows]) + "\n")
        found = {
            "attack": of.attacks[label].model_dump(),
            "protocol": of.settings.protocol,
            "images": {"attacker": 90, "attacked": len(mse)},
            **{name: interval(value) for name, value in values.items()},
            **{"baseline_mse": 0.06, "flags": [], "seconds": 3.0, "images_digest": digest},
            **({} if class_mean is None else {"class_mean_mse": class_mean}),
        }
        (attack / "summary.json").write_text(json.dumps(found))
        images = np.random.default_rng(len(label)).integers(0, 256, (2, 4, 3, 32, 32)).astype(np.uint8)
        save_arrays(attack / "reconstructions.npz", originals=images[0], reconstructions=images[1], places=PLACES)
    return folder


def add(out: Path, of: Cell, accuracy: float, error: float, *, grid: str = "small", **more: Any) -> dict[str, Any]:
    """A finished cell whose decoder has about this error; images of one seed are equally hard for every cell."""
    hard = np.random.default_rng(of.settings.seed).uniform(0.5, 1.5, IMAGES)
    errors = {"linear": 1.3 * error * hard, "decoder": error * hard}
    digest = more.pop("digest", f"images-{of.settings.seed}")
    folder = run_folder(out / "cells" / of.id, of, accuracy, errors, digest=digest, **more)
    record = build(folder, of, grid=grid, attempts=1, started=time.time() - 20)
    records.write(folder, record)
    return record


def change(path: Path, **more: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def again(out: Path, of: Cell, error: float, label: str = "decoder", count: int = IMAGES, **more: Any) -> None:
    """Make an attack on a finished cell again, as `splitveil attack` does: its record stays as it was."""
    folder = out / "cells" / of.id / "attacks" / label
    values = {"mse": error, "psnr": 15.0, "ssim": 0.5}
    rows = [",".join(map(str, (i, *values.values(), 0.05))) for i in range(count)]
    (folder / "per_image.csv").write_text("\n".join(["image,mse,psnr,ssim,class_mean_mse", *rows]) + "\n")
    figures = {name: {"mean": value, "ci95": [value, value]} for name, value in values.items()}
    change(folder / "summary.json", images={"attacker": 90, "attacked": count}, **figures, **more)


def fail(out: Path, of: Cell, error: str, log: str | None = None) -> None:
    """A cell that was given up."""
    note = {"schema": 1, "id": of.id, "axes": of.axes, "config": of.settings.model_dump(mode="json")}
    records.write_json(out / "failed" / f"{of.id}.json", {**note, "error": error, "log": log, "attempts": 3})


def bench(out: Path, seeds: int = 2) -> Path:
    """Noise at three strengths, and two defenses without and with CEM, which raises errors by half."""
    for seed in range(seeds):
        step = 0.004 * seed
        add(out, cell("gaussian:0.025", "cem:0", seed=seed), 0.62 + step, 0.010)
        add(out, cell("gaussian:0.025", "cem:16", seed=seed), 0.60 + step, 0.015 + step / 10)
        add(out, cell("gaussian:0.025", "dropout:0.2", "cem:0", seed=seed), 0.58 + step, 0.013)
        add(out, cell("gaussian:0.025", "dropout:0.2", "cem:16", seed=seed), 0.57 + step, 0.020 + step / 10)
        add(out, cell("gaussian:0.1", "cem:0", seed=seed), 0.59 + step, 0.012)
        add(out, cell("gaussian:0.4", "cem:0", seed=seed), 0.50 + step, 0.016)
    return out


class Page(HTMLParser):
    """Checks that tags nest; collects tags, scripts and text."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif inside != "style":
            self.text += data

    def data(self, name: str) -> Any:
        (text,) = [text for attributes, text in self.scripts if attributes.get("id") == name]
        return json.loads(text)
