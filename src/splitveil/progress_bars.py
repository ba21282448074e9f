"""Progress bars on standard error; nothing where it is no terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def bars() -> Progress:
    """An empty set of bars, to be entered with ``with``."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )


def training(bar: Progress, title: str, epochs: int) -> Callable[[int, int, dict[str, Any]], None]:
    """The progress callback of `training.fit`."""
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


def attack(bar: Progress, title: str) -> Callable[[int, int, float], None]:
    """The progress callback of `Attack.fit`."""
    task = bar.add_task(title, total=None, note="")

    def show(done: int, total: int, error: float) -> None:
        note = "" if math.isnan(error) else f"held-out MSE {error:.4f}"
        bar.update(task, completed=done, total=total, note=note)

    return show
