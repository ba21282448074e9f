"""CEM where a cluster has few images: what it reports, and how hard λ pulls, before and after variances are shrunk.

    python benchmarks/small_clusters.py [--draws 3] [--run runs/few] [--out FILE.json]

Features z ~ N(0, 0.02 I) of 512 dimensions behind noise of σ = 0.025, five clusters in each class: I(x; z_wire) is
known, 895 nats, and no clustering can give less. Before: clusters as k-means leaves them, variances divided by their
count, the bound of those. After: what `cem` does. The pull is the root mean square of the gradient at z relative to
that of 400 images per cluster: at the features that the clusters were made of, at the same after they have moved by a
tenth of their variance, as between two epochs, and at others.

With --run also the features of a trained run: parts of its training images, augmented, the pull relative to that of the
largest part; moved are those of the same images augmented anew, others those of test images. Of all its training
images: the bound with clusters, on held-out features, and with one Gaussian; and how near CEM's force on the logarithms
of the scales, Σ_j π_j v_jd/(v_jd + σ²) on entry d, comes to that of more noise, which is the same on all: their cosine.
The run was made by `splitveil train --data cifar10 --train-size 5000 --test-size 1000 --cut 4 --bottleneck 8
--defense gaussian:0.025 --defense cem:0 --epochs 10 --precision 32-true --out runs/few`.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from splitveil import runs
from splitveil.data import augment, protocol
from splitveil.defenses import _kmeans, _mixture
from splitveil.model import SplitModel
from splitveil.storage.files import write_json

SIGMA2, VARIANCE, DIMENSIONS, CLUSTERS, OTHERS = 0.025**2, 0.02, 512, 5, 10_000
SETS = (
    (20_000, 10),
    (4_500, 10),
    (1_800, 10),
    (500, 10),
    (180, 10),
    (150, 10),
    (4_500, 100),
    (5_300, 530),
    (2_650, 530),
)
"""Images and classes."""
PARTS = (90, 36, 20, 10, 4, 3)
"""Images per cluster of a trained run."""
MOVED = 0.1
"""Part of the variance that is drawn anew."""
BATCH = 2_000


def pull(z: Tensor, y: Tensor, found: _kmeans.Clusters, merged: bool) -> tuple[float, float]:
    """RMS of (z − μ)/(v + σ²), and the part of its square that clusters of one image have."""
    total, alone = 0.0, 0.0
    for part, of in zip(z.split(BATCH), y.split(BATCH), strict=True):
        distance = (part[:, None] - found.centers[of]).square().sum(-1)
        if merged:
            distance = distance.masked_fill(found.counts[of] == 0, torch.inf)
        near = distance.argmin(1)
        square = ((part - found.centers[of, near]) / (found.variance[of, near] + SIGMA2)).square().mean(1)
        total += float(square.sum())
        alone += float(square[found.counts[of, near] == 1].sum())
    return math.sqrt(total / len(z)), alone / max(total, 1e-30)


def measure(z: Tensor, y: Tensor, classes: int, at: dict[str, tuple[Tensor, Tensor]], seed: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(seed)
    plain = _kmeans.fit(z, y, classes, CLUSTERS, rng)
    weights, own = plain.counts / plain.counts.sum(), plain.counts[..., None] * plain.variance
    ours = _mixture.fit(z, y, classes, CLUSTERS, rng)
    found = {
        "clusters per class": float((ours.counts > 0).sum()) / classes,
        "nats before": float(_mixture.bound(weights, plain.variance, SIGMA2, plain.counts, own)),
        "nats after": float(_mixture.held_out_nats(z, y, classes, CLUSTERS, SIGMA2, rng)),
    }
    for name, (features, of) in {"own": (z, y), **at}.items():
        found[f"pull before, {name}"], alone = pull(features, of, plain, False)
        found[f"pull after, {name}"], _ = pull(features, of, ours, True)
        if name == "moved":
            found["of clusters of one before, moved"] = alone
    return found


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def relative(rows: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Pulls as multiples of those of the first row."""
    first = next(iter(rows.values()))
    return {
        name: {key: value / first[key] if key.startswith("pull") else value for key, value in row.items()}
        for name, row in rows.items()
    }


def gaussian(draws: int) -> dict[str, dict[str, float]]:
    rows = {}
    for images, classes in SETS:
        found = []
        for seed in range(draws):
            g = torch.Generator().manual_seed(seed)
            z, fresh = (math.sqrt(VARIANCE) * torch.randn(n, DIMENSIONS, generator=g) for n in (images, OTHERS))
            y, of = (torch.arange(n) % classes for n in (images, OTHERS))
            moved = math.sqrt(1 - MOVED) * z + math.sqrt(MOVED * VARIANCE) * torch.randn(z.shape, generator=g)
            found.append(measure(z, y, classes, {"moved": (moved, y), "others": (fresh, of)}, seed))
        rows[f"{images:,} images, {classes} classes ({images / classes / CLUSTERS:.3g} per cluster)"] = mean(found)
    return relative(rows)


@torch.no_grad()
def trained(path: Path, draws: int) -> dict[str, Any]:
    run = runs.Run.open(path)
    images = runs.load_images(run.settings)
    parts, model = protocol(run.settings.protocol, images, seed=run.settings.seed), run.model(images)
    train, classes = parts.defender_train, len(images.classes)
    turned, rng = run.settings.augmentation, torch.Generator().manual_seed(0)
    own, moved, others = (
        features(model, augment(x, rng, **turned)) for x in (train.images, train.images, images.test.images)
    )
    rows = {}
    for size in PARTS:
        found = []
        for seed in range(draws):
            order = torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))
            y = train.labels[order]
            first = torch.cat([torch.nonzero(y == c)[: size * CLUSTERS, 0] for c in range(classes)]).sort().values
            kept, y = order[first], y[first]
            at = {"moved": (moved[kept], y), "others": (others, images.test.labels)}
            found.append(measure(own[kept], y, classes, at, seed))
        rows[f"{len(y):,} images, {classes} classes ({size} per cluster)"] = mean(found)
    return {"few": relative(rows), "force": force(own, train.labels, classes)}


def force(z: Tensor, y: Tensor, classes: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(0)
    found = _mixture.fit(z, y, classes, CLUSTERS, rng)
    weights, own = found.counts / found.counts.sum(), found.counts[..., None] * found.variance
    one = z.var(0)[None, None]
    whole = torch.ones(1, 1)
    values = {
        "nats, clusters": float(_mixture.held_out_nats(z, y, classes, CLUSTERS, SIGMA2, rng)),
        "nats, one Gaussian": float(_mixture.bound(whole, one, SIGMA2, whole, one)),
        "part of the variance between clusters": float(1 - own.sum() / len(z) / one.sum()),
    }
    for sigma in (0.025, 0.1, 0.2):
        pulled = (weights[..., None] * found.variance / (found.variance + sigma**2)).sum((0, 1))
        values[f"cosine with more noise, σ {sigma}"] = float(pulled.mean() / pulled.square().mean().sqrt())
    return values


def features(model: SplitModel, x: Tensor) -> Tensor:
    return torch.cat([model.features(part).flatten(1) for part in x.split(BATCH)])


def main() -> None:
    """Measure, print, leave the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--run", type=Path, help="a run whose training features are measured too")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    truth = DIMENSIONS / 2 * math.log1p(VARIANCE / SIGMA2)
    result: dict[str, Any] = {"true nats": truth, "gaussian": gaussian(args.draws), "draws": args.draws}
    if args.run:
        result["trained"] = trained(args.run, args.draws)
    write_json(args.out, result | {"environment": runs.environment()})
    show("Gaussian features", result["gaussian"])
    if args.run:
        show("trained features", result["trained"]["few"])
        show("all trained features", {"": result["trained"]["force"]})


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(rows.values())))
    table = Table(title, *names)
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key]:.4g}" for key in names))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
