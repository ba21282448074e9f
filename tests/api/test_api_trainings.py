"""Trainings through the front door beside what surrounds them: schedulers, augmentation, shared defenses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import splitveil as sv
from splitveil import api
from splitveil.data import load, to_float
from splitveil.errors import UserError
from splitveil.model import SplitModel

DIGITS = load("digits", train_size=200, test_size=100)
X, Y = to_float(DIGITS.train.images), DIGITS.train.labels


def defended() -> SplitModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = [nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.Sigmoid()]
        network = nn.Sequential(*first, nn.Flatten(), nn.Linear(512, 10))
    return api.split(network, at="2", example=X[:1])


@pytest.mark.parametrize("launcher", [{"SLURM_NTASKS": "2"}, {"SLURM_NTASKS": "1", "SLURM_NODEID": "x"}])
def test_a_scheduler_around_a_training_is_not_asked(monkeypatch, launcher):
    whole = {"JOB_ID": "1", "JOB_NAME": "train", "NNODES": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in ({f"SLURM_{key}": value for key, value in whole.items()} | launcher).items():
        monkeypatch.setenv(name, value)
    assert len(api.fit(defended(), (X[:20], Y[:20]), epochs=1, batch_size=10, progress=False)) == 1


def test_the_tail_of_a_hardened_model_learns_from_images_moved_as_in_the_training(monkeypatch):
    made: list[Any] = []

    def run(self):
        made.append(self)
        raise UserError("seen")

    monkeypatch.setattr(api.Hardening, "run", run)
    model = defended()
    for known, augmentation in (
        ({}, {"crop_padding": 0, "flip": False, "rotate_degrees": 0.0, "cutout": 0}),
        (
            {"crop_padding": 4, "flip": True, "rotate": 14.0, "cutout": 3, "precision": "bf16-mixed"},
            {"crop_padding": 4, "flip": True, "rotate_degrees": 14.0, "cutout": 3},
        ),
    ):
        model.trained_by = known
        with pytest.raises(UserError, match="seen"):
            api.harden(model, (X, Y))
        assert made[-1].augmentation == augmentation
    assert made[-1].bf16
    with pytest.raises(UserError, match="max_drop is '1'; expected points of accuracy, a number"):
        api.harden(model, (X, Y), max_drop="1")  # type: ignore[arg-type]


@pytest.mark.parametrize("one", [False, True])
def test_defenses_that_are_given_to_two_models_learn_in_each_for_itself(one):
    """The codes of the first model changed when the second was trained, and its accuracy fell to a half."""
    shared: Any = sv.PCA(3) if one else [sv.SparseCoding(), sv.PCA(3), sv.Gaussian(0.1), sv.CEM(4)]
    x, y = torch.rand(60, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3

    def trained(seed: int, defenses: Any) -> tuple[sv.SplitModel, list[dict[str, Any]]]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(36, 3))
            model = sv.split(network, at="1", example=x[:1], defenses=defenses)
        return model, sv.fit(model, (x, y), epochs=2, batch_size=20, progress=False)

    first, _ = trained(0, shared)
    before = {name: value.clone() for name, value in first.state_dict().items() if torch.is_tensor(value)}
    _, again = trained(1, shared)
    now = first.state_dict()
    assert all(torch.equal(now[name], value) for name, value in before.items())
    own: Any = sv.PCA(3) if one else [sv.SparseCoding(), sv.PCA(3), sv.Gaussian(0.1), sv.CEM(4)]
    _, alone = trained(1, own)
    assert [epoch["losses"] for epoch in again] == [epoch["losses"] for epoch in alone]
