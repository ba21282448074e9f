"""A tail trained anew on the frozen wire: the accuracy that the wire allows, whatever became of the run's own tail."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from splitveil import runs
from splitveil.cli import main
from splitveil.data import Split, protocol
from splitveil.errors import UserError
from splitveil.evaluation import tail
from splitveil.model import SplitModel
from splitveil.training.trainer import correct
from training_helpers import IMAGES, fit

TRAIN = protocol("inference_time", IMAGES, seed=0).defender_train


@pytest.fixture
def run(tmp_path, small) -> runs.Run:
    fit(tmp_path / "run", epochs=2)
    return runs.Run.open(tmp_path / "run")


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def accuracy(model: SplitModel) -> float:
    return correct(model.eval(), IMAGES.test, torch.Generator().manual_seed(0)).float().mean().item()


@pytest.fixture
def longer(monkeypatch) -> None:
    """Fifty images give one step an epoch: as many steps as eight epochs of a real image set."""
    monkeypatch.setitem(tail.RECIPE, "epochs", 60)
    monkeypatch.setitem(tail.RECIPE, "batch_size", 16)
    monkeypatch.setitem(tail.RECIPE, "lr", 0.01)


def test_a_bad_tail_costs_accuracy_that_retraining_gives_back(run, longer):
    model = run.model(IMAGES)
    with torch.no_grad():
        model.tail[2].weight.neg_()
    before, rng = state(model), lambda: torch.Generator().manual_seed(3)
    pixels = torch.rand(4, 3, 32, 32)
    wire = model.encode(pixels, rng())
    found = tail.retrained(model, tail.initial_tail(run, IMAGES), TRAIN)
    assert accuracy(model) < 0.3
    assert accuracy(found) > 0.6
    assert same(before, state(model))
    assert torch.equal(found.encode(pixels, rng()), wire)
    assert same(state(model.encoder), state(found.encoder))
    assert not found.tail.training


def test_it_follows_from_the_seed_and_leaves_the_global_generators_alone(run):
    model, fresh = run.model(IMAGES), tail.initial_tail(run, IMAGES)
    torch.manual_seed(5)
    there = torch.get_rng_state()
    one, again, other = (state(tail.retrained(model, fresh, TRAIN, seed)) for seed in (0, 0, 1))
    assert same(one, again)
    assert not same(one, other)
    assert torch.equal(torch.get_rng_state(), there)


def test_every_batch_has_fresh_noise(run, monkeypatch):
    seen: list[torch.Tensor] = []
    draw = SplitModel.protect

    def kept(self: SplitModel, z: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        seen.append((wire := draw(self, z, rng))[0] - z[0])
        return wire

    monkeypatch.setattr(SplitModel, "protect", kept)
    tail.retrained(run.model(IMAGES), tail.initial_tail(run, IMAGES), TRAIN)
    assert len(seen) == 8
    assert all((one - other).abs().max() > 0.1 for one, other in pairwise(seen))


def test_it_begins_where_the_training_began(tmp_path, small):
    fit(tmp_path / "run", epochs=1, lr=1e-30, weight_decay=0.0, defense=("gaussian:0.1",))
    run = runs.Run.open(tmp_path / "run")
    trained, initial = (
        dict(part.named_parameters()) for part in (run.model(IMAGES).tail, tail.initial_tail(run, IMAGES))
    )
    assert all(torch.equal(trained[name], initial[name]) for name in initial)


def test_the_command_adds_it_to_the_summary_and_leaves_the_rest(run, capsys):
    files = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    main(["tail", str(run.path)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "test accuracy, tail retrained" in shown
    left = json.loads((run.path / "summary.json").read_text())
    found, about = left.pop("retrained_accuracy"), left.pop("retraining")
    assert left == run.summary
    assert {key: about[key] for key in tail.RECIPE} == tail.RECIPE
    rows = [row.split(",") for row in (run.path / tail.ANSWERS).read_text().splitlines()[1:]]
    assert found["mean"] == pytest.approx(sum(label == answer for _, label, answer in rows) / len(IMAGES.test))
    assert all(path.read_bytes() == before for path, before in files.items() if path.name != "summary.json")


def test_it_is_made_once_and_again_only_by_another_recipe(run, monkeypatch):
    summary, steps = tail.retrain(run, IMAGES), []
    progress = lambda *step: steps.append(step)  # noqa: E731
    assert tail.retrain(run, IMAGES, progress=progress) == summary
    assert not steps
    monkeypatch.setitem(tail.RECIPE, "epochs", 2)
    assert tail.retrain(run, IMAGES, progress=progress)["retraining"]["epochs"] == 2
    assert len(steps) == 2


def test_a_stopped_retraining_leaves_nothing(run):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = sorted(run.path.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        tail.retrain(run, IMAGES, progress=stop)
    assert sorted(run.path.rglob("*")) == before
    assert not tail.done(runs.Run.open(run.path).summary)


def test_a_wire_that_is_not_finite_is_said():
    parts: Callable[[], nn.Module] = lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 2))  # noqa: E731
    images = Split(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4) % 2)
    broken = SplitModel(nn.Threshold(9.0, float("nan")), parts())
    with pytest.raises(UserError, match="retraining the tail: the loss is not finite"):
        tail.retrained(broken, parts(), images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_waits_for_the_gpu(run):
    model = run.model(IMAGES).cuda()
    fresh = tail.initial_tail(run, IMAGES)
    tail.retrained(model, fresh, TRAIN)

    def watch(epoch: int, done: int, _: object) -> None:
        torch.cuda.set_sync_debug_mode("error" if done == 1 else "default")  # the whole second step

    tail.RECIPE["batch_size"], kept = 16, tail.RECIPE["batch_size"]
    try:
        tail.retrained(model, fresh, TRAIN, progress=watch)
    finally:
        tail.RECIPE["batch_size"] = kept
        torch.cuda.set_sync_debug_mode("default")
