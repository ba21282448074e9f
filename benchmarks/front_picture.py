"""Draw what `benchmarks/short_front.py` or `full_front.py` recorded: test accuracy against the error of `residual`.

    python benchmarks/front_picture.py short_front|full_front [--out docs/short_front.png]

Points are means over the seeds. The lines join the strengths of isotropic and of water-filled noise on `plain`, as the
comparison does. It draws nothing before the comparison has been written.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from fronts import Front
from trained_tradeoff_picture import curve

TRAININGS = {"short_front": "short trainings", "full_front": "4 epochs on all images"}
FILLED = ("noise where the task looks least (splitveil harden)", "#0b6e99", "o")
ISOTROPIC = ("the same noise in all directions", "#c2571a", "s")
COLORS = {"cem": "#6a3d9a", "adversarial": "#2f7d32", "one": "#8c6d1f", "released": "#e6a500"}
MARKERS = {"cem": "D", "adversarial": "D", "one": "X", "released": "v"}
IMPROVED = {
    "plain/again-0.15": ("Fisher information measured again", "#0b6e99", "D"),
    "plain/waterfill-0.15+encoder": ("the encoder trained on through it", "#0b6e99", "^"),
    "plain/isotropic-0.1+encoder": ("the encoder trained on through isotropic noise", "#c2571a", "^"),
}
WORDS = {"one": "CEM of one Gaussian", "released": "CEM's published loss"}


def beside(front: Front) -> dict[str, tuple[str, str, str]]:
    """Return label, color and marker of each point that lies on neither curve."""
    names = [f"{encoder}/{point}" for encoder, points in front.points.items() for point in points if encoder in COLORS]
    found = {name: IMPROVED[name] for name in IMPROVED if name.split("/")[1] in front.points["plain"]}
    for name in names:
        encoder, _, point = name.partition("/")
        label = "encoder of " + WORDS.get(encoder, front.names[encoder].strip("`"))
        label += ", water-filled noise" if point != "own" else ""
        found[name] = (label, COLORS[encoder], MARKERS[encoder] if point == "own" else "P")
    return found


def place(rows: dict[str, Any], name: str) -> tuple[float, float]:
    """Return a point's accuracy in % and error."""
    return 100 * rows[name]["accuracy"][0], rows[name]["residual_mse"][0]


def drawn(front: Front, rows: dict[str, Any]) -> Any:
    """Return the figure of the rows of a front's record."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for strengths, (label, color, marker) in ((front.filled, FILLED), (front.isotropic, ISOTROPIC)):
        means = np.array([place(rows, name) for name in strengths.values()])
        axes.plot(*curve(means, tuple(strengths)), color=color)
        axes.plot(*means.T, marker, color=color, ms=5, label=label)
    for name, (label, color, marker) in beside(front).items():
        if name in rows:
            axes.plot(*place(rows, name), marker, color=color, ms=9, mec="white", ls="", label=label)
    axes.set(xlabel="accuracy on the test images, %", ylabel="error of the attack residual (MSE)", ylim=(0, None))
    axes.set_title(f"CIFAR-10, VGG-11, {TRAININGS[front.stem]}, means of three", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("front", choices=tuple(TRAININGS))
    parser.add_argument("--out", type=Path, help="docs/FRONT.png by default")
    given = parser.parse_args()
    front: Front = importlib.import_module(given.front).FRONT
    if not front.record.is_file():
        sys.exit(f"{front.record.name} is not there: nothing is drawn before all cells are")
    rows = json.loads(front.record.read_text("utf-8"))["rows"]
    out = given.out or Path(__file__).parents[1] / "docs" / f"{front.stem}.png"
    drawn(front, rows).savefig(out, dpi=110, metadata={"Software": ""})


if __name__ == "__main__":
    main()
