"""Pages below docs/: their code runs, their figures are those of the records, and every flag has its words."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splitveil.bench import checks
from splitveil.bench.grid import load_grid
from splitveil.registry import Registry

ROOT = Path(__file__).parents[2]
DOCS, SOURCE = ROOT / "docs", ROOT / "src" / "splitveil"
FLAGS = DOCS / "guides" / "when-a-flag-is-raised.md"
TOLD = [*sorted((DOCS / "concepts").glob("*.md")), *sorted((DOCS / "guides").glob("*.md")), DOCS / "faq.md"]
"""Pages that repeat figures of others."""


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text(path), re.DOTALL)


# Flags


def sentences(node: ast.AST) -> Iterator[str]:
    """Yield the texts of a list, or the text itself; what is put into them becomes a star."""
    for one in node.elts if isinstance(node, ast.List) else [node]:
        if isinstance(one, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in one.values)
        elif isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one.value


def flags_of(path: Path) -> Iterator[str]:
    """Yield what a module adds to ``flags`` or shows as flags; of two modules all that they return or append."""
    tree, all_of_it = ast.parse(text(path)), path.name in ("reliability.py", "masks.py")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "hasty":
            yield from (said for one in ast.walk(node) if isinstance(one, ast.List) for said in sentences(one))
        if isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func)
            if called in ("show_flags", "flags.append") or (all_of_it and called.endswith(".append")):
                yield from sentences(node.args[0])
        elif isinstance(node, ast.Assign | ast.AugAssign) and "flags" in ast.unparse(node).partition("=")[0]:
            yield from sentences(node.value)
        elif all_of_it and isinstance(node, ast.Return) and node.value is not None:
            for part in ast.walk(node.value):
                yield from sentences(part) if isinstance(part, ast.List) else ()
                yield from sentences(part.elt) if isinstance(part, ast.ListComp) else ()


def raised() -> list[str]:
    """Return all flags of the code, without those that only put a name before another flag."""
    return [flag for path in SOURCE.rglob("*.py") for flag in flags_of(path) if len(re.sub(r"[*: ]", "", flag)) > 10]


def test_every_flag_of_the_code_has_its_words_and_no_other():
    quoted = re.findall(r"^> `(.+)`$", text(FLAGS), re.MULTILINE)
    flags = raised()
    assert len(flags) >= 15
    assert [flag for flag in flags if not any(words in flag for words in quoted)] == []
    assert [words for words in quoted if not any(words in flag for flag in flags)] == []
    assert len(quoted) == len(set(quoted)) == text(FLAGS).count("**May you ignore it?**")


# Figures

FIGURE = re.compile(r"[+−]?\d[\d.,]*(?: %)? \[[^\]a-z]*\d\]")


def test_a_figure_with_an_interval_is_one_of_a_page_that_has_its_record():
    known = " ".join(text(page) for page in DOCS.glob("*.md") if page.name != "faq.md")
    record = json.loads(text(ROOT / "benchmarks" / "masked_gradient.json"))["mse"].values()
    moved = {f"{v['mean']:{f}} [{v['ci95'][0]:{f}}, {v['ci95'][1]:{f}}]" for v in record for f in (".3f", ".4f")}
    told = {(page.name, figure) for page in TOLD for figure in FIGURE.findall(text(page))}
    assert len(told) > 15
    assert [(name, figure) for name, figure in sorted(told) if figure not in known and figure not in moved] == []


def test_the_bounds_of_the_page_are_those_of_the_record():
    page = text(DOCS / "concepts" / "what-bounds-mean.md")
    record = json.loads(text(ROOT / "benchmarks" / "audit.json"))
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE))
    assert set(rows) == set(Registry("bounds").names())
    shown = {"leakage": lambda v: f"{v:.3g} nats", "success": lambda v: f"{100 * v:.0f} %", "mse": lambda v: f"{v:.3g}"}
    signs = {"lower": "at least", "upper": "at most", "point": "about"}
    for name, row in rows.items():
        said = [one for one in record["bounds"] if one["bound"] == name]
        if name in record["refused"]:
            assert row == "refused"
            continue
        assert any(shown[one["quantity"]](one["value"]) in row and signs[one["kind"]] in row for one in said), row


def test_the_leakages_of_the_answer_on_nats_are_those_of_the_record():
    answer = text(DOCS / "faq.md").partition("## Are nats comparable")[2].partition("\n## ")[0]
    cells = {cell["cell"]: cell for cell in json.loads(text(ROOT / "benchmarks" / "tradeoff.json"))["cells"]}
    for name in ("bound-16-s0", "noise-0.2-s0"):
        assert f"{cells[name]['leakage_nats']:.0f}" in answer
        assert f"{cells[name]['decoder']['mse']['mean']:.4f}" in answer
    assert cells["bound-16-s0"]["accuracy"]["mean"] == cells["noise-0.2-s0"]["accuracy"]["mean"]


def test_twenty_questions_are_answered_with_a_link_each():
    answers = re.split(r"^## .*\?$", text(DOCS / "faq.md"), flags=re.MULTILINE)[1:]
    assert len(answers) == 20
    assert all(answer.startswith("\n\n**") and "](" in answer for answer in answers)


def test_the_counts_of_the_peers_page_are_ours():
    page = text(DOCS / "peers.md")
    table = text(DOCS / "defenses.md").partition("## Cost per step")[0]
    put_on = {"codec", "waterfill", "waterfill_kronecker"}
    defenses = [name for name in re.findall(r"^\| `(\w+)`", table, re.MULTILINE) if name not in put_on]
    for row, count in (("defenses", len(defenses)), ("attacks", len(Registry("attacks").names()))):
        assert re.search(rf"^\| {row} \| {count}\b", page, re.MULTILINE), (row, count)
    assert f"| bounds on leakage or error | {len(Registry('bounds').names())} |" in page


# Code


def test_the_bound_of_the_page_on_cem_prints_what_it_shows(capsys):
    (code,) = blocks(DOCS / "cem.md", "python")
    exec(compile(code, "docs/cem.md", "exec"), {})
    assert f"```\n{capsys.readouterr().out}```" in text(DOCS / "cem.md")


def test_the_grids_of_the_guide_are_grids(tmp_path, monkeypatch):
    first, short = blocks(DOCS / "guides" / "reproduce-a-row.md", "yaml")
    for name, code, cells in (("ressfl", first, 4), ("short", short, 6)):
        path = tmp_path / f"{name}.yaml"
        path.write_text(code, encoding="utf-8")
        assert len(load_grid(path).cells) == cells
    monkeypatch.setattr(checks, "trainable", lambda cells: None)  # slow, and done for presets by another test
    preset = load_grid("paper/cifar10")
    ours = {cell.id for cell in load_grid(tmp_path / "ressfl.yaml").cells}
    assert ours <= {cell.id for cell in preset.cells}  # the row of the guide is a row of the preset


def test_gray_and_narrow_images_come_in_as_the_guide_says(tmp_path, monkeypatch, capsys):
    Image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(110):
            pixels = rng.integers(0, 128, (24, 32), np.uint8) + np.uint8(100 * label)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{k:03}.png")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(DOCS / "guides" / "own-images.md", "python")
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(code, "docs/guides/own-images.md", "exec"), names)
    assert names["result"].originals.shape == (40, 1, 24, 32)
    assert "Result(linear: mse=" in capsys.readouterr().out
