"""Speed of training and attacking, as ratios measured side by side in one run.

    python benchmarks/speed.py [--root data/cifar10] [--rounds 15] [--out benchmarks/speed.json]

Each round times every variant once, in turn, so that a machine whose speed drifts treats them alike. Ratios are
medians over the rounds of the ratio within a round, with the quartiles behind them. Ours and what it is compared with
run in a process each, which wait for each other: ours keeps freed memory, as the commands do (`nn/allocator.py`), and
the other one uses PyTorch as it comes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from published_step import published_step
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy, mse_loss

from splitveil import config, data, runs, zoo
from splitveil.attacks.base import Victim
from splitveil.attacks.decoder import DecoderAttack
from splitveil.defenses import _kmeans
from splitveil.defenses.base import Features
from splitveil.nn import fastconv
from splitveil.nn.allocator import keep_memory
from splitveil.recipe import precision
from splitveil.storage.files import write_json
from splitveil.training.fabric import fabric_of
from splitveil.training.feature_buffer import FeatureBuffer
from splitveil.training.trainer import Trainer

NET = {"arch": "vgg11_bn_sgm", "cut": 4, "bottleneck": 8}
BATCH, LARGE = 128, 512


def trainer(images: data.ImageSet, *defense: str, batch: int = BATCH, **recipe: str) -> Callable[[], object]:
    """One training step, augmentation included: by default that of the published recipe."""
    changed = {"defense": defense, "epochs": 2, "batch_size": batch, **recipe}
    settings = config.parse({"data": "cifar10", **NET, **changed}).resolve()
    made = Trainer(settings, images, Path(tempfile.mkdtemp()), fabric_of(settings))
    rng = torch.Generator(made.fabric.device).manual_seed(0)
    with torch.no_grad():
        z, y = made._extract()
    made.stack.refit(0, Features(z, y, 10, rng))
    made.forward.train()
    index = torch.arange(batch, device=made.fabric.device)
    return lambda: made._step(index, rng, 0.6, None)


def plain_training(images: data.ImageSet) -> Callable[[], object]:
    """The same network in an ordinary fp32 loop: no augmentation, no defense but the noise."""
    parts = zoo.build(NET["arch"], cut=4, classes=10, image_size=32, bottleneck=zoo.Bottleneck(8))
    encoder, tail = parts.encoder.train(), parts.tail.train()
    optimizer = torch.optim.SGD([*encoder.parameters(), *tail.parameters()], 0.05, momentum=0.9, weight_decay=5e-4)
    x, y = data.to_float(images.train.images[:BATCH]), images.train.labels[:BATCH]

    def step() -> None:
        z = encoder(x)
        loss = cross_entropy(tail(z + 0.025 * torch.randn_like(z)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def published(images: data.ImageSet) -> Callable[[], object]:
    """Return the step with CEM as it was published: `published_step`."""
    parts = zoo.build(NET["arch"], cut=4, classes=10, image_size=32, bottleneck=zoo.Bottleneck(8))
    x, y = data.to_float(images.train.images[:BATCH]), images.train.labels[:BATCH]
    return published_step(parts.encoder, parts.tail, x, y)


def decoder_steps(images: data.ImageSet) -> dict[str, Callable[[], object]]:
    """A training step of the decoder attack, batch 256: ours, and a plain one."""
    settings = config.parse({"data": "cifar10", **NET, "defense": ["gaussian:0.025"]}).resolve()
    victim = Victim(runs.build_model(settings, images), frozenset(data.Access))
    rng = torch.Generator().manual_seed(0)
    seen = victim.observe(images.train.subset(torch.arange(1024)))
    attack = DecoderAttack()
    attack._build(seen, rng)
    index = torch.arange(256)
    state = {"optimizer": torch.optim.Adam(attack.decoder.parameters(), 1e-3, weight_decay=1e-4), "precision": ""}
    attack.decoder.train()
    plain = zoo.decoders.build(attack.network, feature_shape=(8, 8, 8), image_size=32).train()
    plain_optimizer = torch.optim.Adam(plain.parameters(), 1e-3, weight_decay=1e-4)
    z, x = seen.wire(index, rng).contiguous(), seen.images(index)

    def step() -> None:
        loss = mse_loss(plain(z + 0.025 * torch.randn_like(z)), x)
        plain_optimizer.zero_grad()
        loss.backward()
        plain_optimizer.step()

    return {"attack step": lambda: attack.step(seen, index, state, rng), "plain attack step": step}


def others(root: Path) -> dict[str, Callable[[], object]]:
    """What ours is compared with, by name."""
    images = some(root)
    return {
        "plain fp32 loop": plain_training(images),
        "published step with CEM": published(images),
        "plain attack step": decoder_steps(images)["plain attack step"],
        "step, memory given back": trainer(images, "gaussian:0.025"),
    }


def ours(root: Path) -> dict[str, Callable[[], object]]:
    """Our own steps, by name."""
    keep_memory()
    images, rng = some(root), torch.Generator().manual_seed(0)
    index, crop = torch.arange(BATCH), {"crop_padding": 4, "flip": True, "rotate_degrees": 15.0}
    z, y = torch.rand(50_000, 512, generator=rng), torch.arange(50_000) % 10
    return {
        "step": trainer(images, "gaussian:0.025"),
        "step with CEM": trainer(images, "gaussian:0.025", "cem:16"),
        "step with CEM, released loss": trainer(images, "gaussian:0.025", "cem:weight=16,loss=released"),
        "images and augmentation": lambda: data.augment(images.train.images[index], rng, **crop),
        "attack step": decoder_steps(images)["attack step"],
        "refit": lambda: _kmeans.fit(z, y, 10, 5, rng),
    }


def large(root: Path) -> dict[str, Callable[[], object]]:
    """Our step with the batch of the fast recipe, as a command makes it, and by that recipe with both optimizers."""
    keep_memory()
    images, noise = some(root), "gaussian:0.025"
    return {
        "step of 512": trainer(images, noise, batch=LARGE),
        "step of 512, fast recipe": trainer(images, noise, batch=LARGE, recipe="fast"),
        "step of 512, fast recipe, SGD": trainer(images, noise, batch=LARGE, recipe="fast", optimizer="sgd"),
        "step of 512, fast recipe with CEM": trainer(images, noise, "cem:16", batch=LARGE, recipe="fast"),
    }


def large_given_back(root: Path) -> dict[str, Callable[[], object]]:
    """The same where freed memory is given back."""
    return {"step of 512, memory given back": trainer(some(root), "gaussian:0.025", batch=LARGE)}


def some(root: Path) -> data.ImageSet:
    """A few images of CIFAR-10."""
    return data.load("cifar10", root=root, train_size=2000, test_size=100)


class Side:
    """A process that makes the steps of one side, one at a time."""

    def __init__(self, make: Callable[[Path], dict[str, Callable[[], object]]], root: Path):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(make, root, other), daemon=True)
        self.process.start()
        self.names: list[str] = self.pipe.recv()

    def seconds(self, name: str) -> float:
        """Seconds of one step."""
        self.pipe.send(name)
        return self.pipe.recv()


def serve(make: Callable[[Path], dict[str, Callable[[], object]]], root: Path, pipe: Connection) -> None:
    """Make the steps that are asked for by name, and answer with their seconds."""
    steps = make(root)
    pipe.send(list(steps))
    while (name := pipe.recv()) is not None:
        call = steps[name]
        start = time.perf_counter()
        call()
        pipe.send(time.perf_counter() - start)


def peak_memory(root: Path) -> float:
    """GiB of a process that has 50,000 images: five steps, clusters of as many random features, and a step."""
    keep_memory()
    images = data.load("cifar10", root=root)
    defense = ["gaussian:0.025", "cem:16"]
    settings = config.parse({"data": "cifar10", **NET, "defense": defense, "epochs": 2}).resolve()
    made = Trainer(settings, images, Path(tempfile.mkdtemp()), fabric_of(settings))
    rng = torch.Generator(made.fabric.device).manual_seed(0)
    keep = FeatureBuffer(len(made.train), made.fabric.device)
    made.forward.train()
    for index in torch.arange(5 * BATCH).split(BATCH):
        made._step(index, rng, 0.5, keep)
    while keep.filled < len(made.train):
        keep.add(torch.rand(1024, 512, generator=rng), torch.arange(1024) % 10)
    z, y = keep.gathered(made.fabric)
    made.stack.refit(0, Features(z, y, 10, rng))
    made._step(index, rng, 0.5, None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def rounds(sides: list[Side], count: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for side in sides for name in side.names}
    for number in range(count + 1):
        for side in sides:
            for name in side.names:
                seconds = side.seconds(name)
                if number:
                    times[name].append(seconds)
    return times


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    """Median and quartiles of above/below, round by round."""
    low, mid, high = statistics.quantiles([a / b for a, b in zip(above, below, strict=True)], n=4)
    return {"median": mid, "quartile_1": low, "quartile_3": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/speed.json"))
    args = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        memory = pool.apply(peak_memory, (args.root,))
    sides = [Side(make, args.root) for make in (others, ours, large, large_given_back)]
    t = rounds(sides, args.rounds)
    for side in sides:
        side.pipe.send(None)
    result = {
        "machine": runs.environment()
        | {
            "threads": torch.get_num_threads(),
            "winograd": fastconv.worth_it(),
            "precision": precision("auto", torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        },
        "milliseconds": {name: 1000 * statistics.median(values) for name, values in t.items() if name != "refit"},
        "ratios": {
            "plain loop / default step": ratio(t["plain fp32 loop"], t["step"]),
            "published step with CEM / ours": ratio(t["published step with CEM"], t["step with CEM"]),
            "step with CEM / without": ratio(t["step with CEM"], t["step"]),
            "step with CEM (released) / without": ratio(t["step with CEM, released loss"], t["step"]),
            "augmentation / step": ratio(t["images and augmentation"], t["step"]),
            "plain attack step / ours": ratio(t["plain attack step"], t["attack step"]),
            "step, memory kept / given back": ratio(t["step"], t["step, memory given back"]),
            "step of 512 by Muon / by SGD": ratio(t["step of 512, fast recipe"], t["step of 512, fast recipe, SGD"]),
            "step of 512 by Muon with CEM / without": ratio(
                t["step of 512, fast recipe with CEM"], t["step of 512, fast recipe"]
            ),
            "step of 512, memory kept / given back": ratio(t["step of 512"], t["step of 512, memory given back"]),
        },
        "refit_50000x512_seconds": statistics.median(t["refit"]),
        "peak_memory_gib": memory,
    }
    write_json(args.out, result)
    show(result)


def show(result: dict) -> None:
    table = Table("what", "median", "quartiles", title=str(result["machine"]))
    for name, value in result["ratios"].items():
        table.add_row(name, f"{value['median']:.3f}", f"{value['quartile_1']:.3f} to {value['quartile_3']:.3f}")
    for name, value in result["milliseconds"].items():
        table.add_row(name, f"{value:.1f} ms", "")
    table.add_row("k-means of 50,000 × 512 into 10 × 5", f"{result['refit_50000x512_seconds']:.2f} s", "")
    table.add_row("peak memory of a few steps with 50,000 images", f"{result['peak_memory_gib']:.2f} GiB", "")
    Console().print(table)


if __name__ == "__main__":
    main()
