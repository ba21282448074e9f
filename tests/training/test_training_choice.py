"""The training loop: which epoch it keeps, its rates and batches, and training with several processes."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from safetensors.torch import load_file
from torch import nn
from torch.multiprocessing.spawn import ProcessRaisedException

from splitveil import config, recipe, runs
from splitveil.data import load, protocol
from splitveil.defenses.base import Defense, Stack
from splitveil.errors import UserError
from splitveil.randomness import stream
from splitveil.runs import Run
from splitveil.training import fabric, feature_buffer, loop
from splitveil.training import trainer as training
from training_helpers import IMAGES, fit, records, settings

JOB = {
    **{"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_PROCID": "0"},
    **{"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "localhost", "RANK": "1", "LOCAL_RANK": "1"},
    **{"WORLD_SIZE": "2", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1"},
}
"""Variables of Slurm and of torchrun."""

# Which epoch


def scripted(monkeypatch, accuracies: list[float]) -> None:
    """Validation answers with these accuracies, epoch by epoch; the test images are scored as they are."""
    answers, real = iter(accuracies), loop.correct

    def correct(model, split, rng):
        if len(split) == len(IMAGES.test):
            return real(model, split, rng)
        hits = torch.zeros(100, dtype=torch.bool)
        hits[: round(100 * next(answers))] = True
        return hits

    monkeypatch.setattr(loop, "correct", correct)


@pytest.mark.parametrize(("accuracies", "best"), [([0.1, 0.9, 0.3], 1), ([0.5, 0.5, 0.2], 1), ([0.9, 0.6, 0.5], 1)])
def test_validation_chooses_the_epoch(tmp_path, small, monkeypatch, accuracies, best):
    """Never epoch 0 here: CEM has no clusters in it, so its weights are not defended."""
    seen = {}
    real = training.Trainer._checkpoint

    def spy(trainer):
        seen[trainer.state.epoch - 1] = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        real(trainer)

    monkeypatch.setattr(training.Trainer, "_checkpoint", spy)
    scripted(monkeypatch, accuracies)
    summary = fit(tmp_path)
    assert summary["epoch"] == best
    assert summary["accuracy_val"] == pytest.approx(accuracies[best])
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == seen[best].keys()
    assert all(torch.equal(value, seen[best][name]) for name, value in saved.items())
    assert not torch.equal(saved["encoder.0.weight"], seen[2]["encoder.0.weight"])  # the last is never the best here


@pytest.mark.parametrize("accuracies", [[0.1, 0.5, 0.5], [0.9, 0.5, 0.5]])
def test_of_equal_epochs_the_later_is_kept(tmp_path, small, monkeypatch, accuracies):
    """It has had more of the defense."""
    scripted(monkeypatch, accuracies)
    assert fit(tmp_path)["epoch"] == 2


def test_the_test_images_choose_nothing(tmp_path, small):
    fit(tmp_path / "a")
    swapped = replace(IMAGES, test=IMAGES.test.subset(torch.arange(len(IMAGES.test)).flip(0)[:12]))
    training.fit(settings(), swapped, tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert records(tmp_path / "a")[-1]["accuracy_val"] == records(tmp_path / "b")[-1]["accuracy_val"]


class Halving(Defense):
    """Replaces a layer after the first epoch."""

    def restructure(self, epoch: int, model: Any) -> bool:
        if epoch != 0:
            return False
        model.tail[-1] = nn.Linear(256, 10)
        nn.init.constant_(model.tail[-1].bias, 7.0)
        return True


def test_a_restructured_network_is_validated_and_trained_as_it_then_is(tmp_path, small, monkeypatch):
    monkeypatch.setattr(runs, "Stack", lambda *_: Stack(Halving()))
    validated, real = [], loop.correct

    def spy(model, split, rng):
        validated.append(model.tail[-1].bias.detach().clone())
        return real(model, split, rng)

    monkeypatch.setattr(loop, "correct", spy)
    fit(tmp_path, defense=())
    assert torch.equal(validated[0], torch.full((10,), 7.0))  # not the network of before
    assert not torch.equal(validated[1], validated[0])  # the new layer is in the optimizer


def test_no_epoch_before_a_restructuring_is_chosen(tmp_path, small, monkeypatch):
    class Late(Halving):
        def restructure(self, epoch: int, model: Any) -> bool:
            return super().restructure(epoch - 1, model)

    monkeypatch.setattr(runs, "Stack", lambda *_: Stack(Late()))
    scripted(monkeypatch, [0.9, 0.2, 0.1])  # the best accuracy is that of a network that is no more
    assert fit(tmp_path, defense=())["epoch"] == 1


# Learning rate and batches


def test_the_published_learning_rates():
    s = config.parse({"data": "digits"})
    rates = [recipe.learning_rate(s, (epoch + 0.5) / 240) for epoch in range(240)]
    assert rates[0] == pytest.approx(0.025)
    steps = [0.05] * 59 + [0.01] * 60 + [0.002] * 60 + [4e-4] * 30 + [8e-5] * 30
    assert rates[1:] == pytest.approx(steps)


@pytest.mark.parametrize(("epochs", "warmup", "lr"), [(1, 0.5, 0.1), (2, 1, 0.2), (24, 1, 0.2)])
def test_the_fast_recipe_warms_up_for_at_most_half_of_a_training_and_no_steeper(epochs, warmup, lr):
    """With one of one epoch the rate rose to its peak at the last step and never fell."""
    s = config.parse({"data": "digits", "recipe": "fast", "epochs": epochs})
    assert (s.warmup_epochs, s.lr) == pytest.approx((warmup, lr))
    assert recipe.learning_rate(s, 0.999) < 0.01 * s.lr
    assert config.parse({"data": "digits", "recipe": "fast", "epochs": 3, "warmup_epochs": 2}).warmup_epochs == 2


@given(st.integers(1, 30), st.floats(0, 5, allow_subnormal=False), st.floats(0, 0.999))
def test_learning_rate_stays_below_its_peak_and_warms_up_linearly(epochs, warmup, progress):
    s = config.parse({"data": "digits", "epochs": epochs, "warmup_epochs": warmup, "milestones": ()})
    rate = recipe.learning_rate(s, progress)
    assert 0 <= rate <= s.lr
    expected = s.lr if progress * epochs >= warmup else s.lr * progress * epochs / warmup
    assert rate == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(st.integers(2, 300), st.integers(2, 40), st.integers(1, 4), st.integers(0, 9))
@hypothesis_settings(deadline=None)
def test_batches_are_a_permutation_without_tiny_ones(count, size, ranks, seed):
    plan = recipe.batches(count, size, torch.Generator().manual_seed(seed), smallest=2 * ranks)
    assert torch.equal(torch.cat(plan).sort().values, torch.arange(count))
    assert all(len(part) >= min(2 * ranks, size, count) for part in plan)
    assert all(len(part) == size for part in plan[:-1])
    assert len(plan[-1]) < size + 2 * ranks
    again = recipe.batches(count, size, torch.Generator().manual_seed(seed), smallest=2 * ranks)
    assert all(torch.equal(a, b) for a, b in zip(plan, again, strict=True))


def test_generators_of_different_purposes_differ():
    parts = [(0, 1, 0, 0), (0, 2, 0, 0), (0, 1, 1, 0), (0, 1, 0, 1), (1, 1, 0, 0)]
    draws = {tuple(torch.rand(4, generator=stream("cpu", *p)).tolist()) for p in parts}
    assert len(draws) == len(parts)


# Several processes


@pytest.fixture
def fresh_processes(monkeypatch):
    """Processes that have nothing of this one but what is sent to them, as spawned ones, and import torch once."""
    multiprocessing.set_forkserver_preload(["tiny_zoo"])

    def strategy(start_method: str) -> DDPStrategy:
        assert start_method == "spawn"
        return DDPStrategy(start_method="forkserver")

    monkeypatch.setattr(fabric, "DDPStrategy", strategy)


def test_two_processes_share_the_data_and_its_statistics(tmp_path, monkeypatch, fresh_processes, small):
    for name, value in JOB.items():  # inside a job of a scheduler it is one training too
        monkeypatch.setenv(name, value)
    # 51 images in batches of 16: the last three are too few for two processes and join the batch before.
    images = load("digits", train_size=57, test_size=20)
    summary = training.fit(settings(epochs=2, devices=2, train_size=57), images, tmp_path / "run")
    weights = load_file(tmp_path / "run" / "model.safetensors")
    counts = weights["defense.parts.1.counts"]
    expected = torch.bincount(protocol("inference_time", images, seed=0).defender_train.labels, minlength=10)
    assert torch.equal(counts.sum(1).long(), expected)
    assert int(counts.sum()) == 51
    assert [r["epoch"] for r in records(tmp_path / "run")] == [0, 1]
    assert Run.open(tmp_path / "run").summary == summary


def test_what_a_process_refuses_is_one_line_too(tmp_path, monkeypatch):
    text = "\n\n-- Process 1 terminated with the following error:\nTraceback (most recent call last):\n  File ...\n"

    def launch(last_line):
        def fail(*_):
            raise ProcessRaisedException(text + last_line, 1, 4711)

        monkeypatch.setattr(fabric.Fabric, "launch", fail)

    launch("splitveil.errors.UserError: the loss is nan in epoch 0; lower --lr\n")
    with pytest.raises(UserError, match=r"^the loss is nan in epoch 0; lower --lr$"):
        fit(tmp_path / "run", devices=2)
    launch("ValueError: a bug\n")
    with pytest.raises(ProcessRaisedException, match="a bug"):
        fit(tmp_path / "run", devices=2)


def test_a_batch_without_two_images_for_each_process_is_refused(tmp_path, small):
    with pytest.raises(UserError, match=r"batch size 16 is too small for --devices 9; expected at least 18"):
        fit(tmp_path / "run", devices=9)


# Memory


@pytest.mark.parametrize("refit", ["epoch", "pass"])
def test_a_wire_too_wide_for_the_memory_keeps_all_classes(tmp_path, small, monkeypatch, refit):
    monkeypatch.setattr(feature_buffer, "FEATURE_BYTES", 4 * 256 * 40)  # room for 40 of 54 images
    by_class = replace(IMAGES, train=IMAGES.train.subset(IMAGES.train.labels.argsort(stable=True)))
    training.fit(settings(epochs=2, defense=("gaussian:0.1", f"cem:refit={refit}")), by_class, tmp_path / refit)
    counts = load_file(tmp_path / refit / "model.safetensors")["defense.parts.1.counts"].sum(1)
    assert int(counts.sum()) == 40
    assert (counts > 0).all()


@pytest.mark.parametrize(
    ("defense", "epoch", "epochs"), [("cem:16", 2, 1), ("cem:0.1", 2, 1), ("adversarial:pretrain=2", 3, 2)]
)
def test_a_training_in_which_a_defence_never_acts_is_refused(tmp_path, small, defense, epoch, epochs):
    name = defense.partition(":")[0]
    with pytest.raises(UserError, match=f"^{name} acts from epoch {epoch} on, but the training has {epochs};"):
        fit(tmp_path / "run", epochs=epochs, defense=("gaussian:0.1", defense))
    assert not (tmp_path / "run").exists()


def test_cem_that_only_measures_may_train_one_epoch(tmp_path, small):
    fit(tmp_path / "run", epochs=1, defense=("gaussian:0.1", "cem:0"))


def test_no_epoch_is_chosen_before_every_defence_acts():
    late, early = Defense(), Defense()
    late.acts_after = 3
    assert loop.settled(Stack()) == 0
    assert loop.settled(Stack(early)) == 0
    assert loop.settled(Stack(late)) == 3


def test_steps_are_those_of_sgd_with_momentum_and_decay(tmp_path, small):
    """v ← 0.9 v + g + 5e-4 p, p ← p − rate · v, by hand from the gradients that the steps leave."""
    chosen = settings(lr=0.3, momentum=0.9, weight_decay=5e-4, warmup_epochs=0, defense=("gaussian:0.1",))
    made = training.Trainer(chosen.resolve(), IMAGES, tmp_path, Fabric(accelerator="cpu", devices=1))
    made.forward.train()
    parameters = list(made.model.parameters())
    expected = [p.detach().clone() for p in parameters]
    velocity = [torch.zeros_like(p) for p in parameters]
    for number in range(3):
        made._step(torch.arange(16), torch.Generator().manual_seed(number), 0.0, None)
        for p, e, v in zip(parameters, expected, velocity, strict=True):
            assert p.grad is not None
            v.mul_(0.9).add_(p.grad + 5e-4 * e)
            e.sub_(0.3 * v)
            torch.testing.assert_close(p.detach(), e)


@pytest.mark.parametrize("side", [32, 50])
def test_a_square_that_hides_whole_images_is_refused(tmp_path, small, side):
    with pytest.raises(UserError, match=f"cutout is {side}; expected less than the 32 pixels of the images' side"):
        fit(tmp_path, cutout=side)
    fit(tmp_path, cutout=31)


def test_images_are_augmented_as_the_settings_say(tmp_path, small, monkeypatch):
    asked, real = [], loop.augment

    def spy(images, rng, **how):
        asked.append(how)
        return real(images, rng, **how)

    monkeypatch.setattr(loop, "augment", spy)
    fit(tmp_path, epochs=2, crop_padding=3, flip=True, rotate=7.0, cutout=2)
    assert len(asked) == 2 * -(-54 // 16)
    expected = {"crop_padding": 3, "flip": True, "rotate_degrees": 7.0, "cutout": 2, "mirror": None}
    assert all(how == expected for how in asked)
