"""Bars in a notebook, where rich draws none, and lines where there is no terminal."""

from __future__ import annotations

import io
import os
import sys
from types import ModuleType
from typing import IO, Any

import pytest
import rich.console
from rich.progress import Progress

from splitveil import progress_bars
from splitveil.progress_bars import LINE_EVERY, Lines, NotebookBars


@pytest.fixture
def notebook(monkeypatch) -> list[str]:
    """What a notebook shows: the HTML of each message, all in one place of its page."""
    shown: list[str] = []

    class Handle:
        def update(self, html: str) -> None:
            shown.append(html)

    def display(html: str, display_id: bool) -> Handle:
        assert display_id
        assert not shown, "a second bar for one set"
        shown.append(html)
        return Handle()

    module: Any = ModuleType("IPython.display")
    module.HTML, module.display = str, display
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    return shown


def test_a_notebook_sees_the_training_and_its_end(notebook):
    with progress_bars.bars() as bars:
        assert isinstance(bars, NotebookBars)
        show = progress_bars.training(bars, "training <1>", epochs=2)
        for done in range(1, 5):
            show((done - 1) // 2, done, {} if done < 3 else {"loss": 0.5, "accuracy_val": 0.9})
    assert notebook[0] == 'training &lt;1&gt; <progress max="2" value="0"></progress> 0/2 '
    assert notebook[-1] == 'training &lt;1&gt; <progress max="2" value="2"></progress> 2/2 loss 0.500, validation 90.0%'


def test_a_notebook_is_not_flooded(notebook):
    with progress_bars.bars() as bars:
        show = progress_bars.attack(bars, "decoder")
        for done in range(10_000):
            show(done, 10_000, float("nan"))
    assert len(notebook) < 100
    assert notebook[0] == "decoder <progress></progress> "
    assert 'value="9999"' in notebook[-1]


def test_without_a_bar_nothing_is_shown(notebook):
    with progress_bars.bars():
        pass
    assert notebook == []


def test_where_there_is_no_terminal_what_is_short_shows_nothing(capsys):
    with progress_bars.bars() as bars:
        assert isinstance(bars, Lines)
        progress_bars.attack(bars, "decoder")(1, 2, 0.5)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_it_is_rich(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(progress_bars.bars(), Progress)


class Clock:
    """Tells the time that a test sets."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_training_without_a_terminal_prints_a_line_now_and_then():
    clock, file = Clock(), io.StringIO()
    with Lines(file, clock) as bars:
        show = progress_bars.training(bars, "training", epochs=12)
        for done in range(1, 12 * 10 + 1):  # ten steps of a second in each epoch
            clock.now += 1
            epoch = (done - 1) // 10
            show(epoch, done, {"loss": 1 / epoch, "accuracy_val": 0.5} if epoch else {})
    assert file.getvalue().splitlines() == [
        "training: epoch 3 of 12, loss 0.500, validation 50.0%, after 30 s",
        "training: epoch 6 of 12, loss 0.200, validation 50.0%, after 1 min 0 s",
        "training: epoch 9 of 12, loss 0.125, validation 50.0%, after 1 min 30 s",
        "training: epoch 12 of 12, loss 0.091, validation 50.0%, after 2 min 0 s",
    ]


def test_the_lines_of_a_long_first_epoch_tell_its_steps():
    clock, file = Clock(), io.StringIO()
    with Lines(file, clock) as bars:
        show = progress_bars.training(bars, "training", epochs=2)
        for done in range(1, 7):
            clock.now += 10
            show(0, done, {})
    assert file.getvalue().splitlines() == [
        "training: epoch 1 of 2, step 3, after 30 s",
        "training: epoch 1 of 2, step 6, after 1 min 0 s",
    ]


def test_what_ends_before_the_first_line_is_due_prints_none():
    clock, file = Clock(), io.StringIO()
    with Lines(file, clock) as bars:
        show = progress_bars.attack(bars, "decoder")
        for done in range(100):
            clock.now += (LINE_EVERY - 0.1) / 100
            show(done, 100, 0.5)
    clock.now += 1000
    assert file.getvalue() == ""


def test_attacks_that_tell_nothing_while_they_run_are_told_when_the_next_begins():
    clock, file = Clock(), io.StringIO()
    with Lines(file, clock) as bars:
        progress_bars.attack(bars, "linear")
        clock.now += 45
        show = progress_bars.attack(bars, "decoder")
        clock.now += 45
        show(10, 2000, 0.0123)
        show(20, 2000, 0.0122)
    assert file.getvalue() == ("decoder, after 45 s\ndecoder: step 10 of 2000, held-out MSE 0.0123, after 1 min 30 s\n")


def train_for_two_lines(file: IO[str] | None) -> None:
    clock = Clock()
    with Lines(file, clock) as bars:
        show = progress_bars.training(bars, "training", epochs=2)
        for epoch in range(2):
            clock.now += LINE_EVERY
            show(epoch, epoch + 1, {})


def test_a_training_goes_on_when_the_reader_of_its_lines_is_gone():
    reader, writer = os.pipe()
    os.close(reader)
    file = io.TextIOWrapper(io.FileIO(writer, "w"), write_through=True)
    with pytest.raises(BrokenPipeError):
        file.write("anything")
    train_for_two_lines(file)
    file.detach().close()  # what was not written must not be tried again


def test_a_training_goes_on_when_the_stream_of_its_lines_is_closed():
    file = io.StringIO()
    file.close()
    train_for_two_lines(file)


def test_a_training_goes_on_without_a_standard_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert isinstance(progress_bars.bars(), Lines)
    train_for_two_lines(None)
