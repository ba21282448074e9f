"""What a defense is: a module with hooks that the training loop and the wire call, and a stack of them.

Nothing here knows a network, a data set or an attack. A defense overrides the hooks it needs; all others do nothing.
"""

from __future__ import annotations

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
    | {"restructure_like", "law", "gaussian_law", "memory"}
)


@dataclass(slots=True)
class Step:
    """One training step as a defense's loss sees it.

    Shapes: ``x`` (B, 3, S, S) pixels in [0, 1]; ``y`` (B,) class indices; ``z`` (B, ...) the clean feature, with its
    graph; ``wire`` what the cloud receives; ``logits`` (B, classes). ``lr`` is the learning rate by
    which schedules go (`recipe.pacing_rate`), ``progress`` the part of the training that is done, in [0, 1),
    ``epoch`` the number of epochs that have passed.
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

    ``z`` (N, m) flattened float32; ``y`` (N,); ``rng`` for whatever is drawn while refitting. Under DDP these are the
    features of all ranks. ``extract(augmented=False)`` makes them anew: one extra pass in evaluation mode over the
    training images as they are, or augmented as in training.
    """

    z: Tensor
    y: Tensor
    classes: int
    rng: torch.Generator
    extract: Any = None


class Defense(nn.Module):
    """Base of every defense. Override hooks; a public method that is no hook is refused when the class is made.

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
    """Lower ones are installed first: -2 changes the network, -1 adds noise whose variance others ask for."""
    late_buffers: ClassVar[tuple[str, ...]] = ()
    """Buffers that are None until `refit` gives them the shapes of the data, or a saved state does."""
    acts_after: int = 0
    """Epochs that must have passed before the defense does its work; a training that ends earlier is refused."""

    def __init_subclass__(cls, helpers: tuple[str, ...] = (), **kwargs: Any):
        super().__init_subclass__(**kwargs)
        allowed = HOOKS.union(helpers)
        for name, value in vars(cls).items():
            if callable(value) and not name.startswith("_") and name not in allowed and not hasattr(nn.Module, name):
                hint = did_you_mean(name, HOOKS) or ";"
                raise TypeError(f"{cls.__name__}.{name} is not a hook{hint} Prefix helpers with an underscore")

    @property
    def waits(self) -> bool:
        """Whether it cannot act because `refit` has never been called."""
        return self.needs_features and any(getattr(self, name) is None for name in self.late_buffers[:1])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self.late_buffers:
            if (value := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(value))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in arguments_of(self).items())

    def install(self, model: Any) -> None:
        """Called once, before training, with the SplitModel that carries this defense."""

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """What crosses the network instead of ``z``; called in training, validation, attack and service alike."""
        return z

    def before_step(self, x: Tensor, y: Tensor, model: Any) -> None:
        """Called before each training step's forward pass (a proxy attacker trains itself here)."""

    def loss(self, step: Step) -> Tensor | None:
        """Weighted scalar that is added to the task loss, or None."""
        return None

    def refit(self, epoch: int, features: Features) -> None:
        """Called after each epoch with the features of the training set."""

    def restructure(self, epoch: int, model: Any) -> bool:
        """Called after each epoch; True where parameters were replaced: the optimizer is then rebuilt."""
        return False

    def restructure_like(self, model: Any, tensors: dict[str, Tensor]) -> bool:
        """Give the model the shapes of saved ``tensors`` before loading; True where parameters were replaced."""
        return False

    def noise_variance(self) -> float:
        """Variance per dimension of the independent noise that this defense adds to the wire; 0 if none."""
        return 0.0

    def law(self, wire: Tensor, before: Law) -> Law:
        """What whoever knows the defense can tell of its wire (B, ...), see `Law`.

        Args:
            before: what can be told of what enters this defense.

        A defense that does not change the wire tells no more than that, any other nothing: it is then measured.
        """
        return before if type(self).on_wire is Defense.on_wire else before.silent()

    def gaussian_law(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return mean and variance of the wire where it is Gaussian, entry by entry, given the image; else None.

        Args:
            mean, variance: those of what enters this defense, (B, ...); the variance is 0 where it is certain.

        A defense that does not change the wire passes them on. One that changes it is tried twice: where nothing is
        drawn, a wire that was certain stays certain. Whoever adds Gaussian noise overrides this.
        """
        if type(self).on_wire is Defense.on_wire:
            return mean, variance
        if bool(variance.any()):
            return None
        first, again = (self.on_wire(mean, torch.Generator(mean.device).manual_seed(seed)) for seed in (0, 1))
        return (first, torch.zeros_like(first)) if torch.equal(first, again) else None

    def memory(self, batch: int, feature: tuple[int, ...], classes: int) -> dict[str, int]:
        """Return what takes memory in a step of ``batch`` images, by the parameter that it grows with -> bytes.

        They are lower bounds: what does not fit is refused before the training, and what might fit is tried.

        Args:
            feature: shape of the clean feature, without the batch.
        """
        return {}

    def leakage(self) -> float | None:
        """Current estimate of I(x; z_wire) in nats per image, where the defense keeps one."""
        return None

    def own_parameters(self) -> list[nn.Parameter]:
        """Parameters that the defense trains itself and the main optimizer must leave alone."""
        return []


class Stack(Defense, helpers=("losses",)):
    """Defenses in order: the wire passes them left to right, losses add up, noise variances add up.

    >>> from splitveil.defenses.gaussian import Gaussian
    >>> round(Stack(Gaussian(0.3), Gaussian(0.4)).noise_variance(), 6)
    0.25
    """

    def __init__(self, *defenses: Defense):
        super().__init__()
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
        """Each part's weighted loss by name: what the log shows."""
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
        """Whether any part wants the features of each epoch."""
        return any(part.needs_features for part in self)


def name_of(kind: type) -> str:
    """The registered name of a defense's class."""
    return getattr(kind, "__plugin_names__", (kind.__name__.lower(),))[0]
