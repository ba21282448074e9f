"""PATROL's published networks come in, doubled, pruned or not; a pickled one after its message was followed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from published import (
    BOTTLENECK,
    PublishedResNet20,
    PublishedVGG,
    layouts,
    published_state,
    random_tensors,
    same,
    save,
    save_layout,
)
from splitveil.errors import UserError
from splitveil.legacy import import_checkpoint
from splitveil.legacy.fitting import _stub
from splitveil.runs import Run

pytestmark = pytest.mark.usefixtures("quick_weights")


@pytest.fixture(autouse=True)
def no_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pruned(*widths: int) -> Any:
    """The published VGG11 of cut 4 with a doubled first layer and these widths on the device."""
    model = PublishedVGG(double=True)
    layers: list[nn.Module] = []
    for inputs, outputs, pool in zip((3, *widths), widths, (False, True, True), strict=False):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
    model.local = nn.Sequential(*layers, nn.Conv2d(widths[-1], 8, 3, padding=1), nn.Sigmoid())
    return published_state(model)


@pytest.mark.parametrize(
    ("widths", "option"),
    [
        ((16, 64, 128), ["--AT_regularization=gan_adv_step1_pruning180"]),
        ((16, 60, 121), ["--lambd=16"]),
        ((15, 60, 121), ["--AT_regularization=gan_adv_step1_pruning180"]),
        ((12, 48, 96), ["--lambd=16"]),
    ],
)
def test_a_doubled_vgg_comes_in_pruned_or_not(tmp_path: Path, widths: tuple[int, ...], option: list[str]):
    model = pruned(*widths)
    save(model, tmp_path / "c")
    imported = import_checkpoint(tmp_path / "c", tmp_path / "run", options=[*BOTTLENECK, *option])
    run = Run.open(tmp_path / "run")
    assert (run.settings.arch, run.settings.cut) == ("vgg11_bn_sgm_released_double", 4)
    epoch = 180 if "pruning" in option[0] else 140
    patrol = next(spec for spec in run.settings.defense if spec.name == "patrol")
    assert dict(patrol.parameters) == {"epoch": epoch, "ratio": 0.05, "double": False}
    assert any("patrol is assumed" in note for note in imported.notes) == (epoch == 140)
    same(model, run, _stub("cifar10", 10), 32)


@pytest.mark.parametrize(
    "published",
    [
        partial(PublishedVGG, double=True, sigmoid=False),
        partial(PublishedVGG, double=True, sigmoid=False, batch_norm=False, cut=3),
        partial(PublishedResNet20, cut=4, double=True),
        partial(PublishedResNet20, cut=4, double=True, kept=31),
        partial(PublishedResNet20, cut=5, double=True, kept=30),
    ],
)
def test_other_doubled_networks(tmp_path: Path, published: Any):
    model = published()
    save(published_state(model), tmp_path / "c")
    cut = 5 if isinstance(model, PublishedResNet20) and len(model.local) == 8 else None
    options = [*BOTTLENECK, "--AT_regularization=pruning1", *([f"--cutlayer={cut}"] if cut else [])]
    if isinstance(model, PublishedVGG) and len(model.local) < 12:
        options.append("--cutlayer=3")
    import_checkpoint(tmp_path / "c", tmp_path / "run", options=options)
    run = Run.open(tmp_path / "run")
    assert run.settings.arch.endswith("_released_double")
    same(model, run, _stub("cifar10", 10), 32)


def test_the_message_on_a_pickled_network_works_when_it_is_followed(tmp_path: Path):
    model = pruned(16, 60, 121)
    path = save(model, tmp_path / "it's $HOME") / "checkpoint_f_best.tar"
    torch.save(model.local, path)
    with pytest.raises(UserError, match=r"holds more than tensors.*if you trust it") as caught:
        import_checkpoint(path.parent, tmp_path / "run", options=BOTTLENECK)
    assert not (tmp_path / "run").exists()
    words = shlex.split(str(caught.value).partition("that made it: ")[2])
    assert words[0] == "python"
    subprocess.run([sys.executable, *words[1:]], check=True, cwd=tmp_path)
    import_checkpoint(path.parent, tmp_path / "run", options=BOTTLENECK)
    same(model, Run.open(tmp_path / "run"), _stub("cifar10", 10), 32)
    assert (path.parent / "checkpoint_f_best.tar.whole").is_file()


def test_widths_that_do_not_follow_from_each_other_are_refused(tmp_path: Path):
    files = layouts()["patrol_statedict"]
    layout = dict(files["checkpoint_f_best.tar"] or {}) | {"7.weight": [121, 59, 3, 3]}
    save_layout(files, tmp_path / "c")
    torch.save(random_tensors(layout), tmp_path / "c" / "checkpoint_f_best.tar")
    with pytest.raises(
        UserError, match=r"checkpoint_f_best\.tar: 3\.weight has shape \(60, 16, 3, 3\), expected \(64,"
    ):
        import_checkpoint(tmp_path / "c", tmp_path / "run", options=BOTTLENECK)


def test_a_wider_network_is_no_pruned_one(tmp_path: Path):
    files = layouts()["cem0"]
    layout = dict(files["checkpoint_f_best.tar"] or {}) | {"8.weight": [16, 128, 3, 3], "8.bias": [16]}
    save_layout(files, tmp_path / "c")
    torch.save(random_tensors(layout), tmp_path / "c" / "checkpoint_f_best.tar")
    with pytest.raises(UserError, match=r"8\.weight has shape \(16, 128, 3, 3\), expected \(8, 128"):
        import_checkpoint(tmp_path / "c", tmp_path / "run", options=[*BOTTLENECK, "--AT_regularization=pruning180"])
