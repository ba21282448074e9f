"""Bars in a notebook, where rich draws none, and nowhere else but on a terminal."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import rich.console

from splitveil import progress_bars
from splitveil.progress_bars import NotebookBars


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


def test_elsewhere_it_is_rich_and_shows_nothing_where_there_is_no_terminal(capsys):
    with progress_bars.bars() as bars:
        progress_bars.attack(bars, "decoder")(1, 2, 0.5)
    assert capsys.readouterr() == ("", "")
