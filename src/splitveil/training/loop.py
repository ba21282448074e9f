"""The training loop: SGD or Muon on lightning-fabric with the hooks of the defenses, independent of any folder."""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..data import Split, augment, to_float
from ..data.streamed import Streamed
from ..defenses.base import NEVER, Defense, Features, Stack, Step, name_of
from ..errors import UserError
from ..memory import placed
from ..model import SplitModel
from ..nn import fastconv
from ..randomness import seed_layers, stream
from ..recipe import (
    LAYERS,
    MIRROR,
    REFIT,
    SHUFFLE,
    STEP,
    VALIDATE,
    WEIGHTS,
    Recipe,
    batches,
    learning_rate,
    pacing_rate,
)
from . import memory, optimizers
from .checkpoints import State
from .feature_buffer import FeatureBuffer, capacity
from .hooks import frozen_norms
from .initialization import scale_to_unit_variance
from .muon import before_norms

if TYPE_CHECKING:
    from .fabric import Fabric

EVALUATION_BATCH = 256
SCALED_BY = 512
"""Images by which initial weights are scaled, drawn at random."""
Progress = Callable[[int, int, dict[str, Any]], None]
"""Called after each step with (epoch, steps done in all, the last epoch's record)."""


class TrainingStep(nn.Module):
    """The computation of one step under autocast, as one forward (DDP and Fabric hook into forward)."""

    def __init__(self, model: SplitModel):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return z, z_wire and logits of pixels x (B, C, S, S).

        Args:
            x: pixels (B, C, S, S) in [0, 1].
            rng: generator of the defense's noise.
        """
        z = self.model.features(x)
        wire = self.model.protect(z, rng)
        return z, wire, self.model.tail(wire)


@torch.no_grad()
def predict(model: SplitModel, images: Tensor, rng: torch.Generator) -> Tensor:
    """Return the classes that the split model predicts from the noisy wire, int64 (N,).

    Args:
        model: evaluated in evaluation mode.
        images: uint8, (N, C, S, S).
        rng: generator of the defense's noise.
    """
    found = []
    for part in images.split(EVALUATION_BATCH):
        x = to_float(part.to(model.mean.device)).to(memory_format=torch.channels_last)
        found.append(model(x, rng).argmax(1))
    return torch.cat(found).cpu()


def correct(model: SplitModel, split: Split, rng: torch.Generator) -> Tensor:
    """Return which images the split model classifies right from the noisy wire, bool (N,).

    Args:
        model: evaluated in evaluation mode.
        split: images and their classes.
        rng: generator of the defense's noise.
    """
    return predict(model, split.images, rng) == split.labels.cpu()


class Training:
    """Train a split model on images in memory; `run` goes on from its state to the last epoch.

    Args:
        model: its defense is a `Stack` that is installed.
        train: images that it learns from.
        validate: images on which the epoch is chosen, and from which nothing learns; None: the last epoch is kept.
        settings: the recipe.
        classes: number of classes of the labels.
        fabric: device, precision and processes.

    Raises:
        UserError: fewer than two images for each process, a cutout that can hide them whole, a defense that would not
            act in so few epochs, or a step that needs more memory than there is.
    """

    def __init__(
        self,
        model: SplitModel,
        train: Split,
        validate: Split | Streamed | None,
        settings: Recipe,
        classes: int,
        fabric: Fabric,
    ):
        self.model, self.settings, self.classes, self.fabric = model, settings, classes, fabric
        self.validate = validate
        if len(train) < 2 * fabric.world_size:
            raise UserError(
                f"{len(train)} training images are too few for {fabric.world_size} processes; "
                "expected at least two for each"
            )
        if settings.cutout >= (side := min(train.shape[1:])):
            raise UserError(f"cutout is {settings.cutout}; expected less than the {side} pixels of the images' side")
        self.stack = cast(Stack, model.defense)
        check_epochs(self.stack, settings.epochs)
        self.settled = min(settled(self.stack), settings.epochs - 1)
        memory.check_placed(model, train, fabric)
        # Images go through the network before Fabric would move it.
        self.step = placed(TrainingStep(model), fabric.device)
        self.train = train.to(fabric.device)
        self.mirror = torch.rand(len(train), generator=self._rng(MIRROR, 0), device=fabric.device) < 0.5
        if fabric.device.type == "cpu":
            fastconv.accelerate(model)
        if settings.unit_variance:
            self._scale_weights()
        self.state = State()
        self._setup()
        memory.check(self, self._rng(STEP, 0))

    @property
    def count(self) -> int:
        """Return the number of images of an epoch."""
        return len(self.train)

    def _scale_weights(self) -> None:
        rng = self._rng(WEIGHTS, 0)
        # The images may be sorted by class.
        index = torch.randperm(len(self.train), generator=rng, device=rng.device)[:SCALED_BY]
        x = to_float(self.train.images[index]).to(memory_format=torch.channels_last)
        scale_to_unit_variance(self.model, x, rng)

    def _setup(self) -> None:
        own = {id(p) for p in self.stack.own_parameters()}
        trained = [p for p in self.model.parameters() if id(p) not in own and p.requires_grad]
        if not trained:
            raise UserError("every parameter has requires_grad=False; write net.requires_grad_(True) to train them")
        matrices: dict[nn.Parameter, int] = {}
        if self.settings.optimizer == "muon":
            matrices = before_norms(self.model, to_float(self.train.images[:2]), self._rng(WEIGHTS, 0, 1))
        optimizer = optimizers.build(trained, self.settings, matrices, self.fabric.device)
        ignored = [name for name, p in self.step.named_parameters() if id(p) in own]
        nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.step, ignored)
        self.forward, self.optimizer = self.fabric.setup(self.step, optimizer)

    def _rng(self, purpose: int, epoch: int, rank: int = 0, device: torch.device | None = None) -> torch.Generator:
        return stream(device or self.fabric.device, self.settings.seed, purpose, epoch, rank)

    def run(self, progress: Progress | None = None) -> None:
        """Train to the last epoch and load the chosen one; `state` then has the record of each.

        Args:
            progress: called after each step with (epoch, steps done in all, the last epoch's record).

        Raises:
            UserError: the loss is not finite.
        """
        while self.state.epoch < self.settings.epochs:
            epoch = self.state.epoch
            record = self._whole_epoch(epoch, progress)
            self.state.records.append(record)
            self.fabric.log_dict(_flat(record), step=epoch)
            if self._chosen(epoch, record["accuracy_val"]):
                self.state.best_epoch, self.state.best_accuracy = epoch, record["accuracy_val"] or 0.0
                self._keep()
            self.state.epoch += 1
            self._checkpoint()
        self.fabric.barrier()  # the chosen weights are kept before anybody reads them
        self._restore()

    def _keep(self) -> None:
        """Keep the weights of the chosen epoch."""
        self.chosen = copy.deepcopy(self.model.state_dict())  # not all of it are tensors: a proxy's optimizer is a dict

    def _restore(self) -> None:
        """Load the weights of the chosen epoch."""
        self.model.load_state_dict(self.chosen)

    def _checkpoint(self) -> None:
        """Keep the state from which a stopped training goes on."""

    def _whole_epoch(self, epoch: int, progress: Progress | None) -> dict[str, Any]:
        start = time.perf_counter()
        record = self._epoch(epoch, progress)
        if self.stack.restructure(epoch, self.model):
            self._setup()
            self.state.best_accuracy = -1.0  # what was chosen before is not the defended network
        accuracy = None
        if self.validate is not None:
            rng, parts = self._rng(VALIDATE, epoch), self.validate
            parts = [parts] if isinstance(parts, Split) else parts
            hits = torch.cat([correct(self.model.eval(), part, rng) for part in parts])
            accuracy = hits.float().mean().item()
        seconds = time.perf_counter() - start
        return record | {
            "accuracy_val": accuracy,
            "leakage_nats": self.stack.leakage(),
            "seconds": seconds,
            "images_per_second": self.count / seconds,
        }

    def _chosen(self, epoch: int, accuracy: float | None) -> bool:
        if self.settings.choose == "last" or accuracy is None:
            return epoch == self.settings.epochs - 1
        # On a tie the later: it has had more of the defense.
        return epoch >= self.settled and accuracy >= self.state.best_accuracy

    def _epoch(self, epoch: int, progress: Progress | None) -> dict[str, Any]:
        fabric = self.fabric
        rng = self._rng(STEP, epoch, fabric.global_rank)
        # Dropout layers draw from the global generator: seeded per epoch, a resumed run repeats an uninterrupted one.
        seed_layers(self._rng(LAYERS, epoch, fabric.global_rank))
        planned, parts = self._plan(epoch)
        keep = FeatureBuffer(self.count, fabric.device) if self.stack.wants_features else None
        totals: dict[str, Tensor] = {}
        self.forward.train()
        for norm in frozen_norms(self.model.encoder, self.model.tail):
            norm.eval()
        if not self.settings.network_dropout:
            for layer in dropouts(self.model.encoder, self.model.tail):  # those of defenses stay
                layer.eval()
        steps = 0
        for steps, part in enumerate(parts, 1):
            done = epoch * planned + min(steps, planned) - 1  # a loader may give more than it tells
            losses = self._step(part, rng, done / (self.settings.epochs * planned), keep)
            for name, value in losses.items():
                totals[name] = totals.get(name, torch.zeros((), device=fabric.device)) + value.detach()
            if progress:
                progress(epoch, done + 1, self.state.records[-1] if self.state.records else {})
        losses = {name: float(cast(Tensor, fabric.all_reduce(value))) / steps for name, value in totals.items()}
        if not math.isfinite(loss := sum(losses.values())):
            raise UserError(f"the loss is {loss} in epoch {epoch}; lower lr or the weight of the defense")
        self._agree()
        if keep is not None:
            z, y = keep.gathered(fabric)
            extract = functools.partial(self._extract, epoch)
            features = Features(z, y, self.classes, self._rng(REFIT, epoch), extract)
            self.stack.refit(epoch, features)
        return {"epoch": epoch, "loss": loss, "losses": losses}

    def _plan(self, epoch: int) -> tuple[int, Iterable[Any]]:
        """Return how many steps the epoch has, and what each is made on: here the places of its images."""
        fabric = self.fabric
        plan = batches(self.count, self.settings.batch_size, self._rng(SHUFFLE, epoch), 2 * fabric.world_size)
        return len(plan), (index[fabric.global_rank :: fabric.world_size] for index in plan)

    def _pair(self, part: Any, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the augmented pixels and the classes of what a step is made on."""
        return self._augmented(part, rng), self.train.labels[part]

    def _agree(self) -> None:
        """Give every process the first one's batch-norm statistics: each has updated them on its own share."""
        if self.fabric.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _step(self, part: Any, rng: torch.Generator, progress: float, keep: FeatureBuffer | None) -> dict[str, Tensor]:
        lr = learning_rate(self.settings, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("factor", 1.0)
        x, y = self._pair(part, rng)
        self.stack.before_step(x, y, self.model)
        z, wire, logits = self.forward(x, rng)
        losses = {"task": cross_entropy(logits.float(), y, label_smoothing=self.settings.label_smoothing)}
        pace = pacing_rate(self.settings, progress)
        losses |= self.stack.losses(Step(x, y, z, wire, logits, rng, pace, progress, self.model, self.state.epoch))
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(torch.stack(list(losses.values())).sum())
        self.optimizer.step()
        if keep is not None:
            keep.add(z, y)
        return losses

    def _augmented(self, index: Tensor, rng: torch.Generator) -> Tensor:
        alternate = self.settings.flip and self.settings.alternate_flip
        mirror = self.mirror[index] ^ bool(self.state.epoch % 2) if alternate else None
        return self._turned(self.train.images[index], rng, mirror)

    def _turned(self, images: Tensor, rng: torch.Generator, mirror: Tensor | None = None) -> Tensor:
        turned = augment(images, rng, **self.settings.augmentation, mirror=mirror)
        return turned.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def _extract(self, epoch: int = 0, augmented: bool = False) -> tuple[Tensor, Tensor]:
        """Return the features of the training images in evaluation mode, as they are or augmented: an extra pass."""
        self.model.eval()
        count = min(self.count, capacity(math.prod(self.model.wire_shape)))
        # The images may be sorted by class, so that the part that fits must be drawn: always the same one.
        order = torch.randperm(self.count, generator=self._rng(REFIT, 0, 1), device=self.fabric.device)[:count]
        rng = self._rng(REFIT, epoch, 2)  # the same on every process
        z = []
        for index in order.split(EVALUATION_BATCH):
            x = self._augmented(index, rng) if augmented else to_float(self.train.images[index])
            z.append(self.model.features(x.to(memory_format=torch.channels_last)).flatten(1))
        return torch.cat(z), self.train.labels[order]


def _flat(record: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a record as a logger takes them."""
    losses = {f"loss/{name}": value for name, value in record["losses"].items()}
    rest = {key: value for key, value in record.items() if key not in ("epoch", "losses") and value is not None}
    return rest | losses


def dropouts(*halves: nn.Module) -> list[nn.Module]:
    """Return the dropout layers of a network.

    Args:
        halves: its encoder and tail, or one of them.
    """
    kind = nn.modules.dropout._DropoutNd
    return [layer for half in halves for layer in half.modules() if isinstance(layer, kind)]


def settled(stack: Stack) -> int:
    """Return the first epoch in which every defense acts: earlier ones are never chosen, as they are not defended.

    Defenses that refit themselves from features have none in epoch 0.

    Args:
        stack: defenses of the model.
    """
    return max([int(stack.wants_features), *(part.acts_after for part in stack)])


def stack_of(model: SplitModel) -> Stack:
    """Return the model's defenses as a stack, which its training installs and asks for their losses.

    Args:
        model: a defense that is no stack becomes one.

    Raises:
        UserError: a module that is no `Defense`: it has no loss, and nothing to install.
    """
    defense = model.defense
    if defense is not None and not isinstance(defense, Defense):
        raise UserError(
            f"the defense {type(defense).__name__} cannot be trained with; expected a class that derives from "
            "splitveil.defenses.base.Defense"
        )
    if not isinstance(defense, Stack):
        model.defense = defense = Stack(*([defense] if defense is not None else []))
    return defense


def check_epochs(stack: Stack, epochs: int) -> None:
    """Check that every defense acts in a training of so many epochs.

    Args:
        stack: defenses of the model.
        epochs: length of the training.

    Raises:
        UserError: one would never act.
    """
    for part in stack:
        if part.acts_after == NEVER:
            raise UserError(f"{name_of(type(part))} is put on a trained model: train without it, then {part.put_on_by}")
        if part.acts_after >= epochs:
            raise UserError(
                f"{name_of(type(part))} acts from epoch {part.acts_after + 1} on, but the training has {epochs}; "
                "train longer"
            )
