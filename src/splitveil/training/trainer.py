"""A training in its run folder: checkpoints, resuming, several processes, the summary."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from .. import config, pinned_settings
from ..data import ImageSet, protocol
from ..errors import UserError
from ..randomness import seed_layers, stream
from ..recipe import TEST, WEIGHTS, precision
from ..runs import (
    SERVED,
    SNAPSHOTS,
    build_model,
    check_folder,
    digest_of,
    environment,
    load_weights,
    parameter_counts,
    save_weights,
    write_summary,
)
from ..statistics.intervals import binomial_ci
from ..storage import reading
from ..storage.claims import claimed
from ..storage.files import remove_unfinished, save_tensors, whole_files, write_text
from . import checkpoints, lost, pins, snapshots
from .loop import EVALUATION_BATCH, Progress, Training, correct, predict

if TYPE_CHECKING:
    from .fabric import Fabric, TensorBoardLogger

CHOSEN = "chosen-{}.safetensors"
"""Weights of the chosen epoch, beside the checkpoint, until the training has ended."""

__all__ = ["EVALUATION_BATCH", "Progress", "Trainer", "correct", "fit", "predict"]


class Trainer(Training):
    """One training in its run folder; ``finish`` goes from the last checkpoint to the summary."""

    def __init__(self, settings: config.TrainConfig, images: ImageSet, out: Path, fabric: Fabric, every: int = 0):
        self.images, self.out, self.every = images, out, every
        self.chosen_digest: str | None = None
        """SHA-256 of the weights of the chosen epoch; None: none is chosen yet, or by an earlier version."""
        self.config, self.pinned = settings, pins.of(images) | pins.DIVISION
        self.parts = protocol(settings.protocol, images, seed=settings.seed)
        seed_layers(stream("cpu", settings.seed, WEIGHTS))  # the weights are drawn from the global generator
        model, parts = build_model(settings, images), self.parts
        images.train.release()  # the parts are copies
        super().__init__(model, parts.defender_train, parts.utility_val, settings, len(images.classes), fabric)

    def finish(self, progress: Progress | None = None) -> dict[str, Any]:
        """Train to the last epoch, load the chosen one, score it on the test images and return the summary.

        Args:
            progress: called after each step with (epoch, steps done in all, the last epoch's record).
        """
        self.run(progress)
        return self._summary()

    def _keep(self) -> None:
        # Under a name of its own until the checkpoint says that it is the chosen one: were the process killed in
        # between, and the epoch trained again to slightly other weights, another epoch might be chosen.
        if self.fabric.is_global_zero:
            save_weights(self.model, self._kept(self.state.best_epoch))
            self.chosen_digest = digest_of(self._kept(self.state.best_epoch))

    def _restore(self) -> None:
        weights, kept = self.out / SERVED, self._kept(self.state.best_epoch)
        # Earlier versions wrote the weights of each chosen epoch there at once.
        found = kept if kept.is_file() else weights
        if self.chosen_digest is not None and digest_of(found) != self.chosen_digest:
            raise UserError(
                f"{found} holds other weights than those of the chosen epoch {self.state.best_epoch + 1}; put the file "
                "back, or train again in a new folder"
            )
        load_weights(self.model, found)
        self.fabric.barrier()
        if self.fabric.is_global_zero and kept.is_file():
            os.replace(kept, weights)

    def _kept(self, epoch: int) -> Path:
        return self.out / "checkpoint" / CHOSEN.format(epoch)

    def _checkpoint(self) -> None:
        if not self.fabric.is_global_zero:
            return
        # Before the checkpoint: after a kill in between the epoch is trained again, to the same weights.
        if snapshots.due(self.state.epoch, self.every, self.settings.epochs):
            save_weights(self.model, snapshots.place(self.out, self.state.epoch))
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": vars(self.state),
            "settings": config.dump(self.config),
            "images": self.pinned,
            "wire": list(self.model.wire_shape),
        }
        if self.chosen_digest is not None:
            state["chosen"] = self.chosen_digest
        save_tensors(self.out / "checkpoint" / "last.pt", state)
        for left in whole_files(self.out / "checkpoint", CHOSEN.format("*")):
            if left != self._kept(self.state.best_epoch):
                left.unlink()
        self._write_curve()

    def _write_curve(self) -> None:
        write_text(self.out / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in self.state.records))

    def resume(self) -> None:
        """Go back to the last checkpoint; without one, to the beginning."""
        path = self.out / "checkpoint" / "last.pt"
        if not path.is_file():
            return
        saved = checkpoints.read(path, self.model, self.fabric.device, self.config, self.images, self.out)
        try:
            replaced = self.stack.restructure_like(self.model, saved["model"])
            self.model.load_state_dict(saved["model"])
            if replaced:
                self._setup()  # images go through the network: only now does it have its weights
            self.optimizer.load_state_dict(saved["optimizer"])
            self.state = checkpoints.State.of(saved["state"])
            if "chosen" in saved:
                self.chosen_digest = checkpoints.DIGEST.validate_python(saved["chosen"], strict=True)
        except (*reading.UNUSABLE, UserError) as error:
            raise checkpoints.unusable(path, error) from None
        if self.fabric.is_global_zero:
            self._write_curve()  # the process may have been killed between the two files

    def _summary(self) -> dict[str, Any]:
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
            "wire": {"shape": shape, "bytes": self.model.bytes_sent},
            "precision": precision(self.settings.precision, self.fabric.device),
            "environment": environment(),
        }
        if self.fabric.is_global_zero:
            write_text(self.out / lost.ANSWERS, lost.answers_text(test.labels, predicted))
            summary = write_summary(self.out, summary)  # last: it marks the run as finished
        return summary


def _tensorboard(out: Path) -> TensorBoardLogger:
    from .fabric import TensorBoardLogger

    try:
        return TensorBoardLogger(out, name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise UserError(f"--tensorboard needs a package: {error.name}; pip install 'splitveil[all]'") from None


def fit(
    settings: config.TrainConfig,
    images: ImageSet,
    out: str | Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    tensorboard: bool = False,
    snapshot_every: int | None = None,
) -> dict[str, Any]:
    """Train what ``settings`` describes on ``images`` and leave the run folder ``out``.

    Args:
        settings: data, network, defenses and recipe.
        images: image set of the settings.
        out: run folder that is made.
        resume: go on from the folder's last checkpoint; a finished training makes again what it has lost.
        progress: called after each step with (epoch, steps done in all, the last epoch's record).
        tensorboard: also write logs for TensorBoard.
        snapshot_every: keep the weights of every so many epochs in ``out/snapshots``; None: as the training was begun.

    Returns:
        What summary.json holds.

    Raises:
        UserError: the folder holds a run already, another process trains in it, or, on resuming, it is of other
            settings, or has lost files that cannot be made again to the same result.

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
        remove_unfinished(out, out / "checkpoint", out / SNAPSHOTS)
        kept = snapshots.agreed(out, snapshot_every, settings.epochs)
        return _fit(settings, images, out, resume, progress, tensorboard, kept)


def _fit(
    settings: config.TrainConfig,
    images: ImageSet,
    out: Path,
    resume: bool,
    progress: Progress | None,
    tensorboard: bool,
    every: int,
) -> dict[str, Any]:
    if resume and (out / "summary.json").is_file():
        summary = reading.read_json(out / "summary.json", reading.RUN, "delete it, and --resume makes it again")
        pinned_settings.check(summary.get("settings", {}), settings, out / "config.yaml")
        pins.check(summary, images, out)
        repeat = functools.partial(fit, settings, images, resume=True, progress=progress)
        lost.make_again(out, settings, images, summary, repeat)
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
    from .fabric import DDPStrategy, fabric_of
    from .one_machine import OneMachine

    fabric = fabric_of(
        settings,
        loggers=[_tensorboard(out)] if tensorboard else [],
        strategy=DDPStrategy(start_method="spawn") if several else "auto",
        plugins=[OneMachine()],
    )
    # Spawned processes cannot carry a bar across; the first one's records are in metrics.jsonl.
    try:
        # Bound, and not arguments: launching looks into those, and refuses frozen dataclasses.
        shown = None if several else progress
        given = {"settings": settings, "images": images, "out": out, "resume": resume, "progress": shown}
        train = functools.partial(_train, **given, every=every)
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
    every: int,
) -> dict[str, Any]:
    with torch.random.fork_rng():  # layers draw weights and dropout from torch's global generators
        trainer = Trainer(settings, images, out, fabric, every)
        if resume:
            trainer.resume()
        if fabric.is_global_zero:
            # The folder is that of a run once it has settings: a training that is resumed then has all of its notes.
            snapshots.note(out, every)
            write_text(out / "config.yaml", config.dump(settings, splitveil=environment()["splitveil"]))
        return trainer.finish(progress)
