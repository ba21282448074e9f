"""What each codec costs and what it hides: bytes, accuracy and attacks on what is really sent, of one trained run.

    python benchmarks/codecs.py RUN [--root data/cifar10] [--codecs uint8 uint4 uint2] [--decoder TEXT]

Plan, fixed before the first run: every codec of one run, the same images, noise and seeds, so that all differences are
paired. Accuracy on all test images; linear attack and decoder under the run's protocol on 1,000 attacked images; the
share of wires for which an attacker with the encoder finds the right photo among 1,000. A difference of error that
counts is 10 %. What is done is kept in RUN/coded and RUN/attacks, so that a rerun goes on.
Writes benchmarks/codecs.json.

Changed before any result was there: the decoder has the small network of the demo, as the default one took more than
ten minutes for each codec on the shared machine. It is the same for all codecs and below what a patient attacker has.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitveil import config, runs
from splitveil.bounds.base import Channel
from splitveil.bounds.linkage import Linkage
from splitveil.coded import coded_run
from splitveil.evaluation.evaluate import attack_run
from splitveil.results import records
from splitveil.statistics.intervals import Interval, paired_difference, paired_hits, paired_ratio
from splitveil.storage.files import write_json

ATTACKED, GALLERY = 1000, "1,000"
DECODER = "decoder:epochs=8,network=res_normN2C32,batch_size=64"
RECORD = Path(__file__).with_suffix(".json")


def attacked(run: runs.Run, images: Any, label: str, text: str) -> Tensor:
    """Per-image squared errors of an attack, which is made unless it is there."""
    if not (run.path / "attacks" / label / "summary.json").is_file():
        spec = config.Spec.model_validate(text)
        attack_run(run, spec, images, label=label, protocol_name=run.settings.protocol, attacked=ATTACKED)
    return torch.from_numpy(records.per_image(run.path, label)["mse"])


def linkage(run: runs.Run, images: Any) -> dict[str, Any]:
    """How often the right photo is the first among 1,000."""
    channel = Channel.of(run.model(images), images.test, torch.Generator().manual_seed(0))
    found = Linkage().estimate(channel, torch.Generator().manual_seed(0))
    (one,) = [e.as_dict() for e in found if e.quantity == "success" and f"among {GALLERY}," in e.about]
    return {"share": one["value"], "ci95": one["interval"]["ci95"], "images": one["images"]}


def right(run: runs.Run) -> Tensor:
    """Which test images are answered right."""
    return torch.from_numpy(records.answers(run.path)).double()


def row(run: runs.Run, plain: runs.Run, images: Any, decoder: str) -> dict[str, Any]:
    """One codec's figures, beside those of the uncoded run."""
    found: dict[str, Any] = {
        "bytes": run.summary["wire"]["bytes"],
        "accuracy": run.summary["accuracy"],
        "error_over_sigma": run.summary.get("coding", {}).get("error_over_sigma"),
        "linkage_1000": linkage(run, images),
    }
    if run is not plain:
        found["accuracy_difference"] = paired_hits(right(run), right(plain)).as_dict()
    for label, text in (("linear", "linear"), ("codecs-decoder", decoder)):
        errors = attacked(run, images, label, text)
        about: dict[str, Any] = {"mse": paired_difference(errors, torch.zeros_like(errors)).as_dict()}
        if run is not plain:
            about["ratio"] = paired_ratio(errors, attacked(plain, images, label, text)).as_dict()
        found[label.removeprefix("codecs-")] = about
    return found


def main() -> None:
    """Measure every codec, write the record, print the table of the docs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--codecs", nargs="+", default=["uint8", "uint4", "uint2"])
    parser.add_argument("--decoder", default=DECODER)
    given = parser.parse_args()
    plain = runs.Run.open(given.run)
    settings = plain.settings.model_copy(update={"root": given.root}) if given.root else plain.settings
    images = runs.load_images(settings)
    found: dict[str, Any] = {
        "command": f"python benchmarks/codecs.py RUN --decoder {given.decoder}",
        "environment": runs.environment(),
        "run": {"defense": [str(s) for s in plain.settings.defense], "weights": plain.digest()},
        "attacked": ATTACKED,
        "codecs": {},
    }
    for codec in ["float32", *given.codecs]:
        run = plain if codec == "float32" else coded_run(plain, images, codec)
        found["codecs"][codec] = row(run, plain, images, given.decoder)
        write_json(RECORD, found)
        print(line(codec, found["codecs"][codec]), flush=True)


def line(codec: str, one: dict[str, Any]) -> str:
    """One row of the table in docs/export.md."""
    change = one.get("accuracy_difference")
    points = "" if change is None else f" ({Interval.from_dict(change).scaled(100):+.2f})"
    cells = [codec, f"{one['bytes']:,}", f"{100 * one['accuracy']['mean']:.1f} %{points}"]
    for attack in ("linear", "decoder"):
        ratio = one[attack].get("ratio")
        times = "" if ratio is None else f" ({Interval.from_dict(ratio):.3f} times)"
        cells.append(f"{one[attack]['mse']['mean']:.4f}{times}")
    cells.append(f"{100 * one['linkage_1000']['share']:.1f} %")
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    if RECORD.is_file():
        print(f"replaces {RECORD.name} of {json.loads(RECORD.read_text())['environment']}")
    main()
