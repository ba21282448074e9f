"""The examples in CONTRIBUTING.md run and do what the page says."""

from __future__ import annotations

import doctest
import math
import re
import tomllib
import types
from pathlib import Path

import pytest
import torch

from splitveil.bounds.base import Channel
from splitveil.data import Access
from splitveil.model import SplitModel

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def example() -> dict[str, types.ModuleType]:
    """The code blocks as modules, by file name."""
    modules = {}
    for path, code in re.findall(r"```python\n# src/splitveil/(\S+)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
        module = types.ModuleType(Path(path).stem)
        exec(compile(code, path, "exec"), vars(module))
        modules[module.__name__] = module
    return modules


def test_there_is_one_example_per_kind(example):
    assert list(example) == ["clip", "mean_image", "bits", "stripes", "tiny"]


def test_their_docstrings_run(example):
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


def test_the_rooms_of_the_page_are_those_of_the_contract():
    settings = tomllib.loads((PAGE.parent / "pyproject.toml").read_text("utf-8"))
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    section = PAGE.read_text("utf-8").partition("## The rooms")[2].partition("\n## ")[0]
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in section.splitlines() if line.startswith("| `")]
    assert rows == [layer.split(" | ") for layer in contract["layers"]]
