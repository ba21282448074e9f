"""The base class of defenses, whose hooks the training loop and the wire call, and a stack of them.

Nothing here knows a network, a data set or an attack. A defense overrides the hooks it needs; all others do nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ..errors import UserError, did_you_mean
from ..ranges import arguments_of
from ._law import Law

HOOKS = frozenset(
    {"install", "on_wire", "before_step", "loss", "refit", "restructure", "noise_variance", "leakage", "own_parameters"}
    | {"restructure_like", "law", "gaussian_law", "memory", "numbers_sent", "bytes_sent"}
)


NEVER = 10**9
"""``acts_after`` of a defense that is not put on a model by training it."""


@dataclass(slots=True)
class Step:
    """One training step as a defense's loss sees it.

    Attributes:
        x: pixels (B, C, H, W) in [0, 1].
        y: class indices (B,).
        z: clean features (B, ...), with their graph.
        wire: what the cloud receives, (B, ...).
        logits: (B, classes).
        epoch: number of epochs that have passed.
        lr: learning rate that schedules follow (`recipe.pacing_rate`).
        progress: part of the training that is done, in [0, 1).
    """

    x: Tensor
    y: Tensor
    z: Tensor
    wire: Tensor
    logits: Tensor
    rng: torch.Generator
    lr: float
    progress: float
    model: Any
    epoch: int = 0


@dataclass(slots=True)
class Features:
    """The clean features of the training set, as the epoch that has just passed produced them.

    Under DDP these are the features of all ranks.

    Attributes:
        z: flattened features (N, m), float32.
        y: class indices (N,).
        rng: generator of what is drawn while refitting.
        extract: ``extract(augmented=False)`` makes the features anew: one extra pass in evaluation mode over the
            training images as they are, or augmented as in training.
    """

    z: Tensor
    y: Tensor
    classes: int
    rng: torch.Generator
    extract: Any = None


class Defense(nn.Module):
    """Base of every defense: override its hooks; a public method that is no hook is refused when the class is made.

    >>> class Shift(Defense):
    ...     def on_wire(self, z, rng):
    ...         return z + 1
    >>> float(Shift().on_wire(torch.zeros(1), torch.Generator()))
    1.0
    >>> class Misspelt(Defense):
    ...     def on_wires(self, z, rng):
    ...         return z
    Traceback (most recent call last):
    ...
    TypeError: Misspelt.on_wires is not a hook; did you mean 'on_wire'? Prefix helpers with an underscore
    """

    needs_features: ClassVar[bool] = False
    """True where ``refit`` wants the features of each epoch; the loop collects them only then."""
    install_order: ClassVar[int] = 0
    """Place in the order of installation, lowest first: -2 changes the network, -1 adds noise that others ask for."""
    late_buffers: ClassVar[tuple[str, ...]] = ()
    """Buffers that are None until `refit` gives them the shapes of the data, or a saved state does."""
    projects: ClassVar[bool] = False
    """True where the wire is made of fewer numbers, of which ``gaussian_law`` tells where noise comes before."""
    acts_after: int = 0
    """Epochs that must have passed before the defense acts; a training that ends earlier is refused."""
    put_on_by: ClassVar[str] = "`splitveil harden RUN` or splitveil.harden(model, ...)"
    """What puts it on a trained model, where a training never does (`NEVER`)."""

    def __init__(self) -> None:
        super().__init__()  # without settings: a signature that the command line can read

    def __init_subclass__(cls, helpers: tuple[str, ...] = (), **kwargs: Any):
        super().__init_subclass__(**kwargs)
        allowed = HOOKS.union(helpers)
        for name, value in vars(cls).items():
            if callable(value) and not name.startswith("_") and name not in allowed and not hasattr(nn.Module, name):
                hint = did_you_mean(name, HOOKS) or ";"
                raise TypeError(f"{cls.__name__}.{name} is not a hook{hint} Prefix helpers with an underscore")

    @property
    def waits(self) -> bool:
        """Return whether it cannot act because `refit` has never been called."""
        return self.needs_features and any(getattr(self, name) is None for name in self.late_buffers[:1])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self.late_buffers:
            if (value := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(value))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in arguments_of(self).items())

    def install(self, model: Any) -> None:
        """Prepare for ``model``, the `SplitModel` that carries this defense; called once, before training.

        Args:
            model: untrained, with its shapes known.
        """

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """Return what crosses the network instead of ``z``; called in training, validation, attack and service alike.

        Args:
            z: clean feature, or what an earlier defense of the stack made of it, (B, ...).
            rng: generator of all that is drawn, on the device of ``z``.

        Returns:
            (B, ...), differentiable with respect to ``z`` where the encoder is to learn through it.
        """
        return z

    def before_step(self, x: Tensor, y: Tensor, model: Any) -> None:
        """Act before each training step's forward pass: a proxy attacker trains itself here.

        Args:
            x: pixels (B, C, H, W) in [0, 1].
            y: class indices (B,).
            model: `SplitModel` in training.
        """

    def loss(self, step: Step) -> Tensor | None:
        """Return a weighted scalar that is added to the task loss, or None.

        Args:
            step: images, features, wires and logits of the batch.
        """
        return None

    def refit(self, epoch: int, features: Features) -> None:
        """Update the defense after each epoch from the features of the training set.

        Args:
            epoch: number of epochs that have passed.
            features: of the whole training set; only gathered where ``needs_features`` is set.
        """

    def restructure(self, epoch: int, model: Any) -> bool:
        """Change the network after an epoch; called after each.

        Args:
            epoch: number of epochs that have passed.
            model: `SplitModel` in training.

        Returns:
            True where parameters were replaced: the optimizer is then rebuilt.
        """
        return False

    def restructure_like(self, model: Any, tensors: dict[str, Tensor]) -> bool:
        """Give the model the shapes of saved ``tensors`` before loading.

        Args:
            model: `SplitModel` that is loaded into.
            tensors: saved tensors by name.

        Returns:
            True where parameters were replaced.
        """
        return False

    def noise_variance(self) -> float:
        """Return the variance per dimension of the independent Gaussian noise that this defense adds; 0 if none."""
        return 0.0

    def law(self, wire: Tensor, before: Law) -> Law:
        """Return what can be told of the wire by whoever knows the defense (see `Law`).

        By default, a defense that does not change the wire returns ``before``, and any other returns that nothing is
        known, so that it is measured.

        Args:
            wire: what leaves this defense, (B, ...).
            before: what can be told of what enters this defense.
        """
        return before if type(self).on_wire is Defense.on_wire else before.silent()

    def gaussian_law(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return mean and variance of the wire where, given the image, it is Gaussian entry by entry; else None.

        By default, a defense that does not change the wire passes both on. One that changes it is tried twice: where
        nothing is drawn, a wire that was certain stays certain. A defense that adds Gaussian noise overrides this.

        Args:
            mean: mean of what enters this defense, (B, ...).
            variance: its variance, (B, ...); 0 where it is certain.
        """
        if type(self).on_wire is Defense.on_wire:
            return mean, variance
        if bool(variance.any()):
            return None
        first, again = (self.on_wire(mean, torch.Generator(mean.device).manual_seed(seed)) for seed in (0, 1))
        return (first, torch.zeros_like(first)) if torch.equal(first, again) else None

    def numbers_sent(self, wire: tuple[int, ...]) -> int:
        """Return how many numbers are sent for one image: those of the wire, or fewer from which the cloud makes it.

        Args:
            wire: shape of what the tail receives, without the batch.
        """
        return math.prod(wire)

    def bytes_sent(self, wire: tuple[int, ...]) -> int:
        """Return how many bytes are sent for one image: four for each number, unless a codec says otherwise.

        Args:
            wire: shape of what the tail receives, without the batch.
        """
        return 4 * self.numbers_sent(wire)

    def memory(self, batch: int, feature: tuple[int, ...], classes: int) -> dict[str, int]:
        """Return lower bounds of the memory that a training step takes at its peaks.

        What does not fit is refused before the training, and what might fit is tried.

        Args:
            batch: images in a step.
            feature: shape of the clean feature, without the batch.
            classes: number of classes.

        Returns:
            Bytes by the parameter that they grow with.
        """
        return {}

    def leakage(self) -> float | None:
        """Return the current estimate of I(x; z_wire) in nats per image, or None where the defense keeps none."""
        return None

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the defense trains itself and the main optimizer must leave alone."""
        return []


class Stack(Defense, helpers=("losses",)):
    """Defenses in order: the wire passes them left to right, losses add up, noise variances add up.

    >>> from splitveil.defenses.gaussian import Gaussian
    >>> round(Stack(Gaussian(0.3), Gaussian(0.4)).noise_variance(), 6)
    0.25
    """

    def __init__(self, *defenses: Defense):
        super().__init__()
        for one in defenses:
            if not isinstance(one, Defense):
                raise UserError(f"{type(one).__name__} is no defense; expected a class that derives from Defense")
        self.parts = nn.ModuleList(defenses)
        for kind in {type(d) for d in defenses}:
            if not getattr(kind, "repeatable", False) and sum(type(d) is kind for d in defenses) > 1:
                raise UserError(f"defense '{name_of(kind)}' was given twice; give it once, or combine different ones")

    def __iter__(self) -> Iterator[Defense]:
        return iter(cast("Any", self.parts))

    def install(self, model: Any) -> None:
        for part in sorted(self.parts, key=lambda part: part.install_order):  # type: ignore[arg-type, return-value]
            part.install(model)

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        for part in self:
            z = part.on_wire(z, rng)
        return z

    def before_step(self, x: Tensor, y: Tensor, model: Any) -> None:
        for part in self:
            part.before_step(x, y, model)

    def loss(self, step: Step) -> Tensor | None:
        losses = self.losses(step)
        return sum(losses.values()) if losses else None  # type: ignore[return-value]

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return each part's weighted loss by name, for the log.

        Args:
            step: images, features, wires and logits of the batch.
        """
        if step.epoch and (idle := [name_of(type(part)) for part in self if part.waits]):
            raise UserError(
                f"{' and '.join(idle)} did nothing in epoch {step.epoch}: the features of that epoch were not given; "
                "call end_epoch() of splitveil.OwnLoop after each epoch, or train with splitveil.fit"
            )
        pairs = ((name_of(type(part)), part.loss(step)) for part in self)
        return {name: value for name, value in pairs if value is not None}

    def refit(self, epoch: int, features: Features) -> None:
        for part in self:
            if part.needs_features:
                part.refit(epoch, features)

    def restructure(self, epoch: int, model: Any) -> bool:
        replaced = [part.restructure(epoch, model) for part in self]  # a list: every part is asked
        return any(replaced)

    def restructure_like(self, model: Any, tensors: dict[str, Tensor]) -> bool:
        replaced = [part.restructure_like(model, tensors) for part in self]
        return any(replaced)

    def noise_variance(self) -> float:
        return sum(part.noise_variance() for part in self)

    def law(self, wire: Tensor, before: Law) -> Law:
        for part in self:
            before = part.law(wire, before)
        return before

    def gaussian_law(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor] | None:
        found: tuple[Tensor, Tensor] | None = (mean, variance)
        for part in self:
            found = None if found is None else part.gaussian_law(*found)
        return found

    def numbers_sent(self, wire: tuple[int, ...]) -> int:
        acting = self._acting()
        return acting[-1].numbers_sent(wire) if acting else math.prod(wire)

    def bytes_sent(self, wire: tuple[int, ...]) -> int:
        acting = self._acting()
        return acting[-1].bytes_sent(wire) if acting else 4 * math.prod(wire)

    def _acting(self) -> list[Defense]:
        return [part for part in self if type(part).on_wire is not Defense.on_wire]

    def memory(self, batch: int, feature: tuple[int, ...], classes: int) -> dict[str, int]:
        parts = ((name_of(type(part)), part.memory(batch, feature, classes)) for part in self)
        return {f"{who}:{name}": needed for who, found in parts for name, needed in found.items()}

    def leakage(self) -> float | None:
        known = [value for value in (part.leakage() for part in self) if value is not None]
        return min(known) if known else None

    def own_parameters(self) -> list[nn.Parameter]:
        return [p for part in self for p in part.own_parameters()]

    @property
    def wants_features(self) -> bool:
        """Return whether any part needs the features of each epoch."""
        return any(part.needs_features for part in self)


def name_of(kind: type) -> str:
    """Return the registered name of a defense's class."""
    return getattr(kind, "__plugin_names__", (kind.__name__.lower(),))[0]
