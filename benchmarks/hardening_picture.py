"""Draw what `benchmarks/hardening_front.py` recorded: test accuracy against the error of a decoder.

    python benchmarks/hardening_picture.py [--record benchmarks/hardening_front.json] [--out docs/hardening.png]

Isotropic and water-filled noise are drawn, not what was tried besides. A point is one noise on one encoder with its
tail trained on; a line joins the strengths of one noise on one encoder.
Dotted: the error of the mean image of the true class, from benchmarks/audit.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STYLES = {
    ("plain", "waterfill"): ("o-", "#0b6e99", "noise where the task looks least (splitveil harden)"),
    ("plain", "isotropic"): ("s-", "#c2571a", "the same noise in all directions"),
    ("cem16", "isotropic"): ("D", "#6a3d9a", "encoder trained with cem:16, clusters that stay (follow=0)"),
    ("follow4", "isotropic"): ("d", "#b15928", "encoder trained with cem:4"),
    ("follow4", "waterfill"): ("P", "#2f7d32", "that encoder, noise where the task looks least"),
    ("follow16", "isotropic"): ("v", "#e6a500", "encoder trained with cem:16"),
    ("one4", "isotropic"): ("X", "#8c6d1f", "encoder trained with CEM of one Gaussian"),
}


def lines(points: dict[str, Any]) -> dict[tuple[str, str], dict[str, list[tuple[float, float]]]]:
    """Accuracy and error of each noise, by encoder and noise, then by seed."""
    found: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for name, row in points.items():
        encoder, _, point = name.partition("/")
        (kind, seed), (noise, _, strength) = encoder.split("-"), point.partition("-")
        if (kind, noise) in STYLES and strength.replace(".", "").isdigit():
            place = 100 * row["accuracy"]["mean"], row["decoder"]["mse"]
            found.setdefault((kind, noise), {}).setdefault(seed, []).append(place)
    return found


def main() -> None:
    """Draw the picture."""
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, default=HERE / "hardening_front.json")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "hardening.png")
    given = parser.parse_args()
    record = json.loads(given.record.read_text("utf-8"))
    ceiling = json.loads((HERE / "audit.json").read_text("utf-8"))["ceilings"]["class_mean"]
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes, drawn = figure.add_subplot(), lines(record["points"])
    for key, (style, color, name) in STYLES.items():
        for number, points in enumerate(drawn.get(key, {}).values()):
            axes.plot(
                *zip(*sorted(points), strict=True), style, color=color, label=None if number else name, ms=5, alpha=0.85
            )
    axes.axhline(ceiling, color="#555", linestyle=":", label="the mean image of the true class")
    axes.set(xlabel="accuracy on the test images, %", ylabel="error of the decoder (MSE)", ylim=(0, None))
    axes.set_title("CIFAR-10, VGG-11: accuracy against an attacker's error", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="upper right", bbox_to_anchor=(1, 0.94))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(given.out, dpi=110, metadata={"Software": ""})


if __name__ == "__main__":
    main()
