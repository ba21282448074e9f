"""Progress bars: on a terminal's standard error or below the cell of a notebook; elsewhere there are none."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SHOW_EVERY = 0.2
"""Seconds between two messages to a notebook."""


@dataclass
class NotebookTask:
    """The state of a bar in a notebook."""

    title: str
    total: float | None
    completed: float = 0.0
    note: str = ""

    def html(self) -> str:
        """Return the bar as HTML.

        >>> NotebookTask("training", 12, 3, "loss 0.500").html()
        'training <progress max="12" value="3"></progress> 3/12 loss 0.500'
        """
        length = "" if self.total is None else f' max="{self.total:g}" value="{self.completed:g}"'
        count = "" if self.total is None else f"{self.completed:.0f}/{self.total:.0f} "
        return f"{html.escape(self.title)} <progress{length}></progress> {count}{html.escape(self.note)}"


class NotebookBars:
    """Bars below a cell of a notebook, with the calls of rich's `Progress`; rich itself needs ipywidgets for that."""

    def __init__(self) -> None:
        self._tasks: list[NotebookTask] = []
        self._handle: Any = None
        self._shown_at = -math.inf

    def __enter__(self) -> NotebookBars:
        return self

    def __exit__(self, *_: object) -> None:
        self._show()

    def add_task(self, title: str, total: float | None, note: str = "") -> TaskID:
        """Add a bar and return its number.

        Args:
            title: text before the bar.
            total: number of steps; None: unknown.
            note: text after the bar.
        """
        self._tasks.append(NotebookTask(title, total, note=note))
        self._show()
        return TaskID(len(self._tasks) - 1)

    def update(self, task: TaskID, **values: Any) -> None:
        """Change what a bar shows: ``completed``, ``total`` or ``note``."""
        for name, value in values.items():
            setattr(self._tasks[task], name, value)
        if time.perf_counter() - self._shown_at > SHOW_EVERY:
            self._show()

    def _show(self) -> None:
        from IPython.display import HTML, display  # type: ignore[import-not-found]

        if not self._tasks:
            return
        shown = HTML("<br>".join(task.html() for task in self._tasks))
        if self._handle is None:
            self._handle = display(shown, display_id=True)
        else:
            self._handle.update(shown)
        self._shown_at = time.perf_counter()


Bars = Progress | NotebookBars


def bars() -> Bars:
    """Return an empty set of bars, to be entered with ``with``."""
    console = Console(stderr=True)
    if console.is_jupyter:
        return NotebookBars()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )


def training(bar: Bars, title: str, epochs: int) -> Callable[[int, int, dict[str, Any]], None]:
    """Return the progress callback of `training.trainer.fit`.

    Args:
        bar: bars that it is shown in.
        title: text before the bar.
        epochs: length of the training.
    """
    task = bar.add_task(title, total=epochs, note="")
    starts: dict[int, int] = {}  # steps done when each epoch began; two of them tell how many an epoch has

    def show(epoch: int, done: int, last: dict[str, Any]) -> None:
        begun = starts.setdefault(epoch, done - 1)
        length = begun - starts[epoch - 1] if epoch - 1 in starts else 0
        part = (done - begun) / length if length else 0.0
        note = f"loss {last['loss']:.3f}" if last else ""
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
    task = bar.add_task(title, total=None, note="")

    def show(done: int, total: int, error: float) -> None:
        note = "" if math.isnan(error) else f"held-out MSE {error:.4f}"
        bar.update(task, completed=done, total=total, note=note)

    return show
