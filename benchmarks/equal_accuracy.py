"""Error against accuracy, noise alone beside CEM, and the difference at equal accuracy: what the records say.

    python benchmarks/gpu.py --archive cifar10.tar.xz --seeds 5 --out gpu --without profile published ablation check
    python benchmarks/equal_accuracy.py gpu/records.jsonl [...] --seeds 5

`gpu.py` makes the records (without a GPU too, in days); the plan is that of benchmarks/equal_accuracy_plan.py. Nothing
is computed before all cells of the plan's endpoint are there, with all seeds that were fixed before the first cell and
no others. Writes benchmarks/equal_accuracy.json and .png, and prints the differences.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equal_accuracy_plan as plan
import numpy as np
from gpu_cell import unpacked

from splitveil.statistics.intervals import Interval
from splitveil.statistics.noise_curve import at_accuracies, at_equal_accuracy
from splitveil.storage.files import atomic_write, write_json

TESTED = 10_000
Records = dict[str, dict[str, Any]]
CURVE = [f"noise-{sigma}" for sigma in plan.SIGMAS]
CEM = [CURVE[0], *(f"cem-{weight}" for weight in plan.LAMBDAS)]
"""λ = 0 is the least noise alone."""
CEM_PLACES = (1, *plan.LAMBDAS)
"""Where the points of CEM stand on the logarithmic scale between which its curve is drawn; λ = 0 has none there."""
FIRST, STRONG, TRAIN_TIME = "", plan.STAGES["strong"], plan.STAGES["train_time"]
KINDS = {"noise": "#7a7a7a", "cem": "#0b6bcb", "one": "#d1660a", "released": "#8a3ffc"}
NAMES = {
    "noise": "noise alone",
    "cem": "σ 0.025 + CEM",
    "one": "σ 0.025 + CEM, one Gaussian",
    "released": "released loss",
}
UNDECIDED = "not decided"
NO_ENDPOINT = "secondary: no endpoint of the plan, no verdict"


def read(paths: list[Path]) -> Records:
    """The records of the plan's finished cells by name; the first one of a cell counts, so that none is made again."""
    known = {f"{prefix}{point}" for prefix in plan.STAGES.values() for point in plan.points()}
    found: Records = {}
    for line in (json.loads(text) for path in paths for text in path.read_text("utf-8").splitlines()):
        if "failed" not in line and line["cell"].rsplit("-s", 1)[0] in known:
            found.setdefault(line["cell"], line)
    return found


def refusal(records: Records, seeds: int) -> str | None:
    """Why the one look may not be taken; None: it may."""
    for name, record in records.items():
        if record.get("seeds_planned") != seeds or record["seed"] >= seeds:
            made = record.get("seeds_planned", "an unknown number of")
            return (
                f"{name} was made for {made} seeds; expected records for --seeds {seeds}, as the number was fixed "
                "before the first cell: give that number, and only records made for it"
            )
    needed = list(plan.cells("strong", seeds))
    missing = [name for name in needed if name not in records]
    if missing:
        return (
            f"{len(missing)} of {len(needed)} cells of the endpoint are missing ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}); expected all of them before anything is compared: go on with "
            f"benchmarks/gpu.py --seeds {seeds}"
        )
    return None


def protocol(prefix: str) -> str:
    """The attacker of a stage."""
    return "train_time" if prefix == TRAIN_TIME else "inference_time"


def errors_of(record: Mapping[str, Any], which: str, under: str = "inference_time") -> np.ndarray:
    """MSE of each attacked image."""
    return np.array(record[under][f"{which}_mse"])


def rows_of(
    records: Records, names: list[str], seeds: int, which: str, prefix: str
) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
    """For each seed the errors and the answers of the points ``names``; None: some are not there."""
    wanted = [[f"{prefix}{name}-s{seed}" for name in names] for seed in range(seeds)]
    if any(name not in records for each in wanted for name in each):
        return None
    errors = [np.stack([errors_of(records[name], which, protocol(prefix)) for name in each]) for each in wanted]
    hits = [np.stack([unpacked(records[name]["retrained_hits"], TESTED) for name in each]) for each in wanted]
    return errors, hits


def endpoint(records: Records, seeds: int, which: str, prefix: str = STRONG) -> list[dict[str, Any]]:
    """CEM against noise alone at each named accuracy; none where records are not there."""
    rows = rows_of(records, CURVE + CEM, seeds, which, prefix)
    if rows is None:
        return []
    found = at_accuracies(plan.SIGMAS, CEM_PLACES, plan.ACCURACIES, *rows, shared=(False, True))
    return [
        {
            "accuracy": one.accuracy,
            "noise_mse": one.reference,
            "cem_mse": one.mse,
            "difference": factors(one.difference),
            "beyond_a_curve": one.beyond,
            "verdict": verdict(one.difference) if (which, prefix) == ("best", STRONG) else NO_ENDPOINT,
        }
        for one in found
    ]


def secondary(records: Records, seeds: int, which: str) -> dict[str, dict[str, Any]]:
    """Each point at its own accuracy against the noise curve by the same attacks, where it is there with all seeds."""
    found = {}
    for name in plan.points():
        prefix = STRONG if name in plan.decisive() else FIRST
        rows = rows_of(records, [*CURVE, name], seeds, which, prefix)
        if name in (*CURVE, "none") or rows is None:
            continue
        (one,) = at_equal_accuracy(plan.SIGMAS, *rows, shared=(False, True))
        found[name] = {
            "accuracy": one.accuracy,
            "noise_mse_at_equal_accuracy": one.reference,
            "difference": factors(one.difference),
            "beyond_the_curve": one.beyond,
            "verdict": NO_ENDPOINT,
        }
    return found


def factors(difference: Interval | None) -> list[float] | None:
    """A difference of logarithms and its interval as parts of the error of noise."""
    if difference is None:
        return None
    return [float(np.exp(end) - 1) for end in (difference.mean, difference.lo, difference.hi)]


def verdict(difference: Interval | None) -> str:
    """What the plan says that a difference is worth."""
    if difference is None:
        return "outside a curve"
    low, high, counts = difference.lo, difference.hi, plan.DIFFERENCE
    if low > counts:
        return "protects more than noise"
    if high < -counts:
        return "protects less than noise"
    return "protects as much as noise" if -counts < low and high < counts else UNDECIDED


def sentence(found: list[dict[str, Any]]) -> str:
    """What all accuracies that are reached say alike."""
    said = {one["accuracy"]: one["verdict"] for one in found if one["difference"]}
    if not said:
        return "nothing is said: no named accuracy lies on both curves"
    if len(set(said.values())) > 1:
        each = (f"at {accuracy:.0%} {one}" for accuracy, one in said.items())
        return f"the accuracies differ: {', '.join(each)}"
    (one,) = set(said.values())
    return one if one == UNDECIDED else f"CEM {one}"


def table(records: Records, seeds: int) -> list[dict[str, Any]]:
    """A row for each point and stage: means over its seeds."""
    rows = []
    for prefix in (STRONG, FIRST, TRAIN_TIME):
        for name in plan.points():
            cells = [f"{prefix}{name}-s{seed}" for seed in range(seeds)]
            found = [records[cell] for cell in cells if cell in records]
            if found:
                rows.append({"point": name, "stage": prefix.rstrip("-") or "first", **_means(found, protocol(prefix))})
    return rows


def _means(found: list[dict[str, Any]], under: str) -> dict[str, Any]:
    means = {key: _mean([record[key]["mean"] for record in found]) for key in ("accuracy", "retrained_accuracy")}
    means |= {f"{w}_mse": _mean([errors_of(one, w, under).mean() for one in found]) for w in ("best", "worst_case")}
    for label in found[0][under]["attacks"]:
        means[label] = _mean([record[under]["attacks"][label]["mse"]["mean"] for record in found])
    nats = [record["leakage_nats"] for record in found if record["leakage_nats"] is not None]
    return {"seeds": len(found), **means, "leakage_nats": _mean(nats) if nats else None}


def _mean(values: list[float]) -> list[float]:
    """Mean, and standard deviation over the seeds."""
    return [float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0]


def plot(records: Records, seeds: int, path: Path) -> None:
    """MSE of the best attacker against the accuracy of a retrained tail, by all attacks and by the quick ones."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 5.2), sharey=True)
    drawn = ((STRONG, "all five attacks (the endpoint)"), (FIRST, "without diffusion (secondary)"))
    for axis, (prefix, title) in zip(axes, drawn, strict=True):
        for kind in KINDS:
            names = [name for name in plan.points() if name.startswith(f"{kind}-")]
            if kind == "cem":
                names = [CURVE[0], *names]
            _draw(axis, records, kind, [(name, [f"{prefix}{name}-s{seed}" for seed in range(seeds)]) for name in names])
        axis.set(xlabel="test accuracy of a retrained tail, %", title=title)
        axis.set_yscale("log")
        axis.grid(alpha=0.25, which="both")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    axes[0].set_ylabel("MSE of the best attacker (higher: more private)")
    for accuracy in plan.ACCURACIES:
        axes[0].axvline(100 * accuracy, color="#bbbbbb", ls=":", lw=1)
    figure.suptitle(
        "numbers: σ of the noise or λ of CEM; a circle for each training, lines through the means", fontsize=9
    )
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _draw(axis: Any, records: Records, kind: str, points: list[tuple[str, list[str]]]) -> None:
    """A line through the means of the points that are there, and a circle for each training."""
    means, color = [], KINDS[kind]
    for name, cells in points:
        dots = [
            (100 * records[cell]["retrained_accuracy"]["mean"], errors_of(records[cell], "best").mean())
            for cell in cells
            if cell in records
        ]
        if not dots:
            continue
        x, y = np.mean(dots, 0)
        means.append((x, y))
        axis.plot(*zip(*dots, strict=True), "o", ms=4, mfc="none", color=color)
        text = name.rpartition("-")[2] if name.startswith(kind) else "0"
        axis.annotate(text, (x, y), (5, 5), textcoords="offset points", fontsize=8, color=color)
    if means:
        axis.plot(*zip(*means, strict=True), "-", color=color, lw=1.2, label=NAMES[kind])


def told(name: str, one: dict[str, Any]) -> str:
    """A comparison in one line."""
    text = "-" if one["difference"] is None else "{:+.1%} [{:+.1%}, {:+.1%}]".format(*one["difference"])
    return f"{name} at {one['accuracy']:.1%}: {text}: {one['verdict']}"


def main() -> None:
    """Gather, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, choices=plan.SEED_COUNTS, required=True, help="as benchmarks/gpu.py had")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    if absent := [str(path) for path in args.records if not path.is_file()]:
        sys.exit(f"{', '.join(absent)} is not there; expected records that benchmarks/gpu.py has made")
    records = read(args.records)
    if why := refusal(records, args.seeds):
        sys.exit(why)
    kinds = ("best", "worst_case")
    ends = {which: endpoint(records, args.seeds, which) for which in kinds}
    beside = {which: secondary(records, args.seeds, which) for which in kinds}
    later = {which: endpoint(records, args.seeds, which, TRAIN_TIME) for which in kinds}
    for which in kinds:
        for one in ends[which]:
            print(told(f"{which}, CEM", one))
        for one in later[which]:
            print(told(f"{which}, CEM, train_time", one))
        for name, one in beside[which].items():
            print(told(f"{which}, {name}", one))
    print(f"{args.seeds} seeds: {sentence(ends['best'])}")
    about = {"seeds": args.seeds, "sentence": sentence(ends["best"]), "at_named_accuracies": ends}
    about |= {"train_time_at_named_accuracies": later, "at_equal_accuracy": beside}
    write_json(args.out, {**about, "points": table(records, args.seeds), "plan": plan.__doc__})
    plot(records, args.seeds, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
