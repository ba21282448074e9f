"""Draw what `benchmarks/short_front.py` recorded: test accuracy against the error of the attack `residual`.

    python benchmarks/short_front_picture.py [--out docs/short_front.png]

Points are means over the seeds. The lines join the strengths of isotropic and of water-filled noise on `plain`, as the
comparison does. It draws nothing before the comparison has been written.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from short_front import FRONT
from trained_tradeoff_picture import curve

CURVES = {
    "noise where the task looks least (splitveil harden)": (FRONT.filled, "#0b6e99", "o"),
    "the same noise in all directions": (FRONT.isotropic, "#c2571a", "s"),
}
BESIDE = {
    "plain/again-0.15": ("Fisher information measured again", "#0b6e99", "D"),
    "plain/waterfill-0.15+encoder": ("the encoder trained on through it", "#0b6e99", "^"),
    "plain/isotropic-0.1+encoder": ("the encoder trained on through isotropic noise", "#c2571a", "^"),
    "cem/own": ("encoder of cem:16", "#6a3d9a", "D"),
    "cem/waterfill-0.06": ("encoder of cem:16, water-filled noise", "#6a3d9a", "P"),
    "adversarial/own": ("encoder of adversarial:0.3", "#2f7d32", "D"),
    "adversarial/waterfill-0.06": ("encoder of adversarial:0.3, water-filled noise", "#2f7d32", "P"),
    "one/own": ("encoder of CEM of one Gaussian", "#8c6d1f", "X"),
    "released/own": ("encoder of CEM's published loss", "#e6a500", "v"),
}


def place(rows: dict[str, Any], name: str) -> tuple[float, float]:
    """Return a point's accuracy in % and error."""
    return 100 * rows[name]["accuracy"][0], rows[name]["residual_mse"][0]


def drawn(rows: dict[str, Any]) -> Any:
    """Return the figure of the rows of a record."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for label, (strengths, color, marker) in CURVES.items():
        means = np.array([place(rows, name) for name in strengths.values()])
        axes.plot(*curve(means, tuple(strengths)), color=color)
        axes.plot(*means.T, marker, color=color, ms=5, label=label)
    for name, (label, color, marker) in BESIDE.items():
        if name in rows:
            axes.plot(*place(rows, name), marker, color=color, ms=9, mec="white", ls="", label=label)
    axes.set(xlabel="accuracy on the test images, %", ylabel="error of the attack residual (MSE)", ylim=(0, None))
    axes.set_title("CIFAR-10, VGG-11, short trainings, means of three", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "short_front.png")
    given = parser.parse_args()
    if not FRONT.record.is_file():
        sys.exit(f"{FRONT.record.name} is not there: nothing is drawn before all cells are")
    rows = json.loads(FRONT.record.read_text("utf-8"))["rows"]
    drawn(rows).savefig(given.out, dpi=110, metadata={"Software": ""})


if __name__ == "__main__":
    main()
