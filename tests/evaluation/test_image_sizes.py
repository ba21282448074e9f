"""Images that cannot be scored are refused before the work and not after it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from splitveil import config, metrics, runs
from splitveil.cli import main
from splitveil.data import ImageSet, Split
from splitveil.errors import UserError
from splitveil.evaluation import evaluate
from splitveil.runs import Run
from splitveil.training import trainer

SETTINGS = {"arch": "resnet20_sgm", "cut": 2, "bottleneck": 2, "batch_size": 8, "protocol": "train_time", "epochs": 1}


def noise(size: int, train: int = 24, test: int = 6) -> ImageSet:
    rng = torch.Generator().manual_seed(size)
    train_part, test_part = (
        Split(torch.randint(256, (n, 3, size, size), generator=rng, dtype=torch.uint8), torch.arange(n) % 2)
        for n in (train, test)
    )
    return ImageSet("noise", train_part, test_part, ["a", "b"], (0.5,) * 3, (0.2,) * 3, size)


@pytest.mark.parametrize("size", range(1, 15))
def test_what_is_refused_is_exactly_what_ssim_cannot_score(size):
    images = torch.rand(2, 3, size, size)
    if size < 11:
        for call in (lambda: metrics.ssim(images, images), lambda: metrics.check_size(size)):
            with pytest.raises(UserError):
                call()
    else:
        metrics.check_size(size)
        assert metrics.ssim(images, images).shape == (2,)


@pytest.mark.parametrize("size", [4, 8, 10])
def test_small_images_are_refused_before_training(tmp_path, size):
    settings = config.parse({**SETTINGS, "data": "noise"})
    with pytest.raises(UserError, match=rf"images are {size} × {size} pixels.* needs 11 × 11; enlarge them.*size=32"):
        trainer.fit(settings, noise(size), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_hint_of_the_command_helps(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SPLITVEIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for part, count in (("train", 12), ("test", 3)):
        for name in "ab":
            (tmp_path / "small" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(i).integers(0, 256, (9, 9, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "small" / part / name / f"{i}.png")
    options = [part for key, value in SETTINGS.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    with pytest.raises(SystemExit) as stop:
        main(["train", "--data", "folder:small", *options, "--out", "run"])
    assert stop.value.code == 2
    assert "size=32" in capsys.readouterr().err
    grid = tmp_path / "grid.yaml"
    grid.write_text(json.dumps({"base": {**SETTINGS, "data": "folder:small"}, "attacks": ["linear"]}))
    with pytest.raises(SystemExit) as stop:
        main(["bench", str(grid), "--out", "out"])
    assert stop.value.code == 2
    assert "size=32" in capsys.readouterr().err
    main(["train", "--data", "folder:root=small,size=32", *options, "--out", "run"])
    main(["attack", "run", "--attack", "linear"])


def test_a_run_of_an_earlier_version_is_refused_before_the_attack(tmp_path, monkeypatch):
    settings, images = config.parse({**SETTINGS, "data": "noise"}), noise(8)
    monkeypatch.setattr(runs.metrics, "check_size", lambda size: None)
    trainer.fit(settings, images, tmp_path / "run")
    monkeypatch.undo()

    def never(*_):
        raise AssertionError("the attack was made")

    monkeypatch.setattr("splitveil.attacks.linear.LinearAttack.fit", never)
    with pytest.raises(UserError, match="enlarge them"):
        evaluate.attack_run(Run.open(tmp_path / "run"), config.Spec(name="linear"), images, protocol_name="train_time")


def test_another_metric_that_cannot_score_the_images_is_found_before_the_attack(tmp_path, monkeypatch):
    settings, images = config.parse({**SETTINGS, "data": "noise"}), noise(12)
    trainer.fit(settings, images, tmp_path / "run")

    def picky(found, truth, labels):
        raise UserError("picky: wants 16 pixels")

    def never(*_):
        raise AssertionError("the attack was made")

    monkeypatch.setattr("splitveil.attacks.linear.LinearAttack.fit", never)
    with pytest.raises(UserError, match="picky"):
        evaluate.evaluate(
            Run.open(tmp_path / "run"),
            config.Spec(name="linear"),
            images,
            extra={"picky": picky},
            protocol_name="train_time",
        )
