"""The recipe of a training: its settings, and the rates, batches, streams and precision that follow from them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from . import ranges
from .nn.processor import capabilities

if TYPE_CHECKING:  # whoever only wants to read a command's help does not wait for it
    import torch
    from torch import Tensor

Several = Annotated[ranges.Images, Field(ge=2)]
Epochs = Annotated[int, Field(ge=1, le=ranges.MOST)]
RECIPES: dict[str, dict[str, Any]] = {
    "published": {},
    "fast": {
        "epochs": 12,
        "batch_size": 512,
        "lr": 0.2,
        "optimizer": "muon",
        "nesterov": True,
        "bias_lr": 8.0,
        "label_smoothing": 0.1,
        "network_dropout": False,
        "unit_variance": True,
        "warmup_epochs": 1.0,
        "schedule": "one-cycle",
        "alternate_flip": True,
        "rotate": 0.0,
        "choose": "last",
    },
}
"""The defaults that each recipe changes."""
BY_SGD = {"warmup_epochs": 3.0}
"""What the fast recipe changes otherwise where its optimizer is SGD, as it was at first."""
DECIDING = frozenset({"recipe", "epochs", "optimizer", "warmup_epochs"})
"""Settings from which the defaults of others follow."""
FOLLOWING = frozenset(key for changed in RECIPES.values() for key in changed)
"""Settings whose default depends on the recipe."""
NAMED = frozenset({"epochs", "batch_size", "lr", "warmup_epochs", "rotate"})
"""Settings that the file of every run names, also of the first versions."""
LATER: dict[str, Any] = {"network_dropout": True, "unit_variance": False, "optimizer": "sgd"}
"""Settings that a recipe got later, at the values of every training before."""
CONTRADICTION = "contradiction"
"""Type of the error of settings that contradict each other, which no single one of them is to blame for."""


class Recipe(BaseModel):
    """The recipe of a training; the defaults are the published one.

    >>> Recipe(recipe="fast", lr=0.1).epochs
    12
    >>> Recipe(recipe="fast", epochs=1).warmup_epochs, Recipe(recipe="fast", epochs=1).lr
    (0.5, 0.1)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    recipe: Literal["published", "fast"] = "published"
    """published, or fast: 12 epochs by Muon, batch 512, one-cycle rate. It only changes defaults of what follows."""
    epochs: Epochs = 240
    """Passes over the training images."""
    batch_size: Several = 128
    """Images per step."""
    lr: ranges.Rate = 0.05
    """Highest learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of the optimizer."""
    optimizer: Literal["sgd", "muon"] = "sgd"
    """sgd, or muon: SGD, but orthogonal steps for the weights of layers that a norm follows."""
    matrix_lr: float = Field(0.3, gt=0, le=1_000)
    """Rate of muon as a multiple of lr; a step changes a weight by this share of the weight's norm."""
    nesterov: bool = False
    """Use Nesterov's momentum."""
    weight_decay: ranges.Weight = 5e-4
    """Weight decay of SGD."""
    bias_lr: float = Field(1.0, gt=0, le=1_000)
    """Factor on the learning rate of biases and the scales of norms."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Part of each label that is spread over all classes."""
    network_dropout: bool = True
    """Use the network's own dropout layers."""
    unit_variance: bool = False
    """Scale the initial weights so that every layer answers to the first images with variance 1."""
    warmup_epochs: ranges.Weight = 1.0
    """Epochs in which the learning rate rises from 0."""
    schedule: Literal["steps", "one-cycle"] = "steps"
    """Course of the rate after the warm-up: steps at the milestones, or a straight line to 0 at the end."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.25, 0.5, 0.75, 0.875)
    """Parts of the training after which the learning rate is multiplied by gamma (60/120/180/210 of 240)."""
    gamma: float = Field(0.2, gt=0, le=1)
    """Factor on the learning rate at each milestone."""
    crop_padding: int | None = Field(None, ge=0, le=10_000)
    """Random crop with this zero padding; none: that of the image set (CIFAR 4, digits 2, others 0)."""
    flip: bool | None = None
    """Random horizontal flip; none: yes, but not for digits."""
    alternate_flip: bool = False
    """Mirror each image in every other epoch, half of them first, instead of by chance."""
    rotate: float = Field(15.0, ge=0, le=180)
    """Random rotation by up to this many degrees."""
    cutout: int = Field(0, ge=0, le=10_000)
    """Side in pixels of a gray square that hides a random part of each training image; 0: none."""
    choose: Literal["best", "last"] = "best"
    """The epoch whose weights are kept: the best on the validation images, or the last."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """auto: bf16 where the processor or GPU computes in it."""
    devices: int = Field(1, ge=1, le=1_024)
    """Processes (CPU) or GPUs that share each batch."""
    seed: ranges.Seed = 0
    """Seed of weights, shuffling, augmentation, noise and the division of the images."""

    @model_validator(mode="before")
    @classmethod
    def _of_recipe(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        own, optimizer = "warmup_epochs" in values, values.get("optimizer")
        changed = _changed(str(values.get("recipe")), values.get("epochs"), optimizer, own_warmup=own)
        # A file that names all of the recipe but what came later is of a run of before.
        before = bool(changed) and changed.keys() - LATER.keys() <= values.keys()
        return {**(LATER if before else changed), **values}

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number is expected, which pydantic takes for 1 and 0."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind is not bool and bool not in get_args(kind):
            raise ValueError(f"{str(value).lower()} is no number or text")
        return value

    @model_validator(mode="after")
    def _agreeing(self) -> Self:
        """Refuse settings that are fine by themselves and contradict each other, which torch would refuse later."""
        if self.nesterov and not self.momentum:
            of = "" if self.recipe == "published" else f", as recipe {self.recipe} has it unless it is given"
            raise PydanticCustomError(
                CONTRADICTION,
                "momentum is 0, but nesterov is true{of}; expected a momentum above 0, or nesterov false",
                {"of": of},
            )
        return self

    @property
    def augmentation(self) -> dict[str, Any]:
        """Return what `splitveil.data.augment` takes of these settings; which images are mirrored is drawn there.

        A training with ``alternate_flip`` says that itself.
        """
        augmented = {"crop_padding": self.crop_padding or 0, "flip": bool(self.flip), "rotate_degrees": self.rotate}
        return augmented | {"cutout": self.cutout}


def _changed(recipe: str, epochs: Any, optimizer: Any, *, own_warmup: bool) -> dict[str, Any]:
    """Return the defaults that a recipe changes in a training of so many epochs; None: of its own number."""
    changed = RECIPES.get(recipe, {})
    if changed and optimizer == "sgd":
        changed = {**changed, **BY_SGD}
    if not changed or own_warmup or epochs is None:
        return changed
    try:
        epochs = TypeAdapter(Epochs).validate_python(epochs)  # a file may have "3", and Python 3.0
    except ValidationError:
        return changed  # the check of the field says what is wrong
    if epochs >= 2 * changed["warmup_epochs"]:
        return changed
    # As steep a rise, but half of the training at most: with as many epochs of warm-up the rate would never fall.
    part = epochs / 2 / changed["warmup_epochs"]
    return {**changed, "warmup_epochs": epochs / 2, "lr": changed["lr"] * part}


def beneath(values: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
    """Return a run's settings as they go beneath others, without what only follows from its recipe and its epochs.

    The file of a run names every setting, so that another recipe over it would change nothing. What has the default of
    the file's own recipe, at the file's own epochs, is left to the defaults again where one of `DECIDING` is given.

    Args:
        values: settings of the file, by name.
        given: names of the settings that take the place of the file's.

    >>> beneath({"recipe": "fast", "epochs": 1, "warmup_epochs": 0.5, "lr": 0.1, "batch_size": 64}, ["epochs"])
    {'recipe': 'fast', 'epochs': 1, 'batch_size': 64}
    """
    if not DECIDING & set(given):
        return values
    try:
        read = Recipe.model_validate({key: value for key, value in values.items() if key in Recipe.model_fields})
    except ValidationError:
        return values  # whoever reads the settings together says what is wrong, where what is given leaves it wrong
    made = read.recipe, read.epochs, read.optimizer
    own = read.warmup_epochs != _changed(*made, own_warmup=False).get("warmup_epochs")
    changed = _changed(*made, own_warmup=own)
    fields = Recipe.model_fields
    follow = {key for key in FOLLOWING if getattr(read, key) == changed.get(key, fields[key].default)}
    # A run of before names no setting that its recipe got later, but stands for the value of then.
    later = {key: getattr(read, key) for key in LATER if key not in values and key not in follow}
    return {**{key: value for key, value in values.items() if key not in follow}, **later}


def learning_rate(settings: Recipe, progress: float) -> float:
    """Return the rate at a point of the training.

    After a linear warm-up it is multiplied by ``gamma`` at each milestone, or, of a one-cycle schedule, falls in a
    straight line to 0 (Smith & Topin 2019, without their last phase).

    Args:
        settings: the recipe.
        progress: part of the training that is done, in [0, 1).

    >>> s = Recipe()
    >>> [round(learning_rate(s, epoch / 240), 6) for epoch in (0.5, 1, 60, 120, 239)]
    [0.025, 0.05, 0.01, 0.002, 8e-05]
    >>> s = Recipe(recipe="fast", lr=0.3, warmup_epochs=3)
    >>> [round(learning_rate(s, epoch / 12), 6) for epoch in (1.5, 3, 7.5, 12)]
    [0.15, 0.3, 0.15, 0.0]
    """
    warm = settings.warmup_epochs / settings.epochs
    factor = min(1.0, progress / warm) if warm > 0 else 1.0
    if settings.schedule == "one-cycle":
        return settings.lr * (factor if progress < warm else (1 - progress) / (1 - warm))
    return settings.lr * factor * settings.gamma ** sum(progress >= m - 1e-9 for m in settings.milestones)


def pacing_rate(settings: Recipe, progress: float) -> float:
    """Return the rate that the schedules of defenses follow at a point of the training.

    It is the training's own rate. Under a one-cycle schedule it is that of the published recipe at the same part of the
    training: the schedule of CEM, 0.001/rate, is made for those steps, and decides how strong the defense is against
    the task at the beginning (0.02 λ) and in the last quarter (λ), where the rate of every recipe is low.

    Args:
        settings: the recipe.
        progress: part of the training that is done, in [0, 1).

    >>> s = Recipe(recipe="fast")
    >>> [round(0.001 / pacing_rate(s, part), 3) for part in (0, 0.3, 0.6)], round(pacing_rate(s, 0.8), 6)
    ([0.02, 0.1, 0.5], 0.0004)
    """
    if settings.schedule == "steps":
        return learning_rate(settings, progress)
    return learning_rate(PUBLISHED, progress)


PUBLISHED = Recipe.model_validate({"warmup_epochs": 0})
LAYERS, SHUFFLE, STEP, REFIT, VALIDATE, TEST, WEIGHTS, ATTACK, WIRE, HELD_OUT, MIRROR, TAIL = range(12)
"""Purposes of random streams: `randomness.stream` gets (seed, purpose, epoch, rank)."""


def batches(count: int, size: int, rng: torch.Generator, smallest: int = 2) -> list[Tensor]:
    """Return a permutation in batches of ``size``; a last one below ``smallest`` joins the one before it.

    Batch norm needs two images on every process, so ``smallest`` is twice their number.

    Args:
        count: number of images.
        size: images in a batch.
        rng: generator of the permutation.
        smallest: least images in a batch.
    """
    import torch

    order = torch.randperm(count, generator=rng, device=rng.device)
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) < smallest:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def precision(choice: str, device: torch.device) -> str:
    """Return Fabric's precision; "auto" is bf16 where the hardware computes in it and does not emulate it.

    Args:
        choice: "auto", "32-true" or "bf16-mixed".
        device: CPU or GPU.
    """
    if choice != "auto":
        return choice
    if device.type == "cuda":
        import torch

        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    able = capabilities()
    return "bf16-mixed" if able["amx_bf16"] or able["avx512_bf16"] else "32-true"
