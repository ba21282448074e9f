"""The steps of an attack: shown in a bar, held to a budget, kept on disk so that a stopped attack goes on."""

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
"""What a loop must find again: objects with a state_dict, tensors, and plain values that the loop keeps in the dict."""
KEEP_EVERY = 20.0
"""Seconds between two checkpoints of a loop."""


Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Counts(TypedDict):
    """How far a loop was."""

    done: Annotated[int, Field(ge=0)]
    step_seconds: Seconds
    seconds: Seconds
    error: float
    ended: bool
    finished: NotRequired[bool]


COUNTED, CLOCK = TypeAdapter(Counts), TypeAdapter(tuple[Seconds, tuple[float, float]])


@dataclass(frozen=True)
class Budget:
    """What an attack may spend: ``steps`` of any one of its optimizations, or ``seconds`` in all; None: no limit.

    >>> Budget.parse("500"), Budget.parse("90s"), Budget.parse("2m").seconds
    (Budget(steps=500, seconds=None), Budget(steps=None, seconds=90.0), 120.0)
    """

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """``500`` steps, or ``90s``, ``5m``, ``1h``.

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
class Loop:
    """One optimization: its rounds (epochs, say), and the steps that each round has.

    Attributes:
        done, planned: steps taken, and those that it will take; ``wanted`` without a budget.
        error: current error, for the bar.
        finished: it has nothing left to do, whatever was planned.
    """

    work: Work
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
        limit = self.work.budget.steps
        self.planned = min(self.wanted, limit) if limit else self.wanted

    def __iter__(self) -> Iterator[int]:
        """Rounds 0, 1, ... from where the loop was stopped; at least one step is taken whatever the budget."""
        self.work.restore(self)
        kept, stopped_at = time.perf_counter(), self.done
        while not self.ended:
            start, before = time.perf_counter(), self.done
            yield self.done // self.per_round
            if self.done == before:  # the round is the step
                if self.per_round > 1:
                    raise RuntimeError(f"loop {self.name}: no step in a round; pass its steps through Loop.steps")
                self.done += 1
                self.step_seconds += time.perf_counter() - start
                self.show()
            self.seconds += time.perf_counter() - start
            self.ended = self.spent()
            if not self.ended and time.perf_counter() - kept > KEEP_EVERY:
                self.work.save(self)
                kept = time.perf_counter()
        if self.done > stopped_at and self.seconds > KEEP_EVERY:
            self.work.save(self)

    @property
    def fraction(self) -> float:
        """How far the loop is, in [0, 1): by its steps, or by the time it may take where that ends it sooner."""
        return min(1.0, max(self.done / self.planned, self.work.time_fraction()))

    def anneal(self, optimizer: torch.optim.Optimizer, lr: float, floor: float) -> None:
        """Cosine from ``lr`` to ``floor`` over what the loop may spend (Loshchilov and Hutter 2017, one cycle)."""
        for group in optimizer.param_groups:
            group["lr"] = floor + (lr - floor) * (1 + math.cos(math.pi * self.fraction)) / 2

    def steps(self, items: Iterable[T]) -> Iterator[T]:
        """The items of one round, until the budget is used up; each is a step."""
        for item in items:
            start = time.perf_counter()
            yield item
            self.done += 1
            self.step_seconds += time.perf_counter() - start
            self.show()
            if self.spent():
                return

    def show(self) -> None:
        """Tell the bar."""
        if self.work.progress and (self.done % 10 == 0 or self.done == self.planned or self.per_round > 1):
            self.work.progress(self.done, self.planned, self.error)

    def finish(self) -> None:
        """End after this round, as no further step is of use: it is then complete, and not cut short."""
        self.finished = True
        if self.work.progress:
            self.work.progress(self.done, self.done, self.error)

    def spent(self) -> bool:
        """Whether nothing is left to do, or nothing of its steps or of its time."""
        return self.finished or self.done >= self.planned or self.work.time_fraction() >= 1

    def full_seconds(self) -> float:
        """Seconds that all its rounds would take, from those that were taken."""
        if not self.done:
            return 0.0
        rounds = max(1, math.ceil(self.done / self.per_round))
        return self.wanted * self.step_seconds / self.done + self.rounds * (self.seconds - self.step_seconds) / rounds


class Work:
    """What an attack is given to work with: a bar, a budget, and a folder for what must survive a stop.

    An attack runs every optimization as a `loop`; nothing else is needed to have all three. Loops must come in the
    same order whenever the attack is run again with the same seed.

    Args:
        store: folder for checkpoints; None: keeps none.
        fits: trainings that other attacks of the same suite have made, by what determines them; None: not shared.

    Attributes:
        shared_seconds: what the trainings took that were taken from ``fits``.

    >>> work, state = Work(budget=Budget(steps=3)), {"x": 0}
    >>> for step in work.loop("count", 5, state, torch.Generator()):
    ...     state["x"] += step
    >>> state["x"], work.cut
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
        self.loops: list[Loop] = []
        self._start, self._earlier = time.perf_counter(), 0.0
        self._from, self._until = 0.0, self.budget.seconds or math.inf

    @property
    def seconds(self) -> float:
        """Time spent, that before a stop included."""
        return self._earlier + time.perf_counter() - self._start

    @property
    def cut(self) -> dict[str, tuple[int, int]]:
        """Loops that the budget ended: name -> (steps taken, steps wanted)."""
        return {x.name: (x.done, x.wanted) for x in self.loops if x.done < x.wanted and not x.finished}

    def time_fraction(self) -> float:
        """Part of the current share of the time that is used; 0 without a limit."""
        if self._until == math.inf:
            return 0.0
        return (self.seconds - self._from) / max(1e-9, self._until - self._from)

    @contextmanager
    def share(self, part: float) -> Iterator[None]:
        """What is done inside may take this part of the time that is left."""
        before, now = (self._from, self._until), self.seconds
        self._from, self._until = now, now + part * max(0.0, self._until - now) if part < 1 else self._until
        try:
            yield
        finally:
            self._from, self._until = before

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The items, each with an equal share of the time that is left."""
        listed = list(items)
        for i, item in enumerate(listed):
            with self.share(1 / (len(listed) - i)):
                yield item

    def loop(self, name: str, rounds: int, state: State, rng: torch.Generator, *, per_round: int = 1) -> Loop:
        """An optimization of ``rounds`` rounds that keeps ``state`` and ``rng``.

        Args:
            per_round: steps in each round; where it is more than one the attack passes them through `Loop.steps`.
        """
        self.loops.append(Loop(self, name, rounds, per_round, state, rng))
        return self.loops[-1]

    def skip(self, name: str, rng: torch.Generator, seconds: float) -> None:
        """Count an optimization that another attack has made: checkpoints are numbered as if it had been made here."""
        self.loops.append(Loop(self, name, 0, 1, {}, rng, ended=True))
        self.shared_seconds += seconds

    def file(self, loop: Loop) -> Path | None:
        """Where the checkpoint of a loop lies."""
        number = next(i for i, one in enumerate(self.loops) if one is loop)
        return self.store / f"{number:03d}.pt" if self.store else None

    def save(self, loop: Loop) -> None:
        """Keep a loop between two of its rounds."""
        if (path := self.file(loop)) is None:
            return
        kept = {key: value.state_dict() if hasattr(value, "state_dict") else value for key, value in loop.state.items()}
        counts = {key: getattr(loop, key) for key in Counts.__annotations__}
        clock = {"elapsed": self.seconds, "share": (self._from, self._until)}
        save_tensors(path, {"state": kept, "rng": loop.rng.get_state(), "counts": counts, **clock})

    def restore(self, loop: Loop) -> None:
        """Put a loop where it was kept; nothing where it was not."""
        path = self.file(loop)
        if path is None or not path.is_file():
            return
        remedy = f"remove {path.parent} to begin the attack again"
        needed = {"state", "rng", "counts", "elapsed", "share"}
        kept = reading.read_checkpoint(path, loop.rng.device, needed, remedy)
        try:
            self._put_back(loop, kept)
        except reading.UNUSABLE as error:
            reason = str(error).partition("\n")[0][:200]
            raise UserError(f"{path} is not of this attack, or damaged ({reason}); {remedy}") from None

    def _put_back(self, loop: Loop, kept: State) -> None:
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
    """Whether a value holds only what loops keep: numbers, texts, tensors, lists of these, and weights by name."""
    if isinstance(value, dict):
        return all(isinstance(name, str) and isinstance(inner, Tensor) for name, inner in value.items())
    if isinstance(value, list | tuple):
        return all(isinstance(inner, int | float | Tensor | list | tuple) and _plain(inner) for inner in value)
    return isinstance(value, int | float | str | Tensor)


def copy_weights(module: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state, to be kept while training goes on."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
