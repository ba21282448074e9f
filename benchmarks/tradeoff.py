"""Error against accuracy: more noise beside noise with CEM, on 5,000 images. Superseded by equal_accuracy.py.

    python benchmarks/tradeoff.py [--root data/cifar10] [--out runs/tradeoff] [--jobs 2] [--only PATTERN]

Every cell is a run folder; finished cells are skipped, a stopped one resumes. Writes benchmarks/tradeoff.json and .png.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import cells

FAMILIES = {
    "noise": "more noise, no CEM",
    "bound": "σ 0.025 + CEM (bound)",
    "released": "σ 0.025 + CEM (released loss)",
}


def plan() -> cells.Plan:
    """More noise alone, and CEM of both losses on little noise; in the order of need."""

    def noise(sigma: float, seed: int = 0) -> tuple[str, dict[str, Any]]:
        # cem:0 measures the leakage and trains nothing.
        return f"noise-{sigma}-s{seed}", {"defense": [f"gaussian:{sigma}", "cem:0,follow=0"], "seed": seed}

    def cem(loss: str, weight: float, seed: int = 0) -> tuple[str, dict[str, Any]]:
        # follow=0: clusters stayed within an epoch when the record was made.
        defense = ["gaussian:0.025", f"cem:weight={weight},loss={loss},follow=0"]
        return f"{loss}-{weight}-s{seed}", {"defense": defense, "seed": seed}

    plan = [noise(0.025), cem("bound", 16), cem("released", 1.6), noise(0.2), cem("bound", 4), noise(0.4)]
    plan += [noise(0.2, 1), cem("bound", 16, 1), noise(0.2, 2), cem("bound", 16, 2)]
    plan += [noise(0.2, 3), cem("bound", 16, 3)]
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
    """Error of each attack against accuracy, one line per way of protecting, 95 % intervals on both axes.

    The lines go through seed 0; hollow dots are further seeds of the points that decide.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from splitveil.storage.files import atomic_write

    figure, axes = plt.subplots(1, len(attacks), figsize=(12, 4.8), sharex=True)
    for axis, attack in zip(axes, attacks, strict=True):
        for (family, label), color in zip(FAMILIES.items(), ("#7a7a7a", "#0b6bcb", "#d1660a"), strict=True):
            points = sorted(point(row, attack) for row in rows if row["cell"].startswith(family))
            line = [p for p in points if p.seed == 0]
            axis.plot([p.x for p in line], [p.y for p in line], "-", color=color, label=label)
            for p in points:
                face = color if p.seed == 0 else "white"
                axis.errorbar(p.x, p.y, xerr=p.dx, yerr=p.dy, fmt="o", ms=4, lw=0.7, color=color, mfc=face)
                place = {"textcoords": "offset points", "fontsize": 7, "color": color}
                axis.annotate(f"{p.setting:g}", (p.x, p.y), (4, 4), **place)
        axis.set(title=f"{attack} attack", xlabel="test accuracy, %", ylabel="attack MSE (higher: more private)")
        axis.grid(alpha=0.25)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False)
    figure.suptitle("numbers: σ of the noise or λ of CEM; hollow: further seeds", fontsize=9)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


class Point(NamedTuple):
    """Accuracy x in percent and error y of a cell, with the half widths of their intervals."""

    setting: float
    seed: int
    x: float
    y: float
    dx: float
    dy: float


def point(row: dict[str, Any], attack: str) -> Point:
    """Where a cell lies on the plot."""
    _, setting, seed = row["cell"].split("-")
    accuracy, error = row["accuracy"], row[attack]["mse"]
    half = [(high - low) / 2 for low, high in (accuracy["ci95"], error["ci95"])]
    return Point(float(setting), int(seed[1:]), 100 * accuracy["mean"], error["mean"], 100 * half[0], half[1])


def across_seeds(rows: list[dict[str, Any]], one: str, other: str) -> str:
    """Differences one − other over the seeds that both have, with Student's 95 % interval."""
    from scipy import stats

    by_name = {row["cell"]: row for row in rows}
    seeds = [s for s in range(len(rows)) if f"{one}-s{s}" in by_name and f"{other}-s{s}" in by_name]
    if len(seeds) < 2:
        return f"{one} − {other}: fewer than two seeds are done"
    lines = []
    for name, value in {
        "accuracy": lambda row: row["accuracy"]["mean"],
        "decoder MSE": lambda row: row["decoder"]["mse"]["mean"],
        "linear MSE": lambda row: row["linear"]["mse"]["mean"],
    }.items():
        pairs = [(value(by_name[f"{one}-s{s}"]), value(by_name[f"{other}-s{s}"])) for s in seeds]
        differences = [a - b for a, b in pairs]
        mean, error = sum(differences) / len(seeds), stats.sem(differences)
        low, high = stats.t.interval(0.95, len(seeds) - 1, mean, error)
        means = [sum(column) / len(seeds) for column in zip(*pairs, strict=True)]
        lines.append(f"{name}: {means[0]:.4f} − {means[1]:.4f} = {mean:+.4f} [{low:+.4f}, {high:+.4f}]")
    return f"{one} − {other}, {len(seeds)} seeds: " + "; ".join(lines)


if __name__ == "__main__":
    made = plan()
    if rows := cells.main(made, __doc__ or "", "tradeoff"):
        plot(rows, made.names(), Path(__file__).with_suffix(".png"))
        print(across_seeds(rows, "bound-16", "noise-0.2"))
