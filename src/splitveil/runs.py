"""Run folders, which hold everything about one trained model."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from . import __version__, config, data, metrics, pinned_settings, zoo
from .defenses.base import Stack
from .errors import UserError
from .memory import Limited
from .model import SplitModel
from .recipe import Recipe
from .storage import reading, yaml_files
from .storage.earlier_versions import settings_in
from .storage.files import write_json, write_safetensors
from .storage.folders import foreign

SERVED = "model.safetensors"
"""File of the weights in a run folder."""


def build_model(settings: config.TrainConfig, images: data.ImageSet) -> SplitModel:
    """Return the untrained model that settings describe; its weights are drawn from torch's generator.

    Args:
        settings: resolved settings of a training.
        images: image set of the settings.

    Raises:
        UserError: unknown names, a cut or bottleneck that does not fit, contradictory defenses, images too small to
            score.
    """
    metrics.check_size(images.size)
    with Limited(settings.arch):
        return _build(settings, images)


def _build(settings: config.TrainConfig, images: data.ImageSet) -> SplitModel:
    bottleneck = None
    shaped = (settings.bottleneck_stride, settings.bottleneck_kernel, settings.bottleneck_relu) != (1, 3, False)
    if settings.bottleneck is None and shaped:
        raise UserError(
            "the bottleneck has a stride, kernel or ReLU but no channels; "
            "give bottleneck: in the file or --bottleneck, e.g. 8"
        )
    if settings.bottleneck is not None:
        bottleneck = zoo.Bottleneck(
            settings.bottleneck,
            settings.bottleneck_stride,
            settings.bottleneck_kernel,
            settings.bottleneck_relu,
        )
    parts = zoo.build(
        settings.arch,
        cut=settings.cut,
        classes=len(images.classes),
        image_size=images.size,
        bottleneck=bottleneck,
    )
    stack = Stack(*(spec.make("defenses") for spec in settings.defense))
    about = {"mean": images.mean, "std": images.std, "layout": parts.layout}
    blank = torch.zeros(1, 3, images.size, images.size)
    return SplitModel(parts.encoder, parts.tail, defense=stack, example=blank, **about).eval()


def load_images(settings: config.TrainConfig, *, download: bool = False) -> data.ImageSet:
    """Return the image set of a run.

    Args:
        settings: of the run; ``root``, where images may have moved to, counts more than a folder in ``data``.
        download: whether missing files may be fetched.

    Raises:
        UserError: a run that was saved from Python, whose images no folder holds.
    """
    if settings.data == config.OWN:
        raise UserError(
            "the run was saved from Python, with images and a network of your own, which commands do not know; go on "
            "there: model = splitveil.load(folder, network=net).model, then splitveil.attack, evaluate, harden, "
            "privacy_card or export (docs/python.md)"
        )
    return data.load(
        config.divided(settings.data)[0] if settings.root else settings.data,
        root=settings.root,
        download=download,
        train_size=settings.train_size,
        test_size=settings.test_size,
    )


def save_weights(model: SplitModel, path: Path) -> None:
    """Write encoder.*, tail.*, defense.* and the normalization as safetensors, in one rename.

    Args:
        model: trained model.
        path: file that is made or replaced.

    Raises:
        UserError: the folder cannot be written or the disk is full; what was there stays.
    """
    write_safetensors(path, model.state_dict())


@dataclass(frozen=True)
class Run:
    """A finished run.

    >>> Run.open("runs/none")
    Traceback (most recent call last):
    ...
    splitveil.errors.UserError: runs/none is no run: it has no config.yaml; name a folder that `splitveil train` made
    """

    path: Path
    settings: config.TrainConfig
    summary: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Return the run in a folder.

        Args:
            path: folder that `splitveil train` made.

        Raises:
            UserError: no run, one whose training has not ended, or one whose settings were changed since.
        """
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise UserError(f"{path} is no run: it has no config.yaml; name a folder that `splitveil train` made")
        if not (path / "summary.json").is_file():
            again = ["splitveil", "train", "--config", str(path / "config.yaml"), "--out", str(path), "--resume"]
            raise UserError(f"{path} is not finished: its training was stopped; go on with `{shlex.join(again)}`")
        summary = reading.read_json(path / "summary.json", reading.RUN, "train the run again")
        values = settings_in(path / "config.yaml")
        try:
            settings = config.parse(values).resolve()
        except UserError as error:
            raise UserError(f"{path / 'config.yaml'}: {error}") from None
        pinned_settings.check(summary.get("settings", {}), settings, path / "config.yaml")
        return cls(path, settings, summary)

    def digest(self) -> str:
        """Return the SHA-256 of the weights' file."""
        return digest_of(self.path / SERVED)

    def model(self, images: data.ImageSet, weights: Path | None = None) -> SplitModel:
        """Return the trained model in evaluation mode.

        Args:
            images: image set of the run.
            weights: file of weights of the run; None: those that are served.

        Raises:
            UserError: the weights are missing, damaged, of another network, or not those that the summary is of.
        """
        model = build_model(self.settings, images)
        trained = (self.summary.get("wire") or {}).get("shape")
        built = list(model.wire_shape)
        if trained is not None and trained != built:
            raise UserError(
                f"{self.path} was trained with the wire {trained}, which this version orders as {built} "
                "(channels first); train it again"
            )
        if weights is None:
            check_weights(self.path, self.summary, "train again in a new folder")
        load_weights(model, weights or self.path / SERVED)
        model.trained_by = self.settings.model_dump(mode="json", include=set(Recipe.model_fields))
        return model.eval()


def write_summary(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Write the summary of a run with its settings and the digest of its weights; it marks the run as finished.

    Args:
        folder: run folder that holds all its other files.
        summary: of the run.

    Returns:
        What was written.
    """
    settings = pinned_settings.of(yaml_files.load(folder / "config.yaml"))
    summary = summary | {"settings": settings, "weights": digest_of(folder / SERVED)}
    write_json(folder / "summary.json", summary)
    return summary


def check_weights(folder: Path, summary: dict[str, Any], remedy: str) -> None:
    """Compare the weights of a run with the digest in its summary; earlier versions kept none.

    Args:
        folder: run folder.
        summary: of the run.
        remedy: what else helps than to put the file back, for the message.

    Raises:
        UserError: the file is another one, or cannot be read.
    """
    told = summary.get("weights")
    if told is not None and (now := digest_of(folder / SERVED)) != told:
        raise UserError(
            f"{folder / SERVED} was replaced since summary.json beside it was written (SHA-256 "
            f"{now[:12]}, expected {told[:12]}); put the file back, or {remedy}"
        )


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file of weights.

    Args:
        path: file of `save_weights`.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read the weights {error.filename}: {error.strerror}; train the run again") from None


def load_weights(model: SplitModel, path: Path) -> None:
    """Copy the weights of a file into a model.

    Args:
        model: model that is changed.
        path: file of `save_weights`.

    Raises:
        UserError: the file is missing or damaged, or a tensor is missing or has another shape.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the weights {path}: {error}; train the run again") from None
    parameters = {name for name, _ in model.named_parameters()}
    if bad := reading.finite({name: value for name, value in tensors.items() if name in parameters}):
        raise UserError(f"{path}: {bad} holds NaN or infinity; train the run again")
    cast(Any, getattr(model.defense, "restructure_like", lambda *_: False))(model, tensors)
    wanted = {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    for name, value in wanted.items():
        if name not in tensors:
            raise UserError(f"{path} lacks the tensor {name}; it belongs to another network or defense")
        if tensors[name].is_floating_point() != value.is_floating_point():
            raise UserError(f"{path}: {name} is {tensors[name].dtype}, expected {value.dtype}; train the run again")
        if tensors[name].shape != value.shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, expected {tuple(value.shape)}; "
                "it belongs to another network"
            )
    model.load_state_dict(tensors, strict=False)
    model.to(cast(torch.Tensor, model.mean).device)  # buffers that only the file had came with it to the CPU


def parameter_counts(model: SplitModel) -> dict[str, int]:
    """Return the number of parameters of each part.

    Args:
        model: split model.
    """
    parts = {"encoder": model.encoder, "tail": model.tail, "defense": model.defense}
    return {name: sum(p.numel() for p in part.parameters()) if part else 0 for name, part in parts.items()}


def environment() -> dict[str, Any]:
    """Return what a figure must be quoted with: versions and machine."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "splitveil": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": gpu,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


SNAPSHOTS, EVERY = "snapshots", "every.json"
"""Folder of the weights of every N-th epoch, and the file in it that says N."""


def check_folder(settings: config.TrainConfig, out: Path, resume: bool) -> None:
    """Check that a training may be made in a folder.

    Args:
        settings: of the training.
        out: run folder.
        resume: go on with a run that is there.

    Raises:
        UserError: the folder holds something else, or a run that is not to be resumed.
    """
    file = out / "config.yaml"
    if not file.is_file():
        # A training that is killed before it has written its settings may leave the number of its snapshots.
        noted = {SNAPSHOTS} if not foreign(out / SNAPSHOTS, {EVERY}) else set()
        if foreign(out, noted):
            raise UserError(f"{out} exists and is no run; choose an empty or new folder for --out")
        return
    if not resume:
        raise UserError(f"{out} holds a run already; add --resume to go on with it, or choose another --out")
    old, new = config.parse(settings_in(file)).resolve().model_dump(mode="json"), settings.model_dump(mode="json")
    for values in (old, new):  # their folder may have moved: the images themselves are compared
        values |= {"root": None, "data": config.divided(values["data"])[0]}
    changed = [f"{key} was {old[key]}, now {new[key]}" for key in new if old[key] != new[key]]
    if changed:
        raise UserError(
            f"cannot resume {out} with other settings: {'; '.join(changed)}; use another --out, or --config {file}"
        )
