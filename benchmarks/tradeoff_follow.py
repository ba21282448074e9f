"""CEM with clusters that follow the features, against noise of equal accuracy, in short trainings by the fast recipe.

    python benchmarks/tradeoff_follow.py [--root data/cifar10] [--out runs/tradeoff_follow] [--jobs 2] [--only PATTERN]

The plan, written before the first run. `benchmarks/tradeoff.py` was made when the clusters of CEM stayed for an epoch.
Among the models of `benchmarks/predictors.py` (seed 0) those with CEM were seen to have more error than noise of about
their accuracy, which had not been asked there; so it is asked here, of other seeds.

All is as there: 10,000 images of CIFAR-10, VGG-11 cut 4, bottleneck 8, 4 epochs of the fast recipe in batches of 128 at
rate 0.05, the last epoch. Encoder, tail and noise are trained together. Noise alone of 0.1, 0.2 and 0.4; noise of 0.025
with `cem:16`; and as a control `one`, the same bound of one Gaussian without classes and clusters. Seeds 1, 2, 3, in
this order, the control last. Attacker: inference_time, 1,800 images of its own, 500 attacked: `linear` and `residual`.

Endpoint: the difference in log MSE of `residual` to noise of equal test accuracy, hierarchical over seeds and images
(`splitveil.statistics.noise_curve`), of `cem`. A difference that counts is 10 %. Secondary: the same of `one`, and by
`linear`. One look, when all cells of an arm are there. Short trainings of a fifth of the images: nothing is said of
longer ones.

Every cell is a run folder; finished cells are skipped, a stopped one resumes. Writes benchmarks/tradeoff_follow.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cells

SIGMAS = (0.1, 0.2, 0.4)
SEEDS = (1, 2, 3)
ARMS = {"cem": "cem:16", "one": "cem:16,clusters=1,per_class=false"}
RECORD = Path(__file__).with_suffix(".json")


def plan() -> cells.Plan:
    """Noise alone and `cem` of each seed, then the control."""
    found: dict[str, dict[str, Any]] = {}
    for seed in SEEDS:
        for sigma in SIGMAS:
            found[f"noise-{sigma}-s{seed}"] = {"defense": [f"gaussian:{sigma}", "cem:0"], "seed": seed}
        found[f"cem-s{seed}"] = {"defense": ["gaussian:0.025", ARMS["cem"]], "seed": seed}
    for seed in SEEDS:
        found[f"one-s{seed}"] = {"defense": ["gaussian:0.025", ARMS["one"]], "seed": seed}
    recipe = {"recipe": "fast", "optimizer": "sgd", "epochs": 4, "batch_size": 128, "lr": 0.05, "warmup_epochs": 1}
    settings = {**cells.NETWORK, "train_size": 10_000, **recipe}
    return cells.Plan(found, settings, ("linear", "residual"), attacker_size=1800, attacked=500)


def compared(out: Path, made: cells.Plan) -> dict[str, Any]:
    """Each arm whose cells are all there, against noise of equal accuracy, by each attack."""
    import numpy as np

    from splitveil.results import records
    from splitveil.statistics.noise_curve import at_equal_accuracy

    found: dict[str, Any] = {}
    for arm in ARMS:
        each = [[out / f"noise-{sigma}-s{seed}" for sigma in SIGMAS] + [out / f"{arm}-s{seed}"] for seed in SEEDS]
        for attack in made.names():
            if not all((run / "attacks" / attack / "summary.json").is_file() for runs in each for run in runs):
                continue
            errors = [np.stack([records.per_image(run, attack)["mse"] for run in runs]) for runs in each]
            hits = [np.stack([records.answers(run).astype(float) for run in runs]) for runs in each]
            (one,) = at_equal_accuracy(SIGMAS, errors, hits, shared=(False, True))
            difference = one.difference and one.difference.as_dict()
            mse = float(np.mean([each[-1].mean() for each in errors]))
            about = {"accuracy": one.accuracy, "mse": mse, "mse of noise": one.reference, "log_ratio": difference}
            found[f"{arm}/{attack}"] = about | {"beyond": one.beyond}
    return found


if __name__ == "__main__":
    made = plan()
    if cells.main(made, __doc__ or "", "tradeoff_follow"):
        record = json.loads(RECORD.read_text("utf-8"))
        record["compared"] = compared(cells.given(__doc__ or "", "tradeoff_follow").out, made)
        RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(record["compared"], indent=1))
