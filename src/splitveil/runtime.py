"""The runtime of an attack: progress, budget, and checkpoints from which a stopped attack goes on."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypeVar

import torch
from pydantic import Field, TypeAdapter
from torch import Tensor
from typing_extensions import TypedDict

from .errors import UserError, shown
from .storage import reading
from .storage.files import save_tensors

T = TypeVar("T")
Progress = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, current error)."""
State = dict[str, Any]
"""What a loop must find again after a stop: objects with a state_dict, tensors, and plain values."""
KEEP_EVERY = 20.0
"""Seconds between two checkpoints of a loop."""


Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Counts(TypedDict):
    """The progress of a loop, as its checkpoint has it."""

    done: Annotated[int, Field(ge=0)]
    step_seconds: Seconds
    seconds: Seconds
    error: float
    ended: bool
    finished: NotRequired[bool]


COUNTED, COUNT = TypeAdapter(Counts), TypeAdapter(reading.Count)
CLOCK = TypeAdapter(tuple[Seconds, tuple[float, float]])


@dataclass(frozen=True)
class Budget:
    """The limit of an attack: ``steps`` of each of its optimizations, or ``seconds`` in all; None: no limit.

    >>> Budget.parse("500"), Budget.parse("90s"), Budget.parse("2m").seconds
    (Budget(steps=500, seconds=None), Budget(steps=None, seconds=90.0), 120.0)
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("seconds", self.seconds)):
            if value is not None and not value > 0:
                raise UserError(f"a budget has {value} {name}; expected more than 0, or None for no limit")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Return the budget that a text names: ``500`` steps, or the time ``90s``, ``5m``, ``1h``.

        Args:
            text: as a user writes it.

        Raises:
            UserError: anything else, or nothing to spend.
        """
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smh]?)", text.strip(), re.ASCII)
        if not found or float(found[1]) <= 0 or (not found[2] and "." in found[1]):
            raise UserError(
                f"the budget is {shown(text)}; expected more than 0: steps of an optimization as 500, or time as 5m"
            )
        if not found[2]:
            return cls(steps=int(found[1]))
        return cls(seconds=float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]])


@dataclass
class OptimizationLoop:
    """One optimization: its rounds (epochs, say), and the steps that each round has.

    Attributes:
        done: steps taken.
        planned: steps that it will take: ``wanted``, or fewer where the budget has fewer.
        error: current error, for the bar.
        finished: nothing is left to do, whatever was planned.
    """

    runtime: Runtime
    name: str
    rounds: int
    per_round: int
    state: State
    rng: torch.Generator
    done: int = 0
    error: float = math.nan
    step_seconds: float = 0.0
    seconds: float = 0.0
    ended: bool = False
    finished: bool = False

    def __post_init__(self) -> None:
        self.wanted = self.rounds * self.per_round
        limit = self.runtime.budget.steps
        self.planned = min(self.wanted, limit) if limit else self.wanted

    def __iter__(self) -> Iterator[int]:
        """Yield rounds 0, 1, ... from where the loop was stopped; at least one step is taken whatever the budget."""
        self.runtime.restore(self)
        kept, stopped_at = time.perf_counter(), self.done
        while not self.ended:
            start, before = time.perf_counter(), self.done
            yield self.done // self.per_round
            if self.done == before:  # the round is the step
                if self.per_round > 1:
                    raise RuntimeError(f"loop {self.name}: no step in a round; pass them through loop.steps")
                self.done += 1
                self.step_seconds += time.perf_counter() - start
                self.show()
            self.seconds += time.perf_counter() - start
            self.ended = self.spent()
            if not self.ended and time.perf_counter() - kept > KEEP_EVERY:
                self.runtime.save(self)
                kept = time.perf_counter()
        if self.done > stopped_at and self.seconds > KEEP_EVERY:
            self.runtime.save(self)

    @property
    def fraction(self) -> float:
        """Return how far the loop is, in [0, 1]: by its steps, or by its time where the time limit ends it sooner."""
        return min(1.0, max(self.done / self.planned, self.runtime.time_fraction()))

    def anneal(self, optimizer: torch.optim.Optimizer, lr: float, floor: float) -> None:
        """Set the rate on a cosine from ``lr`` to ``floor`` over the budget of the loop.

        One cycle of Loshchilov and Hutter 2017, without restarts.

        Args:
            optimizer: its rate is set in every parameter group.
            lr: rate at the first step.
            floor: rate at the last step.
        """
        for group in optimizer.param_groups:
            group["lr"] = floor + (lr - floor) * (1 + math.cos(math.pi * self.fraction)) / 2

    def steps(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items of one round, each as one step, until the budget is used up.

        Args:
            items: what the steps of the round work on, such as the indices of its batches.

        Yields:
            Item after item.
        """
        for item in items:
            start = time.perf_counter()
            yield item
            self.done += 1
            self.step_seconds += time.perf_counter() - start
            self.show()
            if self.spent():
                return

    def show(self) -> None:
        """Report progress."""
        if self.runtime.progress and (self.done % 10 == 0 or self.done == self.planned or self.per_round > 1):
            self.runtime.progress(self.done, self.planned, self.error)

    def finish(self) -> None:
        """End the loop after this round as complete, and not as cut short, because no further step is of use."""
        self.finished = True
        if self.runtime.progress:
            self.runtime.progress(self.done, self.done, self.error)

    def spent(self) -> bool:
        """Return whether the loop has ended: it is finished, or its steps or its time are used up."""
        return self.finished or self.done >= self.planned or self.runtime.time_fraction() >= 1

    def full_seconds(self) -> float:
        """Return the seconds that all rounds would take, extrapolated from those that were taken."""
        if not self.done:
            return 0.0
        rounds = max(1, math.ceil(self.done / self.per_round))
        return self.wanted * self.step_seconds / self.done + self.rounds * (self.seconds - self.step_seconds) / rounds


class Runtime:
    """The progress bar, the time budget and the checkpoints of an attack.

    An attack runs every optimization as a `loop`, which takes care of all three. Loops must come in the same order
    whenever the attack is run again with the same seed.

    Args:
        progress: called after steps with (steps done, steps in all, current error).
        budget: limit on steps or on time; None: no limit.
        store: folder for checkpoints; None: keeps none.
        fits: what attacks of a suite share, trainings and flags of the model, by what determines it; None: nothing.

    Attributes:
        shared_seconds: seconds that the trainings taken from ``fits`` took where they were made.
        tally: its ``asked`` counts the wires that were asked for; a resumed attack goes on counting.

    >>> runtime, state = Runtime(budget=Budget(steps=3)), {"x": 0}
    >>> for step in runtime.loop("count", 5, state, torch.Generator()):
    ...     state["x"] += step
    >>> state["x"], runtime.cut
    (3, {'count': (3, 5)})
    """

    def __init__(
        self,
        progress: Progress | None = None,
        budget: Budget | None = None,
        store: Path | None = None,
        fits: dict[str, Any] | None = None,
    ):
        self.progress, self.budget, self.store = progress, budget or Budget(), store
        self.fits, self.shared_seconds = fits, 0.0
        self.tally: Any = None
        self.loops: list[OptimizationLoop] = []
        self._start, self._earlier = time.perf_counter(), 0.0
        self._from, self._until = 0.0, self.budget.seconds or math.inf

    @property
    def seconds(self) -> float:
        """Return the seconds spent, including those before a stop."""
        return self._earlier + time.perf_counter() - self._start

    @property
    def cut(self) -> dict[str, tuple[int, int]]:
        """Return the loops that the budget ended: name -> (steps taken, steps wanted)."""
        return {x.name: (x.done, x.wanted) for x in self.loops if x.done < x.wanted and not x.finished}

    def time_fraction(self) -> float:
        """Return the used part of the current share of time, 0 without a limit."""
        if self._until == math.inf:
            return 0.0
        return (self.seconds - self._from) / max(1e-9, self._until - self._from)

    @contextmanager
    def share(self, part: float) -> Iterator[None]:
        """Limit what is done inside to a part of the time that is left.

        Args:
            part: share of the time that is left, in (0, 1].
        """
        before, now = (self._from, self._until), self.seconds
        self._from, self._until = now, now + part * max(0.0, self._until - now) if part < 1 else self._until
        try:
            yield
        finally:
            self._from, self._until = before

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, each with an equal share of the time that is left.

        Args:
            items: what is gone through, such as batches of wires.

        Yields:
            Item after item.
        """
        listed = list(items)
        for i, item in enumerate(listed):
            with self.share(1 / (len(listed) - i)):
                yield item

    def loop(
        self, name: str, rounds: int, state: State, rng: torch.Generator, *, per_round: int = 1
    ) -> OptimizationLoop:
        """Return a new optimization loop that keeps ``state`` and ``rng`` on disk.

        Args:
            name: of the optimization, for the bar and for what the budget has cut.
            rounds: rounds (epochs, say) that it takes unless the budget ends it.
            state: what the loop must find again after a stop: objects with a state_dict, tensors and plain values.
            rng: generator that the optimization draws from.
            per_round: steps in each round; where it is more than one, pass them through `OptimizationLoop.steps`.

        Returns:
            The loop; iterate over it for the rounds.
        """
        self.loops.append(OptimizationLoop(self, name, rounds, per_round, state, rng))
        return self.loops[-1]

    def skip(self, name: str, rng: torch.Generator, seconds: float) -> None:
        """Count an optimization that another attack has made, so that later checkpoints keep their numbers.

        Args:
            name: of the optimization.
            rng: generator as that optimization left it.
            seconds: what it took.
        """
        self.loops.append(OptimizationLoop(self, name, 0, 1, {}, rng, ended=True))
        self.shared_seconds += seconds

    def file(self, loop: OptimizationLoop) -> Path | None:
        """Return the path of the checkpoint of ``loop``; None where none are kept.

        Args:
            loop: loop of this runtime.
        """
        number = next(i for i, one in enumerate(self.loops) if one is loop)
        return self.store / f"{number:03d}.pt" if self.store else None

    def save(self, loop: OptimizationLoop) -> None:
        """Save ``loop`` between two of its rounds.

        Args:
            loop: loop of this runtime.
        """
        if (path := self.file(loop)) is None:
            return
        kept = {key: value.state_dict() if hasattr(value, "state_dict") else value for key, value in loop.state.items()}
        counts = {key: getattr(loop, key) for key in Counts.__annotations__}
        clock = {"elapsed": self.seconds, "share": (self._from, self._until), "asked": getattr(self.tally, "asked", 0)}
        save_tensors(path, {"state": kept, "rng": loop.rng.get_state(), "counts": counts, **clock})

    def restore(self, loop: OptimizationLoop) -> None:
        """Load the checkpoint of ``loop``; without one, do nothing.

        Args:
            loop: loop of this runtime.

        Raises:
            UserError: the checkpoint is damaged or of another attack.
        """
        path = self.file(loop)
        if path is None or not path.is_file():
            return
        remedy = f"remove {path.parent} to begin the attack again"
        kept = reading.read_checkpoint(path, loop.rng.device, {"state", "rng", "counts", "elapsed", "share"}, remedy)
        try:
            self._put_back(loop, kept)
        except reading.UNUSABLE as error:
            reason = str(error).partition("\n")[0][:200]
            raise UserError(f"{path} is not of this attack, or damaged ({reason}); {remedy}") from None

    def _put_back(self, loop: OptimizationLoop, kept: State) -> None:
        counts = COUNTED.validate_python(kept["counts"], strict=True)
        if counts["done"] > loop.planned or (counts["done"] == loop.planned and not counts["ended"]):
            raise ValueError(f"it has taken {counts['done']} of {loop.planned} steps")
        elapsed, share = CLOCK.validate_python((kept["elapsed"], kept["share"]), strict=True)
        for key, value in loop.state.items():
            if hasattr(value, "load_state_dict"):
                value.load_state_dict(kept["state"][key])
            elif isinstance(value, Tensor):
                with torch.no_grad():
                    value.copy_(kept["state"][key])
            else:
                loop.state[key] = _alike(key, value, kept["state"][key])
        loop.rng.set_state(kept["rng"].cpu())
        for key, count in counts.items():
            setattr(loop, key, count)
        if self.tally and "asked" in kept:  # else it is of an earlier version
            self.tally.asked = COUNT.validate_python(kept["asked"], strict=True)
        self._earlier = max(self._earlier, elapsed)
        self._from, self._until = share


def _alike(key: str, at_first: Any, kept: Any) -> Any:
    """Return a plain value of a loop's state, where it is of the kind that the loop began with.

    Raises:
        ValueError: it is not, so that the loop would fail later.
    """
    numbers = isinstance(at_first, int | float) and not isinstance(at_first, bool)
    if not isinstance(kept, int | float if numbers else type(at_first)) or not _plain(kept):
        raise ValueError(f"{key} is a {type(kept).__name__}")
    return kept


def _plain(value: Any) -> bool:
    """Return whether a value holds only what loops keep: numbers, texts, tensors, lists of these, weights by name."""
    if isinstance(value, dict):
        return all(isinstance(name, str) and isinstance(inner, Tensor) for name, inner in value.items())
    if isinstance(value, list | tuple):
        return all(isinstance(inner, int | float | Tensor | list | tuple) and _plain(inner) for inner in value)
    return isinstance(value, int | float | str | Tensor)


Work = Runtime  # the name in earlier versions: attacks of other packages may import it


def copy_weights(module: torch.nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's state that later training steps do not change.

    Args:
        module: network.
    """
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
