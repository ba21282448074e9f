"""Error against accuracy, noise alone beside CEM, and the difference at equal accuracy: what the records say.

    python benchmarks/gpu.py --archive cifar10.tar.xz --out gpu --without check profile ablation
    python benchmarks/equal_accuracy.py gpu/records.jsonl [...]

`gpu.py` makes the records (without a GPU too, in days); the plan is that of benchmarks/equal_accuracy_plan.py. Writes
benchmarks/equal_accuracy.json and .png, and prints the differences.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equal_accuracy_plan
import numpy as np
from gpu_cell import unpacked

from splitveil.statistics.noise_curve import AtEqualAccuracy, at_equal_accuracy
from splitveil.storage.files import atomic_write, write_json

TESTED = 10_000
Records = dict[str, dict[str, Any]]
KINDS = {"noise": "#7a7a7a", "cem": "#0b6bcb", "one": "#d1660a", "released": "#8a3ffc"}
NAMES = {
    "noise": "noise alone",
    "cem": "σ 0.025 + CEM",
    "one": "σ 0.025 + CEM, one Gaussian",
    "released": "released loss",
}


def read(paths: list[Path]) -> Records:
    """The records of finished cells by name."""
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return {
        line["cell"]: line
        for line in lines
        if "failed" not in line and line["cell"].rsplit("-s", 1)[0] in equal_accuracy_plan.points()
    }


def seeds_of(records: Records, name: str) -> list[int]:
    """Seeds with which a point is there."""
    every = equal_accuracy_plan.SEEDS + equal_accuracy_plan.MORE_SEEDS
    return [seed for seed in every if f"{name}-s{seed}" in records]


def errors_of(record: Mapping[str, Any], which: str) -> np.ndarray:
    """MSE of each attacked image."""
    return np.array(record["inference_time"][f"{which}_mse"])


def differences(records: Records, which: str = "best") -> dict[str, tuple[list[int], AtEqualAccuracy]]:
    """Each point against the noise curve at equal accuracy, over the seeds that it and the whole curve have."""
    curve = [f"noise-{sigma}" for sigma in equal_accuracy_plan.SIGMAS]
    found = {}
    for name in equal_accuracy_plan.points():
        seeds = [s for s in seeds_of(records, name) if all(f"{point}-s{s}" in records for point in curve)]
        if name in (*curve, "none") or not seeds:
            continue
        rows = [[records[f"{point}-s{seed}"] for point in (*curve, name)] for seed in seeds]
        errors = [np.stack([errors_of(row, which) for row in seed]) for seed in rows]
        hits = [np.stack([unpacked(row["retrained_hits"], TESTED) for row in seed]) for seed in rows]
        compared = at_equal_accuracy(equal_accuracy_plan.SIGMAS, errors, hits, shared=(False, True))
        found[name] = seeds, compared[0]
    return found


def verdict(result: AtEqualAccuracy, seeds: int) -> str:
    """What the plan says that a difference is worth."""
    if result.difference is None:
        return "outside the noise curve"
    low, high, counts = result.difference.lo, result.difference.hi, equal_accuracy_plan.DIFFERENCE
    if seeds < len(equal_accuracy_plan.SEEDS):
        return "too few seeds for a verdict"
    if low > counts:
        return "protects more than noise"
    if high < -counts:
        return "protects less than noise"
    return "protects as much as noise" if -counts < low and high < counts else "not decided"


def table(records: Records) -> list[dict[str, Any]]:
    """A row for each point: means over its seeds."""
    rows = []
    for name in equal_accuracy_plan.points():
        found = [records[f"{name}-s{seed}"] for seed in seeds_of(records, name)]
        if not found:
            continue
        means = {key: _mean([record[key]["mean"] for record in found]) for key in ("accuracy", "retrained_accuracy")}
        means |= {
            f"{which}_mse": _mean([errors_of(record, which).mean() for record in found])
            for which in ("best", "worst_case")
        }
        for label in found[0]["inference_time"]["attacks"]:
            each = [record["inference_time"]["attacks"][label] for record in found]
            means[label] = _mean([one["mse"]["mean"] for one in each])
        nats = [record["leakage_nats"] for record in found if record["leakage_nats"] is not None]
        rows.append({"point": name, "seeds": len(found), **means, "leakage_nats": _mean(nats) if nats else None})
    return rows


def _mean(values: list[float]) -> list[float]:
    """Mean, and standard deviation over the seeds."""
    return [float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0]


def plot(records: Records, path: Path) -> None:
    """MSE of the best attacker against the accuracy of a retrained tail: circles for trainings, lines at the means."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 5.2))
    rows = {row["point"]: row for row in table(records)}
    for kind, color in KINDS.items():
        points = sorted((row for name, row in rows.items() if name.startswith(f"{kind}-")), key=_strength)
        if not points:
            continue
        x, y = ([row[key][0] for row in points] for key in ("retrained_accuracy", "best_mse"))
        axis.plot(100 * np.array(x), y, "-", color=color, lw=1.2, label=NAMES[kind])
        for row in points:
            cells = [records[f"{row['point']}-s{seed}"] for seed in seeds_of(records, row["point"])]
            dots = [(100 * cell["retrained_accuracy"]["mean"], errors_of(cell, "best").mean()) for cell in cells]
            axis.plot(*zip(*dots, strict=True), "o", ms=4, mfc="none", color=color)
            place = {"textcoords": "offset points", "fontsize": 8, "color": color}
            axis.annotate(
                f"{_strength(row):g}", (100 * row["retrained_accuracy"][0], row["best_mse"][0]), (5, 5), **place
            )
    axis.set(xlabel="test accuracy of a retrained tail, %", ylabel="MSE of the best attacker (higher: more private)")
    axis.set_yscale("log")
    axis.grid(alpha=0.25, which="both")
    axis.legend(frameon=False)
    figure.suptitle(
        "numbers: σ of the noise or λ of CEM; a circle for each training, lines through the means", fontsize=9
    )
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _strength(row: Mapping[str, Any]) -> float:
    return float(row["point"].rpartition("-")[2])


def main() -> None:
    """Gather, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    records = read(args.records)
    if not records:
        sys.exit("there are no records of the plan's cells; make them with benchmarks/gpu.py")
    answers: dict[str, Any] = {}
    for which in ("best", "worst_case"):
        answers[which] = {}
        for name, (seeds, found) in differences(records, which).items():
            gain = found.difference
            interval = None if gain is None else [float(np.exp(end) - 1) for end in (gain.mean, gain.lo, gain.hi)]
            said = verdict(found, len(seeds))
            answers[which][name] = {
                "seeds": seeds,
                "accuracy": found.accuracy,
                "noise_mse_at_equal_accuracy": found.reference,
                "difference": interval,
                "beyond_the_curve": found.beyond,
                "verdict": said,
            }
            text = "-" if interval is None else "{:+.1%} [{:+.1%}, {:+.1%}]".format(*interval)
            print(f"{which}, {name} ({len(seeds)} seeds): {text}: {said}")
    write_json(args.out, {"points": table(records), "at_equal_accuracy": answers, "plan": equal_accuracy_plan.__doc__})
    plot(records, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
