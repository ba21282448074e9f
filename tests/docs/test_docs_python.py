"""The code blocks of docs/python.md run, one after the other, as a reader would run them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from splitveil.registry import Registry

ROOT = Path(__file__).parents[2]


def test_the_page_runs_from_top_to_bottom(capsys, monkeypatch, tmp_path):
    pytest.importorskip("sklearn")
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 6
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in blocks:
            exec(compile(block, "docs/python.md", "exec"), names)
    said = capsys.readouterr().out
    assert "Result(linear: mse=" in said
    assert names["result"].mse < 0.5 * names["result"].baseline_mse
    assert "PrivacyCard(model: " in said
    assert (tmp_path / "card" / "audit.html").is_file()
    assert "by the codec uint8: " in said
    assert (tmp_path / "bundle" / "card.html").is_file()
    assert (tmp_path / "cuts.png").is_file()
    assert "at most 2 points of accuracy lost" in said
    assert "cem" in names["loop"].losses
    accuracy = (names["model"](names["x"][1500:]).argmax(1) == names["y"][1500:]).float().mean()
    assert accuracy > 0.7


def test_the_page_on_bounds_runs_and_names_every_bound(capsys):
    page = (ROOT / "docs/bounds.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with torch.random.fork_rng():
        exec(compile(block, "docs/bounds.md", "exec"), {})
    assert "the right photo among 100, chance 1 %" in capsys.readouterr().out
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(Registry("bounds").names())
