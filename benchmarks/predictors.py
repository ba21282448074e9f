"""Which number about a wire predicts best what attacks reach: over 16 trained CIFAR-10 models.

    python benchmarks/predictors.py --root data/cifar10 [--out runs/predictors] [--only PATTERN] [--rehearse]

The plan, written before the first run.

Models: `MODELS`, one training each (seed 0), which vary the noise, λ, the form of CEM and the defense. All else is
equal: 10,000 training images, vgg11_bn_sgm, cut 4, bottleneck 8 (a wire of 512 values), 4 epochs of the fast recipe
with batches of 128, rate 0.05 and one epoch of warm-up (the recipe's own batches of 512 make too few steps of so few
images: a trial with 5,000 images diverged). They are trained for a comparison of predictors and no comparison of
defenses.

Predictors, all the higher the more a wire gives away:
- ``held_out``: `mixture`, the held-out upper bound of the leakage in nats, on the 10,000 test images;
- ``logged``: ``leakage_nats`` of the last epoch, the in-sample estimate; cem:0, which trains nothing, measures it where
  a model has no CEM; of `vib` it is vib's own bound from training batches;
- ``dfil``: dFIL, the inverse of what `fisher` answers;
- ``linkage``: how often the right photo is found among 1,000.
``accuracy`` on the test images stands beside them as a reference: models that learned less give less away.
A predictor that says nothing about a model (no density: dropout; other noise for every image: vib) is missing there,
and its correlation is over the models that it speaks of.

Outcomes: suite quick-v4 under protocol inference_time, 1,800 images of the attacker, 300 attacked. The plan named
quick-v2 until quick-v4 took its place, which has the attack residual besides, and 30 epochs of the published recipe for
the judge, which cost more than all the models; it had not been carried out by either time:
- ``mse``: mean over the images of the lowest error (worst case);
- ``reidentified``: the highest share, over the attacks, of reconstructions in which one independent judge sees the
  class (20 epochs of the fast recipe on the same training images).

Endpoint: Spearman's rank correlation over models, oriented so that 1 is a perfect prediction, with a 95 % interval
(`splitveil.statistics.rank_correlation`). Primary: on the models that all four predictors speak of, the difference of
the correlation with ``mse`` between ``held_out`` and each of the three others, by a paired bootstrap over models at the
level 1 − 0.05/3 (Bonferroni). A difference whose interval holds zero is not shown. Secondary, without correction: the
same for ``reidentified``. One look, when all models are there (thirteen were looked at to set the tables, after which
nothing but these was changed). A model whose training diverges is named and left out.

Every model is a run folder under --out; what is done is not made again, a stopped one goes on. The judge is trained
once. --rehearse takes tiny sizes on digits. Writes predictors.json after each model and predictors.png at the end into
--out, and both beside this file when all models are there.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splitveil.data import ImageSet
    from splitveil.runs import Run

MODELS: dict[str, tuple[str, ...]] = {
    "noise 0.025": ("gaussian:0.025", "cem:0"),
    "noise 0.1": ("gaussian:0.1", "cem:0"),
    "noise 0.4": ("gaussian:0.4", "cem:0"),
    "noise 1": ("gaussian:1.0", "cem:0"),
    "cem 4": ("gaussian:0.025", "cem:4"),
    "cem 16": ("gaussian:0.025", "cem:16"),
    "cem 64": ("gaussian:0.025", "cem:64"),
    "noise 0.1, cem 16": ("gaussian:0.1", "cem:16"),
    "noise 0.4, cem 16": ("gaussian:0.4", "cem:16"),
    "cem 16, one cluster": ("gaussian:0.025", "cem:weight=16,clusters=1"),
    "nopeek": ("nopeek:0.5", "gaussian:0.025", "cem:0"),
    "hsic": ("hsic:0.05", "gaussian:0.025", "cem:0"),
    "adversarial": ("adversarial:0.3", "gaussian:0.025", "cem:0"),
    "pca 64": ("pca:64", "gaussian:0.025", "cem:0"),
    "vib": ("vib:0.001",),
    "dropout": ("gaussian:0.025", "dropout:0.3", "cem:0"),
}
PREDICTORS = {
    "held_out": "held-out upper bound, nats",
    "logged": "estimate logged in training, nats",
    "dfil": "dFIL",
    "linkage": "right photo among 1,000, share",
}
REFERENCE = "accuracy"
OUTCOMES = {"mse": -1, "reidentified": 1}
"""The sign with which an outcome goes along with leakage."""
COMPARISONS = 3
DRAWS = 10_000


@dataclass(frozen=True)
class Sizes:
    """What a rehearsal makes smaller."""

    settings: dict[str, Any]
    suite: str
    attacker_size: int
    attacked: int
    gallery: int
    judge_epochs: int


REAL = Sizes(
    {
        **{"data": "cifar10", "train_size": 10_000, "arch": "vgg11_bn_sgm", "cut": 4, "bottleneck": 8},
        **{"recipe": "fast", "optimizer": "sgd", "epochs": 4, "batch_size": 128, "lr": 0.05, "warmup_epochs": 1},
    },
    suite="quick-v4",
    attacker_size=1800,
    attacked=300,
    gallery=1000,
    judge_epochs=20,
)
REHEARSAL = Sizes(
    {
        **{"data": "digits", "train_size": 100, "test_size": 120, "arch": "resnet20_sgm", "cut": 2, "bottleneck": 2},
        **{"bottleneck_stride": 4, "recipe": "fast", "epochs": 2, "batch_size": 32, "lr": 0.05, "warmup_epochs": 1},
    },
    suite="rehearsal",
    attacker_size=60,
    attacked=10,
    gallery=10,
    judge_epochs=1,
)


def measured(name: str, sizes: Sizes, root: Path | None, out: Path) -> dict[str, Any]:
    """Train, bound and attack one model; a stopped one goes on."""
    from splitveil import config, runs
    from splitveil.errors import UserError
    from splitveil.training.trainer import fit

    folder = out / name.replace(", ", "-").replace(" ", "-")
    kept = folder / "predictors.json"
    settings = config.parse({**sizes.settings, "root": root, "defense": MODELS[name], "seed": 0}).resolve()
    if kept.is_file():
        return json.loads(kept.read_text())
    images, clock = runs.load_images(settings), time.perf_counter
    try:
        summary = fit(settings, images, folder, resume=True)
    except UserError as error:
        if "the loss is" not in str(error):
            raise
        return {"model": name, "diverged": str(error)}
    run, starts = runs.Run.open(folder), [clock()]
    row: dict[str, Any] = {"model": name, "defense": list(MODELS[name]), "seed": 0, "accuracy": summary["accuracy"]}
    row |= {"logged": summary["leakage_nats"]} | bounded(run, images, sizes.gallery)
    starts.append(clock())
    row |= attacked(run, images, sizes, out)
    starts.append(clock())
    spent = [summary["seconds"], *(after - before for before, after in itertools.pairwise(starts))]
    row["seconds"] = dict(zip(("training", "bounds", "suite and judge"), spent, strict=True))
    write(kept, row)
    return row


def bounded(run: Run, images: ImageSet, gallery: int) -> dict[str, Any]:
    """The held-out predictors of a model, and why one is missing."""
    import splitveil as sv
    from splitveil.bounds.base import BoundError, Estimate
    from splitveil.data import to_float

    test, model = (to_float(images.test.images), images.test.labels), run.model(images)
    row: dict[str, Any] = {"missing": {}}

    def add(key: str, bound: str, value: Callable[[list[Estimate]], float]) -> None:
        start = time.perf_counter()
        try:
            found = sv.bound(model, bound, test, seed=0)
            row[key] = value(found)
            row[f"about_{key}"] = [estimate.as_dict() for estimate in found]
        except BoundError as error:
            row["missing"][key] = str(error)
        row[f"seconds_{key}"] = time.perf_counter() - start

    add("held_out", "mixture", lambda found: found[0].value)
    add("dfil", "fisher", lambda found: 1 / found[0].value)
    among = f"among {gallery:,},"
    add("linkage", "linkage", lambda found: next(one.value for one in found if among in one.about))
    return row


def attacked(run: Run, images: ImageSet, sizes: Sizes, out: Path) -> dict[str, Any]:
    """What the suite reaches, and in how many of its answers the judge sees the class."""
    from splitveil.evaluation import reidentification, suites

    judge = reidentification.judge_for(run, images, cache=out / "judge", epochs=sizes.judge_epochs, recipe="fast")
    found = suites.run_suite(
        run, sizes.suite, images, extra=judge.metrics(), attacker_size=sizes.attacker_size, attacked=sizes.attacked
    )
    shares = {label: summary["reidentified"] for label, summary in found["attacks"].items()}
    best = max(shares, key=lambda label: shares[label]["mean"])
    return {
        "mse": found["worst_case"]["mse"],
        "reidentified": shares[best],
        "reidentified_by": best,
        "recognized": found["attacks"][best]["recognized"],
        "baseline_mse": found["baseline_mse"],
        "attacks": {label: {"mse": row["mse"], "seconds": row["seconds"]} for label, row in found["attacks"].items()},
        "skipped": found["skipped"],
        "flags": found["flags"],
        "judge": judge.about,
    }


def number(value: Any) -> float:
    """An interval's mean, or a number as it is."""
    return value["mean"] if isinstance(value, dict) else value


def correlations(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Each predictor with each outcome over the models that it speaks of, 1 being a perfect prediction."""
    from splitveil.statistics.rank_correlation import LEAST, rank_correlation

    found: dict[str, Any] = {}
    for outcome, sign in OUTCOMES.items():
        for key in (*PREDICTORS, REFERENCE):
            spoken = [row for row in rows if key in row]
            x, y = [number(row[key]) for row in spoken], [sign * number(row[outcome]) for row in spoken]
            if len(spoken) >= LEAST and len(set(x)) > 1 and len(set(y)) > 1:
                found.setdefault(outcome, {})[key] = {**rank_correlation(x, y).as_dict(), "models": len(spoken)}
    return found


def compared(rows: list[dict[str, Any]], outcome: str, level: float) -> dict[str, Any]:
    """The correlation of ``held_out`` less that of each other predictor, on the models that all speak of."""
    import torch

    from splitveil.statistics.intervals import Interval
    from splitveil.statistics.rank_correlation import LEAST, spearman

    common = [row for row in rows if all(key in row for key in PREDICTORS)]
    if len(common) < LEAST:
        return {"models": len(common)}
    y = OUTCOMES[outcome] * torch.tensor([number(row[outcome]) for row in common], dtype=torch.float64)
    x = {key: torch.tensor([number(row[key]) for row in common], dtype=torch.float64) for key in PREDICTORS}
    drawn = torch.randint(len(common), (DRAWS, len(common)), generator=torch.Generator().manual_seed(0))
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    result: dict[str, Any] = {"models": len(common), "level": level}
    for key in (key for key in PREDICTORS if key != "held_out"):
        of_draws = spearman(x["held_out"][drawn], y[drawn]) - spearman(x[key][drawn], y[drawn])
        mean = float(spearman(x["held_out"], y) - spearman(x[key], y))
        usable = of_draws[of_draws.isfinite()]
        if math.isfinite(mean) and len(usable):
            interval = Interval(mean, *usable.quantile(tails).tolist(), level)
            result[f"held_out − {key}"] = {"mean": interval.mean, "interval": [interval.lo, interval.hi]}
    return result


def summary_of(rows: list[dict[str, Any]], sizes: Sizes) -> dict[str, Any]:
    """The record: models, correlations, comparisons, machine and commit."""
    from splitveil.runs import environment

    done = [row for row in rows if "diverged" not in row]
    head = ["git", "rev-parse", "--short", "HEAD"]
    return {
        "command": "python benchmarks/predictors.py " + " ".join(sys.argv[1:]),
        "commit": subprocess.run(head, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip(),
        "machine": environment(),
        "settings": {**sizes.settings, "seed": 0},
        "attack": {"suite": sizes.suite, "attacker_size": sizes.attacker_size, "attacked": sizes.attacked},
        "diverged": {row["model"]: row["diverged"] for row in rows if "diverged" in row},
        "correlation": correlations(done),
        "primary": compared(done, "mse", 1 - 0.05 / COMPARISONS),
        "secondary": compared(done, "reidentified", 0.95),
        "models": done,
    }


def table(record: dict[str, Any]) -> str:
    """The tables of docs/bounds.md: every model, the least error first, and every correlation."""
    lines = [
        "| model | accuracy % | held-out bound, nats | logged, nats | dFIL | photo found among 1,000 | worst-case MSE "
        "| recognized |",
        f"|{'---|' * 8}",
    ]
    for row in sorted(record["models"], key=lambda row: number(row["mse"])):
        cells = [row["model"], f"{100 * number(row['accuracy']):.1f}"]
        for key in PREDICTORS:
            value = number(row[key]) if key in row else math.nan
            text = f"{100 * value:.1f} %" if key == "linkage" else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
            cells.append(text if key in row else "–")
        cells += [f"{number(row['mse']):.4f}", f"{number(row['reidentified']):.0%}".replace("%", " %")]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| rank correlation with | worst-case MSE | recognized |", "|---|---|---|"]
    for key, title in {**PREDICTORS, REFERENCE: "accuracy"}.items():
        found = [_correlation(record["correlation"].get(outcome, {}).get(key)) for outcome in OUTCOMES]
        lines.append(f"| {' | '.join([title, *found])} |")
    return "\n".join(lines)


def _correlation(found: dict[str, Any] | None) -> str:
    if not found:
        return "–"
    low, high = found["ci95"]
    return f"{found['mean']:.2f} [{low:.2f}, {high:.2f}], {found['models']} models".replace("-", "−")


def plot(record: dict[str, Any], path: Path) -> None:
    """Each predictor against each outcome, one point per model."""
    from matplotlib.figure import Figure

    from splitveil.statistics.intervals import Interval
    from splitveil.storage.files import atomic_write

    figure = Figure((14, 6.4), dpi=120, layout="constrained")
    grid = figure.subplots(len(OUTCOMES), len(PREDICTORS), sharey="row")
    labels = {"mse": "worst-case MSE", "reidentified": "re-identified, share"}
    for line, outcome in zip(grid, OUTCOMES, strict=True):
        line[0].set_ylabel(labels[outcome])
        for axes, (key, title) in zip(line, PREDICTORS.items(), strict=True):
            spoken = [row for row in record["models"] if key in row]
            axes.plot([row[key] for row in spoken], [row[outcome]["mean"] for row in spoken], "o", color="#4c72b0")
            for place, row in enumerate(record["models"], 1):
                if key in row:
                    at = row[key], row[outcome]["mean"]
                    axes.annotate(str(place), at, (4, 3), textcoords="offset points", fontsize=7)
            found = record["correlation"].get(outcome, {}).get(key)
            text = f"{Interval.from_dict(found):.2f} ({found['models']} models)" if found else "too few models"
            axes.set_title(text, fontsize=9)
            axes.set_xlabel(title, fontsize=9)
            if key != "linkage" and len(spoken):
                axes.set_xscale("log")
            axes.grid(alpha=0.25)
    names = [f"{place} {row['model']}" for place, row in enumerate(record["models"], 1)]
    figure.suptitle(
        "Rank correlation with the outcome, 1: perfect prediction, 95 % interval over models\n"
        + "\n".join("   ".join(names[start : start + 8]) for start in range(0, len(names), 8)),
        fontsize=9,
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def write(path: Path, value: Any) -> None:
    """Write JSON in one rename."""
    from splitveil.storage.files import write_json

    write_json(path, value)


def main() -> None:
    """Make what is missing, print each model and the correlations, leave the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--out", type=Path, default=Path("runs/predictors"))
    parser.add_argument("--only", default="*", help="names of the models to make, with * and ?")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on digits")
    args = parser.parse_args()
    sizes = REHEARSAL if args.rehearse else REAL
    if args.rehearse:
        from splitveil.evaluation import suites

        # A name of its own: the frozen suites stay as they are.
        suites.SUITES.setdefault("rehearsal", suites.specs("linear:looks=1", "nearest:neighbors=1,looks=1"))
    names = [name for name in MODELS if fnmatch.fnmatch(name, args.only)]
    if not names:
        sys.exit(f"no model matches {args.only}; there are: {', '.join(MODELS)}")
    rows: list[dict[str, Any]] = []
    for name in names:
        rows.append(measured(name, sizes, None if args.rehearse else args.root.absolute(), args.out))
        shown = {key: number(rows[-1][key]) for key in (*PREDICTORS, *OUTCOMES, REFERENCE) if key in rows[-1]}
        print(
            name, rows[-1].get("diverged") or {key: float(f"{value:.4g}") for key, value in shown.items()}, flush=True
        )
        record = summary_of(rows, sizes)
        write(args.out / "predictors.json", record)
    # The committed record is that of the whole plan.
    whole = len(names) == len(MODELS) and not args.rehearse
    for place in (args.out, *[Path(__file__).parent] * whole):
        write(place / "predictors.json", record)
        plot(record, place / "predictors.png")
    for part in ("primary", "secondary", "diverged"):
        print(part, json.dumps(record[part], indent=1))
    print(table(record))


if __name__ == "__main__":
    main()
