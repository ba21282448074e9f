"""Draw what `benchmarks/hardening.py` recorded: accuracy against the best linear attacker's error, for both noises.

    python benchmarks/hardening_picture.py [--out docs/hardening.png]

Every point is one strength of noise with a tail that was trained for one pass: accuracy on validation images, error by
the closed form. Dotted: the error of the mean image of the true class, from benchmarks/audit.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HERE = Path(__file__).parent
NAMES = {
    "waterfill-1": "noise in the directions that the task needs least (splitveil harden)",
    "isotropic-1": "noise of one strength in all directions",
}
COLORS = {"waterfill-1": "#0b6e99", "isotropic-1": "#c2571a"}


def main() -> None:
    """Draw the picture."""
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "hardening.png")
    given = parser.parse_args()
    record = json.loads((HERE / "hardening.json").read_text("utf-8"))
    ceiling = json.loads((HERE / "audit.json").read_text("utf-8"))["ceilings"]["class_mean"]
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for arm, name in NAMES.items():
        steps = [step for step in record["arms"][arm]["steps"] if not step["whole"]]
        points = sorted((100 * step["accuracy"], step["linear_error"]) for step in steps)
        axes.plot(*zip(*points, strict=True), "o-", color=COLORS[arm], label=name)
    axes.axhline(ceiling, color="#555", linestyle=":", label="the mean image of the true class")
    axes.set(xlabel="accuracy, %", ylabel="attacker's error (MSE)", ylim=(0, 1.1 * ceiling))
    axes.set_title("CIFAR-10, VGG-11: error of the best linear attacker", loc="left", fontsize=11)
    axes.legend(loc="center left", bbox_to_anchor=(0, 0.62), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(given.out, dpi=110, metadata={"Software": ""})


if __name__ == "__main__":
    main()
