"""Progress: bars on a terminal's standard error or below the cell of a notebook, elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import html
import itertools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SHOW_EVERY = 0.2
"""Seconds between two messages to a notebook."""
LINE_EVERY = 30.0
"""Least seconds between two lines where there is no terminal, and before the first: short commands print none."""


@dataclass
class Task:
    """The state of a bar; ``unit`` names the steps of which one is being made."""

    title: str
    total: float | None
    completed: float = 0.0
    note: str = ""
    unit: str = ""

    def html(self) -> str:
        """Return the bar as HTML.

        >>> Task("training", 12, 3, "loss 0.500").html()
        'training <progress max="12" value="3"></progress> 3/12 loss 0.500'
        """
        length = "" if self.total is None else f' max="{self.total:g}" value="{self.completed:g}"'
        count = "" if self.total is None else f"{self.completed:.0f}/{self.total:.0f} "
        return f"{html.escape(self.title)} <progress{length}></progress> {count}{html.escape(self.note)}"

    def line(self, seconds: float) -> str:
        """Return the bar as a line of text.

        Args:
            seconds: since the work began.

        >>> Task("training", 12, 2.4, "loss 0.500", "epoch").line(80)
        'training: epoch 3 of 12, loss 0.500, after 1 min 20 s'
        >>> Task("bounds", 6, 2).line(45.6), Task("linear", None).line(31)
        ('bounds: 2 of 6 done, after 45 s', 'linear, after 31 s')
        """
        count = ""
        if self.total is not None:
            now = f"{self.unit} {max(1, math.ceil(self.completed))}" if self.unit else f"{self.completed:.0f}"
            count = f"{now} of {self.total:.0f}" + ("" if self.unit else " done")
        about = ", ".join(filter(None, [count, self.note]))
        return f"{self.title}{': ' * bool(about)}{about}, after {in_words(seconds)}"


def in_words(seconds: float) -> str:
    """Return a time as a clock tells it.

    >>> in_words(31.9), in_words(80), in_words(3600), in_words(7500)
    ('31 s', '1 min 20 s', '1 h 0 min', '2 h 5 min')
    """
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


class OwnBars:
    """Bars that are not rich's, with the calls of its `Progress`."""

    def __init__(self) -> None:
        self._tasks: dict[TaskID, Task] = {}
        self._numbers = itertools.count()

    def __enter__(self) -> OwnBars:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to show the bars."""

    def stop(self) -> None:
        """Show the bars for the last time."""

    def add_task(self, title: str, total: float | None, **fields: Any) -> TaskID:
        """Add a bar and return its number.

        Args:
            title: text before the bar.
            total: number of steps; None: unknown.
            fields: further ones of `Task`.
        """
        number = TaskID(next(self._numbers))
        self._tasks[number] = Task(title, total, **fields)
        self._added(self._tasks[number])
        return number

    def update(self, task: TaskID, **values: Any) -> None:
        """Change what a bar shows: ``completed``, ``total`` or ``note``."""
        for name, value in values.items():
            setattr(self._tasks[task], name, value)
        self._changed(self._tasks[task])

    def remove_task(self, task: TaskID) -> None:
        """Remove a bar."""
        del self._tasks[task]

    def _added(self, task: Task) -> None:
        self._changed(task)

    def _changed(self, task: Task) -> None:
        raise NotImplementedError


class Lines(OwnBars):
    """A line of text for the bar that changes, at most every `LINE_EVERY` seconds: for files, logs and pipes.

    Args:
        file: where the lines go; None: standard error.
        clock: tells the time in seconds.
    """

    def __init__(self, file: IO[str] | None = None, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self._file, self._clock = file, clock
        self._begun = self._last = clock()

    @property
    def due(self) -> bool:
        """Return whether the next change is printed."""
        return self._clock() - self._last >= LINE_EVERY

    def _changed(self, task: Task) -> None:
        if not self.due:
            return
        self._last = self._clock()
        file = self._file or sys.stderr
        if file is None:  # as in a program without a console
            return
        # Whoever reads the lines may be gone, the disk full (OSError), or the stream closed (ValueError): no training
        # ends for a line that only tells how far it is.
        with contextlib.suppress(OSError, ValueError):
            file.write(f"{task.line(self._last - self._begun)}\n")
            file.flush()


class NotebookBars(OwnBars):
    """Bars below a cell of a notebook; rich itself needs ipywidgets for that."""

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None
        self._shown_at = -math.inf

    def stop(self) -> None:
        """Show the bars for the last time."""
        self._show()

    def _added(self, task: Task) -> None:
        self._show()

    def _changed(self, task: Task) -> None:
        if time.perf_counter() - self._shown_at > SHOW_EVERY:
            self._show()

    def _show(self) -> None:
        from IPython.display import HTML, display  # type: ignore[import-not-found]

        if not self._tasks:
            return
        shown = HTML("<br>".join(task.html() for task in self._tasks.values()))
        if self._handle is None:
            self._handle = display(shown, display_id=True)
        else:
            self._handle.update(shown)
        self._shown_at = time.perf_counter()


Bars = Progress | OwnBars


def bars() -> Bars:
    """Return an empty set of bars, to be entered with ``with``."""
    console = Console(stderr=True)
    if console.is_jupyter:
        return NotebookBars()
    if not console.is_terminal:
        return Lines()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def training(bar: Bars, title: str, epochs: int) -> Callable[[int, int, dict[str, Any]], None]:
    """Return the progress callback of `training.trainer.fit`.

    Args:
        bar: bars that it is shown in.
        title: text before the bar.
        epochs: length of the training.
    """
    task = bar.add_task(title, total=epochs, note="", unit="epoch")
    starts: dict[int, int] = {}  # steps done when each epoch began; two of them tell how many an epoch has

    def show(epoch: int, done: int, last: dict[str, Any]) -> None:
        begun = starts.setdefault(epoch, done - 1)
        length = begun - starts[epoch - 1] if epoch - 1 in starts else 0
        part = (done - begun) / length if length else 0.0
        # How many steps the first epoch has is not known yet; without their count its lines would be the same.
        note = f"loss {last['loss']:.3f}" if last else f"step {done}"
        if last and last["accuracy_val"] is not None:
            note += f", validation {last['accuracy_val']:.1%}"
        bar.update(task, completed=epoch + min(part, 1.0), note=note)

    return show


def attack(bar: Bars, title: str) -> Callable[[int, int, float], None]:
    """Return the progress callback of `Attack.fit`.

    Args:
        bar: bars that it is shown in.
        title: text before the bar.
    """
    task = bar.add_task(title, total=None, note="", unit="step")

    def show(done: int, total: int, error: float) -> None:
        note = "" if math.isnan(error) else f"held-out MSE {error:.4f}"
        bar.update(task, completed=done, total=total, note=note)

    return show
