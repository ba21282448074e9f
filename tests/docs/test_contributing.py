"""The examples of the guide on plug-ins run and do what it says; CONTRIBUTING.md names the rooms of the contract."""

from __future__ import annotations

import doctest
import importlib
import math
import re
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch

from splitveil import ranges, registry
from splitveil.bounds.base import Channel
from splitveil.cli import main
from splitveil.data import Access
from splitveil.model import SplitModel

ROOT = Path(__file__).parents[2]
PAGE, GUIDE = ROOT / "CONTRIBUTING.md", ROOT / "docs" / "guides" / "add-a-plugin.md"


@pytest.fixture
def example(tmp_path, monkeypatch) -> Iterator[dict[str, types.ModuleType]]:
    """The files of the guide, by name, in the package that it describes, installed as pip would."""
    page = GUIDE.read_text("utf-8")
    package, (about,) = tmp_path / "veil_extras", re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    info = tmp_path / "veil_extras-0.1.0.dist-info"
    package.mkdir()
    info.mkdir()
    files = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", page, re.DOTALL)
    for name, code in files:
        (package / f"{name}.py").write_text(code, encoding="utf-8")
    groups = tomllib.loads(about)["project"]["entry-points"]
    lines = [
        line for group, points in groups.items() for line in (f"[{group}]", *(f"{a} = {b}" for a, b in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: veil-extras\nVersion: 0.1.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    registry._discover.cache_clear()
    yield {name: importlib.import_module(f"veil_extras.{name}") for name, _ in files}
    registry._discover.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "veil_extras"]:
        del sys.modules[name]


def test_there_is_one_example_per_kind(example):
    assert list(example) == ["clip", "mean_image", "bits", "stripes", "tiny"]
    results = [doctest.testmod(module) for module in example.values()]
    assert sum(result.attempted for result in results) >= 1
    assert all(result.failed == 0 for result in results)


def test_they_work_together(example):
    from splitveil.attacks.base import Victim

    images = example["stripes"].stripes(train_size=20, test_size=4)
    parts = example["tiny"].tiny("tiny", cut=2, classes=2, image_size=images.size)
    defense = example["clip"].Clip(0.1)
    model = SplitModel(parts.encoder, parts.tail, defense=defense, mean=images.mean, std=images.std)
    rng = torch.Generator().manual_seed(0)
    victim = Victim(model, frozenset({Access.QUERY}))
    wire = victim.query(images.test.images / 255, rng)
    assert float(wire.abs().max()) == pytest.approx(0.1)
    attack = example["mean_image"].MeanImage()
    attack.fit(victim, images.train, rng)
    channel = Channel.of(model, images.train, rng)
    (cap,) = example["bits"].Bits(8).estimate(channel, rng)
    assert cap.value == pytest.approx(8 * math.log(2) * wire[0].numel())
    expected = (images.train.images / 255).mean(0).expand(4, -1, -1, -1)
    assert torch.allclose(attack.reconstruct(wire), expected)


def test_the_guide_says_how_an_attack_asks_the_victim(example):
    from splitveil.attacks.base import Victim
    from splitveil.attacks.nearest import NearestAttack

    page = GUIDE.read_text("utf-8")
    named = re.findall(r"^\| `victim\.(\w+)\(", page, re.MULTILINE)
    assert {"query", "observe"} <= set(named)
    assert all(callable(getattr(Victim, name)) for name in named)
    assert all(hasattr(Access, name) for name in re.findall(r"`Access\.(\w+)`", page))
    (code,) = re.findall(r"```python\n(def fit.*?)```", page, re.DOTALL)
    module = example["mean_image"]
    exec(code, vars(module))
    mine = type("Mine", (module.Attack,), {name: vars(module)[name] for name in ("fit", "reconstruct")})()
    images = example["stripes"].stripes(train_size=20, test_size=4)
    parts = example["tiny"].tiny("tiny", cut=1, classes=2, image_size=images.size)
    victim = Victim(SplitModel(parts.encoder, parts.tail).eval(), frozenset({Access.QUERY}))
    ours, wire = NearestAttack(neighbors=5, looks=1), victim.query(images.test.images / 255, torch.Generator())
    for attack in (mine, ours):
        attack.fit(victim, images.train, torch.Generator().manual_seed(0))
    assert torch.allclose(mine.reconstruct(wire), ours.reconstruct(wire), atol=1e-5)


def test_the_ranges_of_the_guide_are_ranges():
    rows = re.findall(r"^\| `(\w+)` \| a (whole )?number (.*?)(?::.*)? \|$", GUIDE.read_text("utf-8"), re.MULTILINE)
    assert {"Count", "Weight", "Part", "Inner"} <= {name for name, *_ in rows}
    words = {"ge": "from {:,}", "gt": "above {:,}", "le": "at most {:,}", "lt": "below {:,}"}
    exact = {"Part": "from 0 to 1, both included", "Inner": "between 0 and 1, both excluded"}
    for name, whole, said in rows:
        kind, field = get_args(getattr(ranges, name))
        limits = {key: getattr(one, key) for one in field.metadata for key in words if hasattr(one, key)}
        if limits.get("le") == ranges.MOST:  # the largest number of anything goes without saying
            del limits["le"]
        told = ", ".join(words[key].format(limit) for key, limit in limits.items())
        assert bool(whole) == (kind is int), name
        assert said.removesuffix(" on") == exact.get(name, told), name


def test_the_package_of_the_guide_names_its_folder():
    """Beside the folder of runs that the page makes, setuptools refuses to choose between the two."""
    (about,) = re.findall(r"```toml\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert tomllib.loads(about)["tool"]["setuptools"]["packages"] == ["veil_extras"]


def test_the_package_is_found_and_attacked_by_name(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^splitveil ((?:train|attack) .*)$", GUIDE.read_text("utf-8"), re.MULTILINE)
    assert len(commands) == 2
    for command in (commands[0] + " --epochs 1", commands[1]):
        main(command.split())
    said = " ".join(capsys.readouterr().err.split())
    assert "flag mean_image: the attack does no better than the mean training image" in said
    for code in re.findall(r"```python\n(import .*?)```", GUIDE.read_text("utf-8"), re.DOTALL):
        exec(compile(code, "docs/guides/add-a-plugin.md", "exec"), {})
    assert "at most" in capsys.readouterr().out


def test_the_rooms_of_the_page_are_those_of_the_contract():
    settings = tomllib.loads((PAGE.parent / "pyproject.toml").read_text("utf-8"))
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    section = PAGE.read_text("utf-8").partition("## The rooms")[2].partition("\n## ")[0]
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in section.splitlines() if line.startswith("| `")]
    assert rows == [layer.split(" | ") for layer in contract["layers"]]
