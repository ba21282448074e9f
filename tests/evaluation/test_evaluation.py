"""An attack on a run: what it leaves, who gets which images, and when its figures are not to be trusted."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluated import IMAGES
from splitveil import config, metrics
from splitveil.attacks.base import Attack, Victim
from splitveil.config import Spec
from splitveil.data import Access, protocol, to_float
from splitveil.errors import AccessError, UserError
from splitveil.evaluation import evaluate, reliability, scores, stage
from splitveil.evaluation.interception import hold_out
from splitveil.pictures import load_shown, spread
from splitveil.runs import Run
from splitveil.statistics.intervals import binomial_ci, bootstrap_ci


@pytest.fixture
def untrained(evaluated_folder):
    """A run of one epoch on 60 images, which is at chance."""
    return Run.open(evaluated_folder)


@pytest.fixture
def run(untrained):
    """The same, told to have learned: what is tested does not depend on its accuracy."""
    return replace(untrained, summary=untrained.summary | {"accuracy": binomial_ci(90, 120).as_dict()})


def attack(run: Run, text: str = "linear", **options: Any) -> dict[str, Any]:
    return evaluate.attack_run(run, Spec.model_validate(text), IMAGES, **options)


class Fixed(Attack):
    """Answers what the test tells it to."""

    needs: ClassVar = frozenset({Access.QUERY})
    answer: ClassVar[Any] = None

    def fit(self, victim: Victim, images, rng, runtime=None) -> None:
        self.victim, self.images = victim, images

    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        return type(self).answer(self, wire, y)


@pytest.fixture
def scripted(monkeypatch):
    """An attack called "linear" that gives these answers."""

    def use(answer, needs=frozenset({Access.QUERY})):
        kind = type("Scripted", (Fixed,), {"answer": staticmethod(answer), "needs": needs})
        real = config.Spec.make
        monkeypatch.setattr(config.Spec, "make", lambda spec, of: kind() if of == "attacks" else real(spec, of))

    return use


def test_the_folder_and_the_summary(run):
    summary = attack(run)
    left = run.path / "attacks" / "linear"
    assert sorted(p.name for p in left.iterdir()) == [
        "held_out.csv",
        "per_image.csv",
        "reconstructions.npz",
        "reconstructions.png",
        "summary.json",
    ]
    assert json.loads((left / "summary.json").read_text()) == summary
    assert summary["attack"] == {"linear": {"looks": 4}}
    assert summary["protocol"] == "inference_time"
    assert summary["images"] == {"attacker": 108, "attacked": 12}
    assert summary["flags"] == []
    assert summary["seconds"] > 0
    assert summary["mse"]["mean"] < summary["baseline_mse"]
    rows = list(csv.DictReader((left / "per_image.csv").open()))
    assert [row["image"] for row in rows] == [str(i) for i in range(12)]
    for name in ("mse", "psnr", "ssim"):
        values = [float(row[name]) for row in rows]
        assert sum(values) / 12 == pytest.approx(summary[name]["mean"], rel=1e-5)
        assert summary[name]["ci95"][0] <= summary[name]["mean"] <= summary[name]["ci95"][1]
    assert (left / "reconstructions.png").read_bytes()[1:4] == b"PNG"
    shown = load_shown(left / "reconstructions.npz", 12, "")
    assert shown.places.tolist() == spread(12, 10).tolist()
    assert {0, 11} <= {*shown.places}
    assert shown.originals.shape == shown.reconstructions.shape == (10, 3, 32, 32)
    errors = np.square((shown.reconstructions / 255.0) - shown.originals / 255.0).mean((1, 2, 3))
    assert errors == pytest.approx([float(rows[place]["mse"]) for place in shown.places], rel=0.02)  # rounded to bytes


def test_an_attack_that_is_replaced_is_gone_before_its_first_file_is(run, monkeypatch):
    """The figures per image of one attack must never stand beside the summary of another."""
    attack(run)

    def full(*_: Any) -> None:
        raise UserError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "write_text", full)
        with pytest.raises(UserError, match="full"):
            attack(run, "linear:looks=1")
    assert not (run.path / "attacks" / "linear" / "summary.json").exists()
    assert attack(run)["attack"] == {"linear": {"looks": 4}}


def test_the_same_seed_gives_the_same_figures(run):
    first, second, other = attack(run), attack(run), attack(run, seed=1)
    assert first["mse"] == second["mse"]
    assert first["mse"] != other["mse"]
    assert first["baseline_mse"] == other["baseline_mse"]  # the seed of the attack does not change the images


@pytest.mark.parametrize(("metric", "least", "most"), [("mse", 0, math.inf), ("ssim", -1, 1), ("ssim_zero", -1, 1)])
def test_the_interval_of_two_images_ends_within_what_is_possible(metric, least, most):
    found = scores.interval(torch.tensor([0.01, 0.99]), metric)
    free = bootstrap_ci([0.01, 0.99])
    assert (found.lo, found.hi) == pytest.approx((max(least, free.lo), min(most, free.hi)))
    assert (free.lo < -1, free.hi > 1) == (True, True)


def test_scores_are_those_of_the_attackers_images(run, scripted):
    parts = protocol("inference_time", IMAGES, seed=3)
    held, own = hold_out(parts.attacker_train, 3)
    truth = to_float(held.joined(parts.attacker_test).images)

    def off_by_a_tenth(self, wire, y):
        assert torch.equal(self.images.images, own.images)
        return torch.where(truth < 0.5, truth + 0.1, truth - 0.1)

    scripted(off_by_a_tenth)
    summary = attack(run)
    assert summary["mse"]["mean"] == pytest.approx(0.01, rel=1e-4)
    assert summary["psnr"]["mean"] == pytest.approx(20, rel=1e-4)


def test_baseline_is_the_error_of_the_mean_training_image(run):
    parts = protocol("train_time", IMAGES, seed=3)
    mean = to_float(parts.attacker_train.images).mean(0).expand(len(parts.attacker_test), -1, -1, -1)
    expected = float(metrics.mse(mean, to_float(parts.attacker_test.images)).mean())
    summary = attack(run, protocol_name="train_time")
    assert summary["baseline_mse"] == pytest.approx(expected, rel=1e-5)
    assert summary["images"] == {"attacker": 54, "attacked": 120}


def test_the_ceiling_is_the_error_of_the_mean_image_of_the_true_class(run):
    parts = protocol("inference_time", IMAGES, seed=3)
    own, asked = parts.attacker_train, parts.attacker_test
    means = torch.stack([to_float(own.images[own.labels == label]).mean(0) for label in asked.labels])
    expected = metrics.mse(means, to_float(asked.images))
    summary = attack(run)
    assert summary["class_mean_mse"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert summary["class_mean_mse"] < summary["baseline_mse"]
    rows = csv.DictReader((run.path / "attacks" / "linear" / "per_image.csv").open())
    assert [float(row["class_mean_mse"]) for row in rows] == pytest.approx(expected.tolist(), rel=1e-5)


def test_attacks_under_two_protocols_do_not_overwrite_each_other(run):
    own, other = attack(run), attack(run, protocol_name="train_time")
    left = [
        json.loads((run.path / "attacks" / name / "summary.json").read_text())
        for name in ("linear", "linear@train_time")
    ]
    assert [summary["protocol"] for summary in left] == ["inference_time", "train_time"]
    assert [summary["mse"] for summary in left] == [own["mse"], other["mse"]]


def test_a_network_at_chance_is_flagged_first_whatever_the_attack(untrained, scripted):
    (flag,) = attack(untrained)["flags"]
    assert flag.startswith("the network is not shown to be better than chance on its 120 test images (accuracy 10.0% [")
    scripted(lambda self, wire, y: torch.ones(len(wire), 3, 32, 32))
    first, second = attack(untrained)["flags"]
    assert (first, second.partition(":")[0]) == (flag, "the attack does no better than the mean training image")
    unknown = replace(untrained, summary=untrained.summary | {"accuracy": None})
    assert attack(unknown)["flags"] == [second]


def test_offsets_that_attacks_cannot_tell_are_flagged(run, monkeypatch):
    monkeypatch.setattr(reliability, "of_law", lambda model, victim, images: [f"of {len(images)} images"])
    assert attack(run)["flags"] == ["of 12 images"]


def test_an_attack_no_better_than_the_mean_image_is_flagged(run, scripted):
    scripted(lambda self, wire, y: torch.ones(len(wire), 3, 32, 32))
    summary = attack(run)
    assert len(summary["flags"]) == 1
    assert "no better than the mean training image" in summary["flags"][0]
    assert reliability.no_better_than_the_mean(torch.tensor([0.1, 0.3]), torch.tensor([0.2, 0.4])) == []
    assert reliability.no_better_than_the_mean(torch.tensor([0.1, 0.3]), torch.tensor([0.2, 0.2])) != []


def test_an_attack_that_does_not_beat_the_linear_one_is_flagged(run):
    short = attack(run, "decoder:epochs=1,network=custom,batch_size=32")
    assert any("mean training image" in flag or "does not beat the linear one" in flag for flag in short["flags"])
    assert attack(run, "nearest")["flags"] == []  # its answers are not made for squared error
    assert attack(run)["linear_mse"] == pytest.approx(attack(run)["mse"]["mean"], rel=0.5)


def test_a_perfect_reconstruction_is_a_result_and_no_crash(run, scripted):
    parts = protocol("inference_time", IMAGES, seed=3)
    truth = to_float(hold_out(parts.attacker_train, 3)[0].joined(parts.attacker_test).images)
    scripted(lambda self, wire, y: truth)
    summary = attack(run)
    assert summary["mse"]["mean"] == 0
    assert summary["psnr"]["mean"] == scores.PSNR_LIMIT


def test_labels_are_given_only_to_attacks_that_need_them(run, scripted):
    seen = []

    def answer(self, wire, y):
        seen.append(y)
        return torch.zeros(len(wire), 3, 32, 32)

    scripted(answer)
    attack(run)
    scripted(answer, needs=frozenset({Access.QUERY, Access.LABELS}))
    attack(run)
    assert seen[0] is None
    assert torch.equal(seen[1][-12:], protocol("inference_time", IMAGES, seed=3).attacker_test.labels)


def test_access_that_the_protocol_does_not_grant(run, monkeypatch):
    def without_queries(*args, **options):
        return replace(protocol(*args, **options), grants=frozenset({Access.WEIGHTS}))

    monkeypatch.setattr(stage, "protocol", without_queries)
    with pytest.raises(AccessError, match="needs query; the protocol grants weights"):
        attack(run)


def test_sizes(run):
    assert attack(run, attacker_size=20, attacked=5)["images"] == {"attacker": 20, "attacked": 5}
    with pytest.raises(UserError, match="attacker size is 109; expected 2 to 108, which protocol inference_time has"):
        attack(run, attacker_size=109)
    with pytest.raises(UserError, match="attacker test size 13: protocol inference_time has 12 images"):
        attack(run, attacked=13)


def test_one_attacked_image_is_refused_before_the_attack_is_trained(run, scripted):
    def answer(self, wire, y):
        raise AssertionError("too late")

    scripted(answer)
    with pytest.raises(UserError, match="attacked is 1; expected at least 2"):
        attack(run, attacked=1)


def test_the_attackers_half_must_have_been_kept_from_the_defender(run):
    with pytest.raises(UserError, match=r"trained under protocol inference_time.*--protocol auxiliary"):
        attack(run, protocol_name="auxiliary")


def test_wrong_names_write_nothing(run):
    for text in ("decodr", "linear:look=3"):
        with pytest.raises(UserError, match="did you mean"):
            attack(run, text)
    with pytest.raises(UserError, match="unknown protocol"):
        attack(run, protocol_name="test_time")
    assert not (run.path / "attacks" / "decodr").exists()


def test_the_wire_is_crossed_with_the_defense(run, scripted):
    """What is attacked is what the model sends: encoder, then noise of σ = 0.05, drawn for every image."""
    seen = []

    def answer(self, wire, y):
        seen.append(wire)
        return torch.zeros(len(wire), 3, 32, 32)

    scripted(answer)
    attack(run)
    clean = run.model(IMAGES).features(to_float(protocol("inference_time", IMAGES, seed=3).attacker_test.images))
    noise = seen[0][-12:] - clean.detach()  # after the attacker's own images that judge the attack
    assert float(noise.std()) == pytest.approx(0.05, rel=0.1)
    assert float(noise.flatten(1).corrcoef().tril(-1).abs().max()) < 0.3


def test_the_randomness_of_an_attack_follows_from_the_seed_of_the_run(run):
    other = replace(run, settings=run.settings.model_copy(update={"seed": 4}))
    spec = Spec.model_validate("linear")
    states = [
        stage.set_up(one, spec, IMAGES, stage.ThreatModel(seed=seed)).rng.get_state()
        for one, seed in ((run, 0), (run, 0), (other, 0), (run, 1))
    ]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert not torch.equal(states[0], states[3])


def test_an_attack_that_takes_all_looks_is_scored_as_any_other(run):
    every = attack(run, "refine:steps=3,start=mean,weight=1", observed=3)
    one = attack(run, "linear", observed=3)
    assert every["observed"] == one["observed"] == 3
    assert every["linear_mse"] == one["linear_mse"]
    assert every["mse"]["mean"] < every["baseline_mse"]
    assert every["wire_distance"]["mean"] > 0
