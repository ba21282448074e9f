"""The checkpoint of a training, and how it is read back."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import yaml
from pydantic import ConfigDict, Field, TypeAdapter

from .. import config, pinned_settings
from ..cutting.network import MOVED
from ..data import ImageSet
from ..errors import UserError
from ..model import SplitModel
from ..storage import reading
from . import pins

REMEDY = "delete it and --resume starts from the beginning"


@dataclass
class State:
    """The state in a checkpoint beside weights and optimizer."""

    __pydantic_config__: ClassVar = ConfigDict(strict=True, revalidate_instances="always")
    epoch: reading.Count = 0
    best_epoch: Annotated[int, Field(ge=-1)] = -1
    best_accuracy: Annotated[float, Field(ge=-1, le=1)] = -1.0
    records: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, saved: dict[str, Any]) -> State:
        """Return the state that a checkpoint holds.

        Args:
            saved: the checkpoint.

        Raises:
            ValueError, TypeError: it lacks an entry, has another one, or entries that contradict each other.
        """
        if set(saved) != (names := {entry.name for entry in fields(cls)}):
            raise ValueError(f"expected {', '.join(sorted(names))} in its state")
        state = STATE.validate_python(cls(**saved))
        reading.EPOCHS.validate_python(state.records, strict=True)
        if len(state.records) != state.epoch or state.best_epoch >= state.epoch:
            raise ValueError(f"{len(state.records)} epochs are recorded, {state.epoch} were trained")
        return state


DIGEST = TypeAdapter(Annotated[str, Field(pattern="^[0-9a-f]{64}$")])
STATE, IMAGES, SHAPE = TypeAdapter(State), TypeAdapter(dict[str, str]), TypeAdapter(list[int])


def read(
    path: Path, model: SplitModel, device: torch.device, settings: config.TrainConfig, images: ImageSet, out: Path
) -> dict[str, Any]:
    """Return the checkpoint of a training.

    Args:
        path: file of the checkpoint.
        model: network that is trained.
        device: where its tensors are to be.
        settings: of the training.
        images: image set of the training.
        out: run folder.

    Raises:
        UserError: it is damaged, or of a training on other images, by other settings or with another wire.
    """
    saved = reading.read_checkpoint(path, device, {"model", "optimizer", "state", "settings"}, REMEDY)
    try:
        if "images" in saved and not {*IMAGES.validate_python(saved["images"], strict=True)} >= {*pins.DIGESTS}:
            raise ValueError(f"expected {', '.join(pins.DIGESTS)} of its images")
        begun = pinned_settings.of(yaml.safe_load(saved["settings"]))
        pinned_settings.check(begun, settings, out / "config.yaml")
        pins.check_checkpoint(saved, settings, images, out)
        _check_wire(saved, model, path)
    except (*reading.UNUSABLE, yaml.YAMLError) as error:
        raise unusable(path, error) from None
    return saved


def _check_wire(saved: dict[str, Any], model: SplitModel, path: Path) -> None:
    """Compare the wire's shape: weights of one shape may have been trained, and defenses fitted, in another order."""
    shape = list(model.wire_shape)
    if "wire" not in saved:  # a checkpoint of an older version
        if any(getattr(module, "meta", {}).get(MOVED) for module in model.encoder.modules()):
            raise UserError(f"{path} is of an older version, which ordered the wire {shape} otherwise; {REMEDY}")
    elif (kept := SHAPE.validate_python(saved["wire"], strict=True)) != shape:
        raise UserError(f"{path} is of a training with the wire {kept}, and this version has {shape}; {REMEDY}")


def unusable(path: Path, error: Exception) -> UserError:
    """Return the error for a checkpoint that can be read and does not fit."""
    reason = str(error).partition("\n")[0][:200]
    return UserError(f"{path} is of another version or training, or damaged ({reason}); {REMEDY}")
