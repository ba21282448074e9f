"""The images of a run: found from anywhere, moved with --root, and compared before the run is used again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import splitveil as sv
from splitveil import config, pinned_settings, runs
from splitveil.bench.cell import run_cell
from splitveil.bench.cells import Cell
from splitveil.bench.grid import load_grid
from splitveil.cli import main
from splitveil.data import Split, load
from splitveil.errors import UserError
from splitveil.training import pins, trainer

SMALL = ["--arch", "resnet20_sgm", "--cut", "2", "--bottleneck", "2", "--batch-size", "8", "--epochs", "1"]
VALUES = {"arch": "resnet20_sgm", "cut": 2, "bottleneck": 2, "batch_size": 8, "protocol": "train_time"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SPLITVEIL_CACHE", str(tmp_path_factory.mktemp("cache")))


def images(root: Path, seed: int = 0, train: int = 12, test: int = 4) -> Path:
    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("test", test)):
        for name in "ab":
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(root / part / name / f"{i:02}.png")
    return root


def upside_down(path: Path) -> None:
    with Image.open(path) as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(path)


def told(capsys, *arguments: object) -> str:
    """What a refused command says; its exit status is that of a user's mistake."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with a run of the images beside it, named as seen from there."""
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "base")
    main(["train", "--data", "folder:base", *SMALL, "--protocol", "train_time", "--out", "run"])
    return tmp_path


def test_a_run_is_attacked_from_another_folder_and_with_moved_images(here, monkeypatch):
    (here / "other").mkdir()
    monkeypatch.chdir(here / "other")
    main(["attack", "../run", "--attack", "linear"])
    first = (here / "run/attacks/linear/per_image.csv").read_bytes()
    shutil.move(here / "base", here / "other/moved")
    main(["attack", "../run", "--attack", "linear", "--root", "moved"])
    assert (here / "run/attacks/linear/per_image.csv").read_bytes() == first


@pytest.mark.parametrize("part", ["train", "test"])
def test_other_images_of_the_same_name_are_refused_and_nothing_is_written(here, capsys, part):
    for path in (here / "base" / part).rglob("*.png"):
        upside_down(path)
    said = told(capsys, "attack", "run", "--attack", "linear")
    assert f"run was trained with other {part}ing images".replace("testing", "test") in " ".join(said.split())
    assert not (here / "run/attacks").exists()


def test_one_image_more_or_one_in_another_class_is_refused(here, capsys):
    shutil.copy(here / "base/train/a/00.png", here / "base/train/a/99.png")
    assert "training images" in told(capsys, "attack", "run", "--attack", "linear", "--dry-run")
    (here / "base/train/a/99.png").unlink()
    shutil.move(here / "base/train/a/11.png", here / "base/train/b/00-.png")  # the same pixels in the same order
    said = " ".join(told(capsys, "attack", "run", "--attack", "linear").split())
    assert "other labels than" in said


def test_a_finished_run_is_not_resumed_with_other_images(here, capsys):
    upside_down(here / "base/train/b/03.png")
    again = ["train", "--data", "folder:base", *SMALL, "--protocol", "train_time", "--out", "run", "--resume"]
    assert "other training images" in " ".join(told(capsys, *again).split())


def test_a_stopped_training_goes_on_with_moved_images_but_not_with_others(tmp_path):
    settings = {**VALUES, "data": f"folder:{images(tmp_path / 'base')}", "epochs": 2}

    def stop(epoch, *_):
        if epoch == 1:
            raise KeyboardInterrupt

    out, first = tmp_path / "run", config.parse(settings)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(first, runs.load_images(first), out, progress=stop)
    other = config.parse(settings | {"root": images(tmp_path / "other", seed=1)})
    before = (out / "config.yaml").read_bytes()
    with pytest.raises(UserError, match="other training images and test images than"):
        trainer.fit(other, runs.load_images(other), out, resume=True)
    assert (out / "config.yaml").read_bytes() == before
    moved = config.parse(settings | {"root": (tmp_path / "base").rename(tmp_path / "moved")})
    assert trainer.fit(moved, runs.load_images(moved), out, resume=True)["train_digest"]
    assert runs.Run.open(out).settings.root == tmp_path / "moved"


def test_a_bench_cell_takes_moved_images_and_refuses_others(tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text(json.dumps({**VALUES, "data": f"folder:{images(tmp_path / 'base')}", "epochs": 1}))
    first, second = ({name: config.Spec(name=name).resolve("attacks")} for name in ("linear", "nearest"))
    cell = Cell(load_grid(grid).cells[0].settings, first)
    run_cell(cell, tmp_path / "out")
    (tmp_path / "base").rename(tmp_path / "moved")
    moved = Cell(load_grid(grid, root=tmp_path / "moved").cells[0].settings, first | second)
    assert moved.id == cell.id
    assert "nearest" in run_cell(moved, tmp_path / "out")["attacks"]
    upside_down(tmp_path / "moved/test/b/01.png")
    with pytest.raises(UserError, match="other test images than"):
        run_cell(cell, tmp_path / "out", images=runs.load_images(moved.settings))


def test_the_cells_of_a_bench_share_their_images(tmp_path):
    values = {**VALUES, "data": f"folder:{images(tmp_path / 'base')}", "epochs": 1}
    attacks = {"linear": config.Spec(name="linear").resolve("attacks")}
    first, second, fewer = (
        Cell(config.parse(values | more).resolve(), attacks) for more in ({}, {"seed": 1}, {"train_size": 20})
    )
    run_cell(first, tmp_path / "out")
    upside_down(tmp_path / "base/train/b/01.png")
    with pytest.raises(UserError, match=f"{first.id} was trained with other training images than"):
        run_cell(second, tmp_path / "out")
    assert not (tmp_path / "out/cells" / second.id).exists()
    run_cell(fewer, tmp_path / "out")  # a set of its own


@pytest.mark.parametrize(
    ("data", "root", "place"),
    [
        ("folder:here", None, "here"),
        ("folder:root=a/b,size=8", None, "a/b"),
        ("folder:size=8,root=a", None, "a"),
        ("cifar100:faces", None, "faces"),
        ("cifar10", None, "data"),
        ("folder:here", "there", "there"),
        ("digits", None, None),
    ],
)
def test_every_way_to_name_a_folder_becomes_absolute(tmp_path, monkeypatch, data, root, place):
    monkeypatch.chdir(tmp_path)
    settings = config.parse({"data": data, "root": root}).resolve()
    assert settings.root == (tmp_path / place if place else None)
    monkeypatch.chdir("/")
    assert config.parse({"data": data, "root": settings.root}).resolve().root == settings.root


def test_a_flag_for_the_images_counts_more_than_the_folder_in_a_file(here, capsys):
    images(here / "second", seed=1)
    repeat = ["train", "--config", "run/config.yaml", "--out"]
    main([*repeat, "again", "--data", "folder:second"])
    assert runs.Run.open(here / "again").summary["train_digest"] == load("folder:second").train.digest()
    assert "root is given twice" in told(capsys, *repeat, "third", "--data", "folder:second", "--root", "base")


def test_runs_of_earlier_versions_are_compared_by_what_they_hold(here):
    run = runs.Run.open(here / "run")
    pins.check({"test_digest": run.summary["test_digest"]}, load("folder:base", train_size=4), here)
    pins.check({}, load("folder:base", train_size=4), here)
    with pytest.raises(UserError, match="other test images"):
        pins.check({"test_digest": run.summary["test_digest"]}, load("folder:base", test_size=4), here)


def test_a_checkpoint_without_digests_goes_on_only_in_its_own_folder(here):
    settings = config.parse({**VALUES, "data": "folder:base"}).resolve()
    saved = {"settings": config.dump(settings)}
    pins.check_checkpoint(saved, settings, load("folder:base"), here)
    moved = settings.model_copy(update={"root": here / "elsewhere"})
    with pytest.raises(UserError, match=r"begun with the images in .*base, now .*elsewhere"):
        pins.check_checkpoint(saved, moved, load("folder:base"), here)


@pytest.mark.parametrize("change", ["rare class", "copy of a test image", "copy in the training images"])
def test_a_run_of_before_whose_images_are_divided_otherwise_now_is_refused(tmp_path, change):
    """Some of what its network has learned from would now validate, or be the attacker's."""
    made = load("digits", train_size=200, test_size=60)
    before = pins.of(made)
    pins.check(before, made, tmp_path)  # equal classes are divided as ever
    train = Split(made.train.images.clone(), made.train.labels.clone())
    if change == "rare class":
        train = train.subset(torch.cat([(train.labels > 0).nonzero().flatten(), (train.labels == 0).nonzero()[:2, 0]]))
    else:
        train.images[0] = made.test.images[0] if change == "copy of a test image" else train.images[1]
    changed = dataclasses.replace(made, train=train)
    with pytest.raises(UserError, match="was trained by an earlier version, which divided images with rare classes"):
        pins.check(pins.of(changed), changed, tmp_path)
    pins.check(pins.of(changed) | pins.DIVISION, changed, tmp_path)


def edited(folder: Path, **changed: object) -> None:
    """Change settings in a run folder, as with an editor."""
    file = folder / "config.yaml"
    head = "".join(line + "\n" for line in file.read_text().splitlines() if line.startswith("#"))
    file.write_text(head + yaml.safe_dump(yaml.safe_load(file.read_text()) | changed))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"defense": [{"gaussian": {"sigma": 0.5}}]}, "defense was [], now [{'gaussian': {'sigma': 0.5}}]"),
        ({"seed": 3}, "seed was 0, now 3"),
    ],
)
def test_settings_that_were_changed_after_the_training_are_refused(here, capsys, changed, expected):
    """Other noise was attacked beside the accuracy of what was trained."""
    edited(here / "run", **changed)
    for command in (
        ("attack", "run", "--attack", "linear"),
        ("train", "--config", "run/config.yaml", "--out", "run", "--resume"),
    ):
        said = " ".join(told(capsys, *command).split())
        assert "config.yaml was changed since this run was trained" in said
        assert expected in said
    assert not (here / "run/attacks").exists()


def test_a_stopped_training_does_not_go_on_with_settings_that_were_changed(here, capsys):
    (here / "run/summary.json").unlink()
    edited(here / "run", label_smoothing=0.3)
    said = told(capsys, "train", "--config", "run/config.yaml", "--out", "run", "--resume")
    assert "label_smoothing was 0.0, now 0.3" in " ".join(said.split())


def test_a_setting_that_the_version_of_the_training_did_not_have_is_not_added(here, capsys):
    """A stopped training went on by it, and a finished one passed for one that it had."""
    path = here / "run/summary.json"
    summary = json.loads(path.read_text())
    del summary["settings"]["cutout"]
    path.write_text(json.dumps(summary))
    edited(here / "run", cutout=0)
    main(["attack", "run", "--attack", "linear"])
    edited(here / "run", cutout=3)
    said = told(capsys, "attack", "run", "--attack", "linear")
    assert "cutout was 0, now 3" in " ".join(said.split())


def test_where_images_are_may_be_changed_and_later_parameters_may_be_added(here):
    shutil.move(here / "base", here / "moved")
    settings = config.parse({"data": "digits", "defense": ["cem:4"]}).resolve()
    of_earlier_versions = {"data": "digits", "defense": [{"cem": {"weight": 4.0}}]}
    pinned_settings.check(of_earlier_versions, settings, here)
    for gone in ({"defense": [{"cem": {"weight": 4.0, "gone": 1}}]}, {"gone": 1}):
        with pytest.raises(UserError, match="gone"):
            pinned_settings.check(gone, settings, here)
    edited(here / "run", root=str(here / "moved"))
    main(["attack", "run", "--attack", "linear"])


def test_other_weights_do_not_pass_as_those_of_the_chosen_epoch(here, capsys):
    """Without its summary, a run whose training had ended took any weights that lay there, and wrote their digest."""
    weights, again = (
        here / "run/model.safetensors",
        ("train", "--config", "run/config.yaml", "--out", "run", "--resume"),
    )
    kept = weights.read_bytes()
    main(["train", "--data", "folder:base", *SMALL, "--protocol", "train_time", "--seed", "1", "--out", "other"])
    weights.write_bytes((here / "other/model.safetensors").read_bytes())
    (here / "run/summary.json").unlink()
    said = " ".join(told(capsys, *again).split())
    assert "model.safetensors holds other weights than those of the chosen epoch 1; put the file back" in said
    assert not (here / "run/summary.json").exists()
    weights.write_bytes(kept)
    main([*again])
    assert (here / "run/summary.json").exists()
    assert weights.read_bytes() == kept


def test_a_model_of_a_run_knows_how_it_was_trained(here):
    """`harden` and `save` from Python took the defaults of no training: without augmentation, for one."""
    settings = runs.Run.open(here / "run").settings
    model = sv.load(here / "run").model
    assert config.parse({"data": "folder:base", **model.trained_by}).resolve().lr == settings.lr
    assert (model.trained_by["batch_size"], model.trained_by["flip"]) == (8, True)
    sv.save(model, here / "again")
    saved = yaml.safe_load((here / "again/config.yaml").read_text())
    assert {name: saved[name] for name in model.trained_by} == model.trained_by
