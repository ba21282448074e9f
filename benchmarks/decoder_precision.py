"""What a decoder that is trained in bf16 loses, and what it saves, beside the same decoder in fp32.

    python benchmarks/decoder_precision.py RUN [RUN ...] [--decoder decoder:epochs=15] [--attacked 1000]

On every run the attack is made twice, with the same images, weights to begin with and noise. Figures: the ratio of the
two errors with its paired 95 % interval over the attacked images, and the processor's time for a step of each, by
turns on one wire (the clock would count other work of the machine). Goes on with attacks that are done; adds to the
record of other decoders. Writes decoder_precision.json beside this file, or --out.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from splitveil import config, runs
from splitveil.attacks import _rounding
from splitveil.attacks._held_out import Pairs, hold_out
from splitveil.data import Access, ImageSet, Split
from splitveil.evaluation.evaluate import attack_run
from splitveil.results import records
from splitveil.statistics.intervals import paired_ratio
from splitveil.storage.files import write_json
from splitveil.victim import Victim

PRECISIONS = {"bf16": "bf16-mixed", "fp32": "32-true"}
RECORD = Path(__file__).with_suffix(".json")


def computing(name: str) -> Any:
    """Let decoders be trained in a precision, whatever the hardware computes in."""
    return patch.object(_rounding, "precision", lambda *_: PRECISIONS[name])


def errors(run: runs.Run, images: ImageSet, text: str, attacked: int) -> dict[str, Any]:
    """Attack a run in both precisions."""
    labels = {name: re.sub(r"[^\w.]+", "-", f"{name} {text}") for name in PRECISIONS}
    spec = config.Spec.model_validate(text)
    for name, label in labels.items():
        if not (run.path / "attacks" / label / "summary.json").is_file():
            with computing(name):
                attack_run(run, spec, images, label=label, attacked=attacked)
    each = [torch.from_numpy(records.per_image(run.path, label)["mse"]) for label in labels.values()]
    means = {name: float(one.mean()) for name, one in zip(PRECISIONS, each, strict=True)}
    return {"mse": means, "bf16 / fp32": paired_ratio(each[0], each[1]).as_dict()}


def seconds(run: runs.Run, images: ImageSet, spec: config.Spec, rounds: int = 9) -> dict[str, Any]:
    """Processor's seconds for a step of each precision, by turns, and the median of their ratios with its quartiles."""
    some = Split(images.train.images[:600], images.train.labels[:600])
    victim, made = Victim(run.model(images), frozenset(Access)), {}
    for name in PRECISIONS:
        attack, rng = spec.resolve("attacks").make("attacks"), torch.Generator().manual_seed(0)
        held_out, train = hold_out(victim, some, rng, "decoder")
        attack._build(held_out, rng)
        state = {"optimizer": torch.optim.Adam(attack.decoder.parameters()), "precision": name}
        made[name] = attack, train, state, rng
    taken: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for _ in range(rounds + 1):  # the first warms up
        for name, parts in made.items():
            taken[name].append(_step(*parts))
    ratios = [
        full / half for half, full in zip(taken["bf16"][1:], taken["fp32"][1:], strict=True)
    ]  # the first warms up
    low, middle, high = statistics.quantiles(ratios, n=4)
    about = {name: statistics.median(values[1:]) for name, values in taken.items()}
    return {**about, "fp32 / bf16": {"median": middle, "quartiles": [low, high]}}


def _step(attack: Any, train: Pairs, state: dict[str, Any], rng: torch.Generator) -> float:
    attack.decoder.train()
    start = time.process_time()
    attack.step(train, torch.arange(attack.batch_size), state, rng)
    return time.process_time() - start


def main() -> None:
    """Attack each run in both precisions and add to the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="+")
    parser.add_argument("--decoder", default="decoder:epochs=15")
    parser.add_argument("--attacked", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RECORD)
    given = parser.parse_args()
    spec = config.Spec.model_validate(given.decoder)
    record: dict[str, Any] = json.loads(given.out.read_text("utf-8")) if given.out.is_file() else {"decoders": {}}
    record |= {"command": "python benchmarks/decoder_precision.py RUN", "environment": runs.environment()}
    mine = record["decoders"].setdefault(given.decoder, {"runs": {}})
    for path in given.run:
        run = runs.Run.open(path)
        images = runs.load_images(run.settings)
        defense = [{one.name: one.parameters} for one in run.settings.defense]
        found = {"defense": defense, "test_accuracy": run.summary["accuracy"]}
        mine["runs"][path.name] = found | errors(run, images, given.decoder, given.attacked)
        mine["seconds"] = seconds(run, images, spec)
        write_json(given.out, record)
        print(path.name, json.dumps(mine["runs"][path.name]["bf16 / fp32"]), json.dumps(mine["seconds"]), flush=True)


if __name__ == "__main__":
    main()
