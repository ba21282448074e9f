"""Error against accuracy: more noise beside noise with CEM, on 5,000 CIFAR-10 images.

    python benchmarks/tradeoff.py [--root data/cifar10] [--out runs/tradeoff] [--jobs 2] [--only PATTERN]

Every cell is a run folder; finished cells are skipped, a stopped one resumes. Writes benchmarks/tradeoff.json and .png.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cells


def plan() -> cells.Plan:
    """More noise alone, and CEM of both losses on little noise; in the order of need."""

    def noise(sigma: float, seed: int = 0) -> tuple[str, dict[str, Any]]:
        # cem:0 measures the leakage and trains nothing.
        return f"noise-{sigma}-s{seed}", {"defense": [f"gaussian:{sigma}", "cem:0"], "seed": seed}

    def cem(loss: str, weight: float, seed: int = 0) -> tuple[str, dict[str, Any]]:
        defense = ["gaussian:0.025", f"cem:weight={weight},loss={loss}"]
        return f"{loss}-{weight}-s{seed}", {"defense": defense, "seed": seed}

    plan = [noise(0.025), cem("bound", 16), cem("released", 1.6), noise(0.2), cem("bound", 4), noise(0.4)]
    plan += [noise(0.2, 1), cem("bound", 16, 1), noise(0.2, 2), cem("bound", 16, 2)]
    plan += [cem("released", 16), noise(0.1), cem("bound", 1.6), cem("released", 4), noise(0.8)]
    plan += [cem("bound", 0.5), cem("released", 0.5), noise(0.05)]
    return cells.Plan(
        cells=dict(plan),
        settings={**cells.NETWORK, "train_size": 5000, "epochs": 12},
        attacks=("linear", "decoder:epochs=15,batch_size=64"),
        attacker_size=1800,
        attacked=500,
    )


def plot(rows: list[dict[str, Any]], attacks: list[str], path: Path) -> None:
    """Error of each attack against accuracy, one line per way of protecting, 95 % intervals on both axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = {
        "noise": "more noise, no CEM",
        "bound": "σ 0.025 + CEM (bound)",
        "released": "σ 0.025 + CEM (released loss)",
    }
    figure, axes = plt.subplots(1, len(attacks), figsize=(12, 4.8), sharex=True)
    for axis, attack in zip(axes, attacks, strict=True):
        for (family, label), color in zip(names.items(), ("#7a7a7a", "#0b6bcb", "#d1660a"), strict=True):
            chosen = [row for row in rows if row["cell"].startswith(family)]
            line = sorted((r for r in chosen if r["cell"].endswith("s0")), key=lambda r: float(r["cell"].split("-")[1]))
            axis.plot(
                [100 * r["accuracy"]["mean"] for r in line], [r[attack]["mse"]["mean"] for r in line], "-", color=color
            )
            for row in chosen:
                (x, xs), (y, ys) = ((v["mean"], v["ci95"]) for v in (row["accuracy"], row[attack]["mse"]))
                bars = {"xerr": [[100 * (x - xs[0])], [100 * (xs[1] - x)]], "yerr": [[y - ys[0]], [ys[1] - y]]}
                axis.errorbar(
                    100 * x, y, **bars, fmt="o", ms=4, lw=0.7, color=color, label=label if row is chosen[0] else None
                )
                axis.annotate(
                    row["cell"].split("-")[1], (100 * x, y), (4, 4), textcoords="offset points", fontsize=7, color=color
                )
        axis.set(title=f"{attack} attack", xlabel="test accuracy, %", ylabel="attack MSE (higher: more private)")
        axis.grid(alpha=0.25)
    axes[0].legend(frameon=False)
    figure.tight_layout()
    from splitveil.files import atomic_write

    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


if __name__ == "__main__":
    made = plan()
    plot(cells.main(made, __doc__ or "", "tradeoff"), made.names(), Path(__file__).with_suffix(".png"))
