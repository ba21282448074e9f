"""Draw what `benchmarks/trained_tradeoff.py` recorded: test accuracy against the error of the best attacker.

    python benchmarks/trained_tradeoff_picture.py [--out docs/trained_tradeoff.png]

A small point is one training. The line joins the means of noise alone over the seeds, as the comparison does (monotone
cubic interpolation of log MSE); the large points are means. It draws nothing before the comparison has been written.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import trained_tradeoff as benchmark

from splitveil.statistics.noise_curve import on_curve

COLORS = {"noise": "#c2571a", "cem4": "#6a3d9a", "one4": "#8c6d1f"}
NAMES = {
    "noise": "noise alone, σ = {}",
    "cem4": "noise of 0.025 and cem:4",
    "one4": "noise of 0.025 and CEM of one Gaussian",
}


def places(records: dict[str, Any], point: str) -> np.ndarray:
    """Return accuracy in % and MSE of the best attacker in each training of a point, (seeds, 2)."""
    made = [records[name] for seed in benchmark.SEEDS if (name := f"{point}-s{seed}") in records]
    return np.array([(100 * benchmark.hits_of(one).mean(), benchmark.errors_of(one, "best").mean()) for one in made])


def curve(means: np.ndarray, sigmas: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracies and the error of noise alone at them, between the first and the last strength."""
    at = np.linspace(means[:, 0].min(), means[:, 0].max(), 100)
    found = [on_curve(sigmas, means[:, 0] / 100, np.log(means[:, 1]), accuracy / 100)[0] for accuracy in at]
    return at, np.exp(np.array(found, dtype=float))


def drawn(records: dict[str, Any], sigmas: tuple[float, ...]) -> Any:
    """Return the figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    points = {f"noise-{sigma}": "noise" for sigma in sigmas} | dict.fromkeys((*benchmark.CEM, *benchmark.CONTROL))
    means = []
    for point, kind in points.items():
        found = places(records, point)
        if not len(found):
            continue
        color, mean = COLORS[kind or point], found.mean(0)
        axes.plot(*found.T, "o", color=color, ms=4, alpha=0.45)
        axes.plot(*mean, "s" if kind else "D", color=color, ms=8, label=None if kind else NAMES[point])
        if kind:
            means.append(mean)
    label = NAMES["noise"].format(", ".join(map(str, sigmas)))
    axes.plot(*curve(np.array(means), sigmas), color=COLORS["noise"], label=label)
    axes.set(xlabel="accuracy on the test images after the tail was trained on, %", ylim=(0, None))
    axes.set_ylabel("error of the best attacker (MSE)")
    axes.set_title("CIFAR-10, VGG-11, four trainings of each: more noise, and CEM", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "trained_tradeoff.png")
    given = parser.parse_args()
    if not benchmark.RECORD.is_file():
        sys.exit(f"{benchmark.RECORD.name} is not there: nothing is drawn before all cells of the endpoint are")
    sigmas = tuple(json.loads(benchmark.RECORD.read_text("utf-8"))["sigmas"])
    figure = drawn(benchmark.read([benchmark.RECORD.with_suffix(".jsonl")]), sigmas)
    figure.savefig(given.out, dpi=110, metadata={"Software": ""})


if __name__ == "__main__":
    main()
