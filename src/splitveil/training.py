"""The one training loop: SGD on lightning-fabric, with the hooks of the defence."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.nn.functional import cross_entropy

from . import checkpoints, config, fastconv, pins, reading, training_memory
from .claims import claimed
from .data import ImageSet, Split, augment, protocol, to_float
from .defenses.base import Features, Stack, Step, name_of
from .errors import UserError
from .features import FeatureKeeper, capacity
from .files import save_tensors, write_json, write_text
from .metrics import binomial_ci
from .one_machine import OneMachine
from .randomness import seed_layers, stream
from .recipe import (
    LAYERS,
    MIRROR,
    REFIT,
    SHUFFLE,
    STEP,
    TEST,
    VALIDATE,
    WEIGHTS,
    batches,
    learning_rate,
    pacing_rate,
    precision,
)
from .runs import build_model, check_folder, environment, load_weights, parameter_counts, save_weights
from .split import SplitModel

EVALUATION_BATCH = 256
Progress = Callable[[int, int, dict[str, Any]], None]
"""Called after each step with (epoch, steps done in all, the last epoch's record)."""


class TrainingStep(nn.Module):
    """What one step computes under autocast, as one forward (DDP and Fabric hook into forward)."""

    def __init__(self, model: SplitModel):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """z, z_wire, logits of pixels x (B, 3, S, S)."""
        z = self.model.features(x)
        wire = self.model.protect(z, rng)
        return z, wire, self.model.tail(wire)


@torch.no_grad()
def predict(model: SplitModel, images: Tensor, rng: torch.Generator) -> Tensor:
    """int64 (N,): the class that the split model sees in each of ``images`` (uint8) from the noisy wire."""
    found = []
    for part in images.split(EVALUATION_BATCH):
        x = to_float(part.to(model.mean.device)).to(memory_format=torch.channels_last)
        found.append(model(x, rng).argmax(1))
    return torch.cat(found).cpu()


def correct(model: SplitModel, split: Split, rng: torch.Generator) -> Tensor:
    """bool (N,): which images the split model classifies right from the noisy wire."""
    return predict(model, split.images, rng) == split.labels.cpu()


class Trainer:
    """One training in its run folder; ``run`` goes from the last checkpoint to the summary."""

    def __init__(self, settings: config.TrainConfig, images: ImageSet, out: Path, fabric: Fabric):
        self.settings, self.images, self.out, self.fabric = settings, images, out, fabric
        self.pinned = pins.of(images)
        self.parts = protocol(settings.protocol, images, seed=settings.seed)
        seed_layers(stream("cpu", settings.seed, WEIGHTS))  # the weights are drawn from the global generator
        self.model = build_model(settings, images)
        self.classes = len(images.classes)
        if len(self.parts.defender_train) < 2 * fabric.world_size:
            raise UserError(
                f"{len(self.parts.defender_train)} training images are too few for {fabric.world_size} processes; "
                "expected at least two for each"
            )
        self.stack = cast(Stack, self.model.defense)
        check_epochs(self.stack, settings.epochs)
        self.settled = min(settled(self.stack), settings.epochs - 1)
        self.step = TrainingStep(self.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.train = self.parts.defender_train.to(fabric.device)
        self.mirror = torch.rand(len(self.train), generator=self._rng(MIRROR, 0), device=fabric.device) < 0.5
        if fastconv.worth_it() and fabric.device.type == "cpu":
            fastconv.accelerate(self.model)
        self.state = checkpoints.State()
        self._setup()
        training_memory.check(self, self._rng(STEP, 0))

    def _setup(self) -> None:
        own = {id(p) for p in self.stack.own_parameters()}
        trained = [p for p in self.model.parameters() if id(p) not in own and p.requires_grad]
        s = self.settings
        optimizer = torch.optim.SGD(
            _groups(trained, s),
            lr=s.lr,
            momentum=s.momentum,
            weight_decay=s.weight_decay,
            nesterov=s.nesterov,
            fused=self.fabric.device.type == "cuda" or None,
        )
        ignored = [name for name, p in self.step.named_parameters() if id(p) in own]
        nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.step, ignored)
        self.forward, self.optimizer = self.fabric.setup(self.step, optimizer)

    def _rng(self, purpose: int, epoch: int, rank: int = 0, device: torch.device | None = None) -> torch.Generator:
        return stream(device or self.fabric.device, self.settings.seed, purpose, epoch, rank)

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Train to the last epoch, load the chosen one, score it on the test images; the summary."""
        records = self.state.records
        while self.state.epoch < self.settings.epochs:
            start, epoch = time.perf_counter(), self.state.epoch
            record = self._epoch(epoch, progress)
            if self.stack.restructure(epoch, self.model):
                self._setup()
                self.state.best_accuracy = -1.0  # what was chosen before is not the defended network
            accuracy = (
                correct(self.model.eval(), self.parts.utility_val, self._rng(VALIDATE, epoch)).float().mean().item()
            )
            seconds = time.perf_counter() - start
            record |= {
                "accuracy_val": accuracy,
                "leakage_nats": self.stack.leakage(),
                "seconds": seconds,
                "images_per_second": len(self.train) / seconds,
            }
            records.append(record)
            self.fabric.log_dict(_flat(record), step=epoch)
            if self._chosen(epoch, accuracy):
                self.state.best_epoch, self.state.best_accuracy = epoch, accuracy
                if self.fabric.is_global_zero:
                    save_weights(self.model, self.out / "model.safetensors")
            self.state.epoch += 1
            self._checkpoint()
        self.fabric.barrier()  # the chosen weights are on the disk before anybody reads them
        return self._summary()

    def _chosen(self, epoch: int, accuracy: float) -> bool:
        if self.settings.choose == "last":
            return epoch == self.settings.epochs - 1
        # On a tie the later: it has had more of the defense.
        return epoch >= self.settled and accuracy >= self.state.best_accuracy

    def _epoch(self, epoch: int, progress: Progress | None) -> dict[str, Any]:
        fabric, settings = self.fabric, self.settings
        rng = self._rng(STEP, epoch, fabric.global_rank)
        # Dropout layers draw from the global generator: seeded per epoch, a resumed run repeats an uninterrupted one.
        seed_layers(self._rng(LAYERS, epoch, fabric.global_rank))
        plan = batches(len(self.train), settings.batch_size, self._rng(SHUFFLE, epoch), 2 * fabric.world_size)
        keep = FeatureKeeper(len(self.train), fabric.device) if self.stack.wants_features else None
        totals: dict[str, Tensor] = {}
        self.forward.train()
        for number, index in enumerate(plan):
            done = epoch * len(plan) + number
            share = index[fabric.global_rank :: fabric.world_size]
            losses = self._step(share, rng, done / (settings.epochs * len(plan)), keep)
            for name, value in losses.items():
                totals[name] = totals.get(name, torch.zeros((), device=fabric.device)) + value.detach()
            if progress:
                progress(epoch, done + 1, self.state.records[-1] if self.state.records else {})
        losses = {name: float(cast(Tensor, fabric.all_reduce(value))) / len(plan) for name, value in totals.items()}
        if not math.isfinite(loss := sum(losses.values())):
            raise UserError(f"the loss is {loss} in epoch {epoch}; lower --lr or the weight of the defense")
        self._agree()
        if keep is not None:
            z, y = keep.gathered(fabric)
            extract = functools.partial(self._extract, epoch)
            features = Features(z, y, self.classes, self._rng(REFIT, epoch), extract)
            self.stack.refit(epoch, features)
        return {"epoch": epoch, "loss": loss, "losses": losses}

    def _agree(self) -> None:
        """Give every process the first one's batch-norm statistics: each has updated them on its own share."""
        if self.fabric.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _step(
        self, index: Tensor, rng: torch.Generator, progress: float, keep: FeatureKeeper | None
    ) -> dict[str, Tensor]:
        lr = learning_rate(self.settings, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("factor", 1.0)
        y = self.train.labels[index]
        x = self._augmented(index, rng)
        self.stack.before_step(x, y, self.model)
        z, wire, logits = self.forward(x, rng)
        losses = {"task": cross_entropy(logits.float(), y, label_smoothing=self.settings.label_smoothing)}
        pace = pacing_rate(self.settings, progress)
        losses |= self.stack.losses(Step(x, y, z, wire, logits, rng, pace, progress, self.model))
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(torch.stack(list(losses.values())).sum())
        self.optimizer.step()
        if keep is not None:
            keep.add(z, y)
        return losses

    def _augmented(self, index: Tensor, rng: torch.Generator) -> Tensor:
        s = self.settings
        turned = {"crop_padding": s.crop_padding or 0, "flip": bool(s.flip), "rotate_degrees": s.rotate}
        if s.flip and s.alternate_flip:
            turned["mirror"] = self.mirror[index] ^ bool(self.state.epoch % 2)
        return augment(self.train.images[index], rng, **turned).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def _extract(self, epoch: int = 0, augmented: bool = False) -> tuple[Tensor, Tensor]:
        """Features of the training images in evaluation mode, as they are or augmented anew: an extra pass."""
        self.model.eval()
        count = min(len(self.train), capacity(math.prod(self.model.wire_shape)))
        # The images may be sorted by class, so that the part that fits must be drawn: always the same one.
        order = torch.randperm(len(self.train), generator=self._rng(REFIT, 0, 1), device=self.fabric.device)[:count]
        rng = self._rng(REFIT, epoch, 2)  # the same on every process
        z = []
        for index in order.split(EVALUATION_BATCH):
            x = self._augmented(index, rng) if augmented else to_float(self.train.images[index])
            z.append(self.model.features(x.to(memory_format=torch.channels_last)).flatten(1))
        return torch.cat(z), self.train.labels[order]

    def _checkpoint(self) -> None:
        if not self.fabric.is_global_zero:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": vars(self.state),
            "settings": config.dump(self.settings),
            "images": self.pinned,
            "wire": list(self.model.wire_shape),
        }
        save_tensors(self.out / "checkpoint" / "last.pt", state)
        write_text(self.out / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in self.state.records))

    def resume(self) -> None:
        """Go back to the last checkpoint; without one, to the beginning."""
        path = self.out / "checkpoint" / "last.pt"
        if not path.is_file():
            return
        saved = checkpoints.read(path, self.model, self.fabric.device, self.settings, self.images, self.out)
        try:
            if self.stack.restructure_like(self.model, saved["model"]):
                self._setup()
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.state = checkpoints.State.of(saved["state"])
        except (*reading.UNUSABLE, UserError) as error:
            raise checkpoints.unusable(path, error) from None

    def _summary(self) -> dict[str, Any]:
        load_weights(self.model, self.out / "model.safetensors")
        test = self.parts.utility_test
        predicted = predict(self.model.eval(), test.images, self._rng(TEST, 0))
        hits = predicted == test.labels.cpu()
        records = self.state.records
        shape = list(self.model.wire_shape)
        summary = {
            "accuracy": binomial_ci(int(hits.sum()), len(hits)).as_dict(),
            "accuracy_val": self.state.best_accuracy,
            "epoch": self.state.best_epoch,
            "leakage_nats": records[self.state.best_epoch]["leakage_nats"],
            "seconds": sum(r["seconds"] for r in records),
            "images": {"train": len(self.train), "test": len(hits)},
            **self.pinned,
            "parameters": parameter_counts(self.model),
            "wire": {"shape": shape, "bytes": 4 * math.prod(shape)},
            "precision": precision(self.settings.precision, self.fabric.device),
            "environment": environment(),
        }
        if self.fabric.is_global_zero:
            rows = enumerate(zip(test.labels.tolist(), predicted.tolist(), strict=True))
            lines = [f"{image},{label},{answer}\n" for image, (label, answer) in rows]
            write_text(self.out / "test.csv", "image,label,predicted\n" + "".join(lines))
            write_json(self.out / "summary.json", summary)  # last: it marks the run as finished
        return summary


def _groups(trained: list[nn.Parameter], settings: config.TrainConfig) -> list[Any]:
    """The parameters for SGD; matrices and the others apart where these have another learning rate."""
    if settings.bias_lr == 1:
        return trained
    others = {"params": [p for p in trained if p.ndim < 2], "factor": settings.bias_lr}
    return [{"params": [p for p in trained if p.ndim >= 2]}, others]


def _flat(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a record as a logger takes them."""
    losses = {f"loss/{name}": value for name, value in record["losses"].items()}
    rest = {key: value for key, value in record.items() if key not in ("epoch", "losses") and value is not None}
    return rest | losses


def _tensorboard(out: Path) -> TensorBoardLogger:
    try:
        return TensorBoardLogger(out, name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise UserError(f"--tensorboard needs a package: {error.name}; pip install 'splitveil[all]'") from None


def settled(stack: Stack) -> int:
    """The first epoch in which every defence acts: an earlier one is never chosen, its weights are not defended.

    Those that refit themselves from features have none in epoch 0.
    """
    return max([int(stack.wants_features), *(part.acts_after for part in stack)])


def check_epochs(stack: Stack, epochs: int) -> None:
    for part in stack:
        if part.acts_after >= epochs:
            raise UserError(
                f"{name_of(type(part))} acts from epoch {part.acts_after + 1} on, but the training has {epochs}; "
                "train longer"
            )


def fit(
    settings: config.TrainConfig,
    images: ImageSet,
    out: str | Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train what ``settings`` describes on ``images`` and leave the run folder ``out``; returns its summary.

    Raises:
        UserError: the folder holds a run already, another process trains in it, or, on resuming, it is of other
            settings.

    >>> import tempfile
    >>> from splitveil.data import load
    >>> settings = config.parse({"data": "digits", "arch": "resnet20_sgm", "cut": 2, "epochs": 1, "train_size": 60})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     summary = fit(settings, load("digits", train_size=60, test_size=20), folder)
    >>> sorted(summary["accuracy"])
    ['ci95', 'mean']
    """
    settings, out = settings.resolve(), Path(out)
    check_folder(settings, out, resume)
    with claimed(out, "training"):
        check_folder(settings, out, resume)  # again: another training may have come before the claim
        return _fit(settings, images, out, resume, progress, tensorboard)


def _fit(
    settings: config.TrainConfig,
    images: ImageSet,
    out: Path,
    resume: bool,
    progress: Progress | None,
    tensorboard: bool,
) -> dict[str, Any]:
    if resume and (out / "summary.json").is_file():
        summary = reading.read_json(out / "summary.json", reading.RUN, "delete it, and --resume makes it again")
        pins.check(summary, images, out)
        return summary
    gpu = torch.cuda.is_available()
    if gpu and settings.devices > torch.cuda.device_count():
        raise UserError(f"--devices {settings.devices}: this machine has {torch.cuda.device_count()} GPUs")
    several = settings.devices > 1
    if several and settings.batch_size < 2 * settings.devices:
        raise UserError(
            f"batch size {settings.batch_size} is too small for --devices {settings.devices}; "
            f"expected at least {2 * settings.devices}: two images for each"
        )
    fabric = Fabric(
        loggers=[_tensorboard(out)] if tensorboard else [],
        accelerator="cuda" if gpu else "cpu",
        devices=settings.devices,
        strategy=DDPStrategy(start_method="spawn") if several else "auto",
        precision=precision(settings.precision, torch.device("cuda" if gpu else "cpu")),  # type: ignore[arg-type]
        plugins=[OneMachine()],
    )
    # Spawned processes cannot carry a bar across; the first one's records are in metrics.jsonl.
    try:
        # Bound, and not arguments: launching looks into those, and refuses frozen dataclasses.
        shown = None if several else progress
        train = functools.partial(_train, settings=settings, images=images, out=out, resume=resume, progress=shown)
        return fabric.launch(train)
    except ProcessRaisedException as error:  # carries the traceback of the process as text
        _, ours, message = str(error).rpartition(f"\n{UserError.__module__}.{UserError.__name__}: ")
        if not ours:
            raise
        raise UserError(message.strip()) from None


def _train(
    fabric: Fabric,
    settings: config.TrainConfig,
    images: ImageSet,
    out: Path,
    resume: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    with torch.random.fork_rng():  # layers draw weights and dropout from torch's global generators
        trainer = Trainer(settings, images, out, fabric)
        if resume:
            trainer.resume()
        if fabric.is_global_zero:
            write_text(out / "config.yaml", config.dump(settings, splitveil=environment()["splitveil"]))
        return trainer.run(progress)
