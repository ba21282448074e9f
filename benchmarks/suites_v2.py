"""What the second suites add to the first: quick-v1 against quick-v2, the decoder against gan and refine, on one run.

    splitveil train --data cifar10 --cut 4 --bottleneck 8 --epochs 60 --defense gaussian:0.025 --out base
    python benchmarks/suites_v2.py base [--device cuda] [--scale standard] [--attacked 500] [--parts suites gan]

``suites``: seconds of quick-v1 and quick-v2, each from the beginning; the best attacker of quick-v2 against the decoder
and the best attacker of quick-v1, and refine against the decoder that it begins with, on the same attacked wires.
``gan``: the decoder, then the same one refined by `gan` with 1 and with 10 critic steps for each step of the generator,
the number of critic steps being equal. ``--scale standard`` takes decoder and gan of standard-v2 instead of small ones.
Works on copies of the run, which stays as it is. Writes benchmarks/suites_v2.json after each part; differences are
paired, with 95 % bootstrap intervals over the images of this one training.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from splitveil.runs import Run

SCALES = {
    "quick": (
        "decoder:epochs=20,network=conv_normN1C32,lr=0.001,weight_decay=0.0001,batch_size=128,steps=2500,patience=200",
        "gan:network=conv_normN1C32,critic_steps=CRITIC,width=16,batch_size=128,steps=600,warm_epochs=20,"
        "warm_steps=2500,patience=200",
    ),
    "standard": (
        "decoder:epochs=50,network=res_normN8C64,lr=0.001,weight_decay=0.0001,batch_size=256,steps=20000,patience=800",
        "gan:epochs=50,warm_epochs=50,network=res_normN8C64,critic_steps=CRITIC,width=64,batch_size=256,steps=4000,"
        "warm_steps=20000,patience=800",
    ),
}
"""Decoder and gan; one training of the decoder serves all."""
CRITIC_STEPS = (1, 10)


@contextmanager
def copied(path: Path) -> Iterator[Run]:
    """The run without what its attacks left."""
    from splitveil import runs

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        shutil.copytree(path, copy, ignore=shutil.ignore_patterns("attacks", "checkpoint"))
        yield runs.Run.open(copy)


def suite(path: Path, name: str, images: Any, terms: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Run a suite from the beginning: its summary and the MSE of each attacked image, of the best attacker too."""
    from splitveil.evaluation import stage, suites

    def said(label: str) -> Any:
        print(f"{name}: {label}", flush=True)
        return lambda *_: None

    with copied(path) as run:
        agreed = stage.ThreatModel(**terms)
        parts = stage.parts(run.settings, images, agreed.protocol_name, agreed.attacker_size, agreed.attacked)
        summary = suites.run_suite(run, name, images, progress=said, **terms)
        specs = suites.named(name)
        done = {label: suites.finished(run, label, specs[label], parts, agreed) for label in summary["attacks"]}
    values = {label: found[1] for label, found in done.items() if found}
    held = {label: found[2] for label, found in done.items() if found}
    errors = {label: value["mse"] for label, value in values.items()}
    return summary, errors | {"best attacker": suites.best_values(values, held, "mse")}


def difference(found: Tensor, reference: Tensor) -> dict[str, Any]:
    """Of two attacks on the same images: both means, and the paired change in percent of the reference."""
    from splitveil.statistics import intervals

    change, before = intervals.paired_difference(found, reference), float(reference.mean())
    ends = [100 * end / before for end in (change.lo, change.hi)]
    return {"from": before, "to": float(found.mean()), "change_percent": 100 * change.mean / before, "ci95": ends}


def suites_compared(path: Path, images: Any, terms: dict[str, Any]) -> dict[str, Any]:
    """quick-v1 against quick-v2."""
    first, old = suite(path, "quick-v1", images, terms)
    second, new = suite(path, "quick-v2", images, terms)
    rows = {
        name: {
            "seconds": summary["seconds"],
            "best_attacker": summary["best_attacker"],
            "attacks": {
                label: {key: row[key] for key in ("mse", "ssim", "seconds", "shared_seconds", "curve") if key in row}
                for label, row in summary["attacks"].items()
            },
            "flags": summary["flags"],
        }
        for name, summary in (("quick-v1", first), ("quick-v2", second))
    }
    best = new["best attacker"]
    return {
        **rows,
        "seconds_ratio": second["seconds"] / first["seconds"],
        "best of quick-v2 against decoder of quick-v1": difference(best, old["decoder"]),
        "best of quick-v2 against best of quick-v1": difference(best, old["best attacker"]),
        "decoder of quick-v2 against decoder of quick-v1": difference(new["decoder"], old["decoder"]),
        "refine against its decoder": difference(new["refine"], new["decoder"]),
    }


def gan_compared(path: Path, images: Any, terms: dict[str, Any], scale: str) -> dict[str, Any]:
    """The decoder, and what gan makes of it."""
    from splitveil.attacks._shared import Made
    from splitveil.config import Spec
    from splitveil.evaluation import evaluate

    decoder, gan = SCALES[scale]
    texts = {"decoder": decoder} | {f"gan {n}": gan.replace("CRITIC", str(n)) for n in CRITIC_STEPS}
    fits: dict[str, Any] = {}
    found = {}
    with copied(path) as run:
        for label, text in texts.items():
            print(f"gan: {label}", flush=True)
            found[label] = evaluate.evaluate(run, Spec.model_validate(text), images, fits=fits, **terms)
    rows: dict[str, Any] = {}
    start = found["decoder"]
    for label, one in found.items():
        keys = ("attack", "mse", "ssim", "psnr", "seconds", "shared_seconds", "held_out", "flags")
        rows[label] = {key: one.summary[key] for key in keys if key in one.summary}
        rows[label]["loops"] = len(one.summary["curve"])
        if one is not start:
            apart = (one.reconstructions.float() - start.reconstructions.float()).div(255).square().mean()
            rows[label]["mean_squared_difference_from_decoder"] = float(apart)
            for metric in ("mse", "ssim"):
                rows[label][f"{metric} against the decoder"] = difference(one.values[metric], start.values[metric])
    trainings = sum(isinstance(each, Made) for each in fits.values())  # flags of the model are kept there too
    return {"scale": scale, "trainings_of_the_decoder": trainings, "attacks": rows}


def show(part: dict[str, Any], indent: str = "") -> None:
    """Print each difference in one line."""
    for name, value in part.items():
        if isinstance(value, dict) and "change_percent" in value:
            low, high = value["ci95"]
            print(
                f"{indent}{name}: {value['from']:.4f} -> {value['to']:.4f}, "
                f"{value['change_percent']:+.1f} % [{low:+.1f}, {high:+.1f}]"
            )
        elif isinstance(value, dict) and name not in ("best_attacker", "attack"):
            if "seconds" in value:
                print(f"{indent}{name}: {value['seconds']:.0f} s")
            show(value, indent + "  ")
        elif name == "seconds_ratio":
            print(f"{indent}{name}: {value:.2f}")


def main() -> None:
    """Measure, print the differences, leave the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--scale", choices=SCALES, default="quick")
    parser.add_argument("--parts", nargs="+", choices=("suites", "gan"), default=["suites", "gan"])
    parser.add_argument("--protocol", help="that of the training by default")
    parser.add_argument("--attacker-size", type=int)
    parser.add_argument("--attacked", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, help="folder of the images, where they have moved since the training")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # attacks take a GPU where they see one; torch is not loaded yet
    import torch

    from splitveil import runs
    from splitveil.storage.files import write_json

    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: torch sees no GPU here; leave --device out, or run where there is one")
    run = runs.Run.open(args.run)
    images = runs.load_images(run.settings.model_copy(update={"root": args.root}) if args.root else run.settings)
    terms = {"protocol_name": args.protocol or run.settings.protocol, "attacker_size": args.attacker_size}
    terms |= {"attacked": args.attacked, "seed": args.seed}
    record: dict[str, Any] = {"terms": terms, "accuracy": run.summary["accuracy"], "machine": runs.environment()}
    record |= {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
    record |= {"threads": torch.get_num_threads(), "config": run.settings.model_dump(mode="json", exclude={"root"})}
    record["command"] = "python benchmarks/suites_v2.py " + " ".join(sys.argv[1:])
    for part in args.parts:
        if part == "suites":
            record[part] = suites_compared(args.run, images, terms)
        else:
            record[part] = gan_compared(args.run, images, terms, args.scale)
        show(record[part])
        write_json(args.out, record)


if __name__ == "__main__":
    main()
