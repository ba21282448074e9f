"""Frozen suites: the worst case image by image, what a suite leaves in the run folder, and how it goes on."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from networks import plain
from splitveil import config, runs
from splitveil.attacks.decoder import DecoderAttack
from splitveil.config import Spec
from splitveil.data import Access, load, protocol
from splitveil.errors import DivergedError, UserError
from splitveil.evaluation import evaluate, stage, suites
from splitveil.registry import Registry
from splitveil.runs import Run
from splitveil.runtime import Budget
from splitveil.statistics import intervals
from splitveil.training import trainer

IMAGES = load("digits", train_size=60, test_size=120)
TINY = ("linear:looks=2", "nearest:looks=2", "rmle:steps=2,tv=0.0,l2=0.0,start=linear,draws=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(runs.zoo, "build", plain)
    patch.setitem(suites.SUITES, "tiny-v1", suites.specs(*TINY))
    path = tmp_path_factory.mktemp("runs") / "run"
    values = {"data": "digits", "train_size": 60, "test_size": 120, "epochs": 1, "precision": "32-true", "seed": 3}
    trainer.fit(config.parse({**values, "defense": ["gaussian:0.05"]}), IMAGES, path)
    yield path
    patch.undo()


@pytest.fixture
def run(folder):
    return Run.open(folder)


def test_the_third_version_tells_the_linkage_beside_the_attacks(folder, tmp_path, monkeypatch):
    run = Run.open(shutil.copytree(folder, tmp_path / "run"))
    monkeypatch.setattr(suites, "LINKED", ("tiny-v1",))
    found = suites.run_suite(run, "tiny-v1", IMAGES, protocol_name="train_time", attacked=40)["linkage"]
    shares = {one["about"]: one["value"] for one in found if one["quantity"] == "success"}
    assert shares["the right photo among 10, chance 10 %"] > 0.95  # σ = 0.05 hides little
    assert all(one["images"] == 40 for one in found)
    monkeypatch.setattr(suites, "LINKED", ())
    assert "linkage" not in suites.run_suite(run, "tiny-v1", IMAGES, protocol_name="train_time", attacked=40)


# Pure functions


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), min_size=1, max_size=5))
def test_the_worst_case_is_exact(rows):
    per_image = {f"a{i}": torch.tensor(row) for i, row in enumerate(rows)}
    worst, won = suites.worst_case(per_image), suites.winners(per_image)
    assert worst.tolist() == [min(column) for column in zip(*[v.tolist() for v in per_image.values()], strict=True)]
    assert all(float(per_image[name][i]) == float(worst[i]) for i, name in enumerate(won))
    assert float(worst.mean()) <= min(float(v.mean()) for v in per_image.values()) + 1e-6


@pytest.mark.parametrize(
    ("per_image", "message"),
    [
        ({}, r"a worst case got errors of shapes \[\]"),
        ({"a": torch.zeros(2), "b": torch.zeros(3)}, r"shapes \[\(2,\), \(3,\)\]; expected one \(N,\)"),
        ({"a": torch.zeros(2), "b": torch.tensor([0.1, float("nan")])}, "got NaN from b; run it again"),
    ],
)
def test_bad_errors_are_refused(per_image, message):
    with pytest.raises(UserError, match=message):
        suites.worst_case(per_image)


def test_two_attacks_of_one_name():
    with pytest.raises(UserError, match="two attacks are called decoder; expected settings that differ by a word"):
        suites.labels(suites.specs("decoder:epochs=1", "decoder:epochs=2"))


# A run


def test_what_a_suite_leaves(run):
    summary = suites.run_suite(run, "tiny-v1", IMAGES)
    attacks = run.path / "attacks"
    assert sorted(p.name for p in attacks.iterdir()) == ["linear", "nearest", "rmle", "suite-tiny-v1.json"]
    assert json.loads((attacks / "suite-tiny-v1.json").read_text()) == summary
    columns = {}
    for name in ("linear", "nearest", "rmle"):
        with (attacks / name / "per_image.csv").open() as file:
            columns[name] = [float(row["mse"]) for row in csv.DictReader(file)]
        assert summary["attacks"][name]["mse"] == json.loads((attacks / name / "summary.json").read_text())["mse"]
    worst = [min(values) for values in zip(*columns.values(), strict=True)]
    assert summary["worst_case"]["mse"]["mean"] == pytest.approx(sum(worst) / 12, rel=1e-6)
    assert [columns[name][i] for i, name in enumerate(summary["winner"])] == worst
    assert summary["wins"] == {name: summary["winner"].count(name) for name in columns}
    assert sum(summary["wins"].values()) == 12
    assert summary["worst_case"]["ssim"]["mean"] >= max(a["ssim"]["mean"] for a in summary["attacks"].values())
    assert summary["skipped"] == {}
    assert summary["below_decoder"] is None


def test_a_superseded_suite_says_so(run, monkeypatch):
    assert "superseded_by" not in suites.run_suite(run, "tiny-v1", IMAGES)
    monkeypatch.setitem(suites.SUPERSEDED, "tiny-v1", "quick-v2")
    assert suites.run_suite(run, "tiny-v1", IMAGES)["superseded_by"] == "quick-v2"


@pytest.mark.parametrize("gone", ["summary.json", "per_image.csv"])
def test_a_suite_goes_on_where_it_stopped_or_lost_a_file(run, monkeypatch, gone):
    first = suites.run_suite(run, "tiny-v1", IMAGES)
    (run.path / "attacks" / "nearest" / gone).unlink()
    asked: list[str] = []
    real = evaluate.evaluate

    def spy(run, spec, *args, **options):
        asked.append(spec.name)
        return real(run, spec, *args, **options)

    monkeypatch.setattr(evaluate, "evaluate", spy)
    again = suites.run_suite(run, "tiny-v1", IMAGES)
    assert asked == ["nearest"]
    assert again["winner"] == first["winner"]
    assert again["worst_case"]["mse"]["mean"] == pytest.approx(first["worst_case"]["mse"]["mean"], rel=1e-6)
    changes: list[dict[str, Any]] = [{"seed": 1}, {"attacked": 6}]
    for changed in changes:
        asked.clear()
        suites.run_suite(run, "tiny-v1", IMAGES, **changed)
        assert asked == ["linear", "nearest", "rmle"]
    (run.path / "model.safetensors").touch()  # trained again
    asked.clear()
    suites.run_suite(run, "tiny-v1", IMAGES, attacked=6)
    assert asked == ["linear", "nearest", "rmle"]


def test_scores_of_another_classifier_are_not_read_back(run):
    class Judge:
        def __init__(self, epochs: int):
            self.about = {"epochs": epochs, "fingerprint": str(epochs)}

        def __call__(self, found, originals, labels):
            return torch.full((len(found),), float(self.about["epochs"] == 30))

    def recognized(epochs: int) -> float:
        found = suites.run_suite(run, "tiny-v1", IMAGES, extra={"reidentified": Judge(epochs)})
        return found["attacks"]["linear"]["reidentified"]["mean"]

    assert [recognized(epochs) for epochs in (3, 30, 30, 3)] == [0.0, 1.0, 1.0, 0.0]


def test_a_later_suite_reads_back_what_it_shares_with_an_earlier_one(run, monkeypatch):
    earlier = suites.run_suite(run, "tiny-v1", IMAGES)
    monkeypatch.setitem(suites.SUITES, "tiny-v2", suites.specs(*TINY, "residual:epochs=1,channels=8"))
    asked: list[str] = []
    real = evaluate.evaluate
    monkeypatch.setattr(
        evaluate, "evaluate", lambda run, spec, *a, **o: asked.append(spec.name) or real(run, spec, *a, **o)
    )
    later = suites.run_suite(run, "tiny-v2", IMAGES)
    assert asked == ["residual"]
    assert {label: later["attacks"][label] for label in earlier["attacks"]} == earlier["attacks"]
    suites.run_suite(run, "tiny-v1", IMAGES)  # the earlier one is still whole
    assert asked == ["residual"]


def test_an_attack_that_gained_parameters_is_not_run_again(run, monkeypatch):
    """What was run before a parameter existed is what its default gives; at another value it is another attack."""
    suites.run_suite(run, "tiny-v1", IMAGES)
    left = run.path / "attacks" / "rmle" / "summary.json"
    before = left.read_text()
    kept = json.loads(before)
    assert kept["attack"]["rmle"].pop("restarts") == 1
    asked: list[str] = []
    real = evaluate.evaluate
    monkeypatch.setattr(
        evaluate, "evaluate", lambda run, spec, *a, **o: asked.append(spec.name) or real(run, spec, *a, **o)
    )
    left.write_text(json.dumps(kept))
    assert suites.run_suite(run, "tiny-v1", IMAGES)["attacks"]["rmle"]["attack"]["rmle"]["restarts"] == 1
    assert asked == []
    kept["attack"]["rmle"]["restarts"] = 2
    left.write_text(json.dumps(kept))
    suites.run_suite(run, "tiny-v1", IMAGES)
    assert asked == ["rmle"]
    kept["attack"] = {"gone": {}}
    left.write_text(json.dumps(kept))
    suites.run_suite(run, "tiny-v1", IMAGES)
    assert asked == ["rmle", "rmle"]


def test_attacks_of_other_code_are_made_again(run, monkeypatch):
    """After a repair of an attack, or of what all of them know of a defense, the weaker figure stayed."""
    suites.run_suite(run, "tiny-v1", IMAGES)
    asked: list[str] = []
    real = evaluate.evaluate
    monkeypatch.setattr(
        evaluate, "evaluate", lambda run, spec, *a, **o: asked.append(spec.name) or real(run, spec, *a, **o)
    )
    monkeypatch.setattr(Registry("attacks").get("nearest"), "revision", 99)
    suites.run_suite(run, "tiny-v1", IMAGES)
    assert asked == ["nearest"]
    monkeypatch.setattr(stage, "SHARED", 99)
    suites.run_suite(run, "tiny-v1", IMAGES)
    assert asked == ["nearest", "linear", "nearest", "rmle"]
    left = run.path / "attacks" / "rmle" / "summary.json"
    kept = json.loads(left.read_text())
    assert kept.pop("revision") == [99, 1]
    left.write_text(json.dumps(kept))  # as earlier versions left it
    suites.run_suite(run, "tiny-v1", IMAGES)
    assert asked[4:] == ["rmle"]


def test_access_that_is_not_granted_is_named(run, monkeypatch):
    def query_only(*args, **options):
        return replace(protocol(*args, **options), grants=frozenset({Access.QUERY}))

    monkeypatch.setattr(stage, "protocol", query_only)
    summary = suites.run_suite(run, "tiny-v1", IMAGES, seed=5)
    assert list(summary["attacks"]) == ["linear", "nearest"]
    assert summary["skipped"] == {"rmle": "the protocol does not grant weights"}
    monkeypatch.setattr(
        stage, "protocol", lambda *a, **o: replace(protocol(*a, **o), grants=frozenset({Access.LABELS}))
    )
    refused = "no attack of tiny-v1 can be made under protocol inference_time: linear: the protocol does not grant que"
    with pytest.raises(UserError, match=refused):
        suites.run_suite(run, "tiny-v1", IMAGES, seed=5)


def test_flags_of_its_attacks_and_of_their_comparison(run, monkeypatch):
    truth = {"linear": 0.01, "nearest": 0.5, "rmle": 0.02}

    def scripted(run, spec, images, **options):
        generator = torch.Generator().manual_seed(0)
        mse = truth[spec.name] * (1 + 0.01 * torch.rand(12, generator=generator))
        values = {"mse": mse, "psnr": -10 * mse.log10(), "ssim": 1 - mse}
        summary = {key: intervals.bootstrap_ci(value).as_dict() for key, value in values.items()}
        flags = ["no better"] if spec.name == "nearest" else []
        summary |= {"attack": spec.resolve("attacks").model_dump(), "baseline_mse": 0.3, "flags": flags, "seconds": 1.0}
        picture = torch.zeros(12, 3, 32, 32, dtype=torch.uint8)
        return evaluate.Outcome({**summary, "images": {}}, values, {"mse": mse[:4]}, picture, picture)

    monkeypatch.setattr(evaluate, "evaluate", scripted)
    summary = suites.run_suite(run, "tiny-v1", IMAGES, seed=9)
    assert summary["flags"][0] == "nearest: no better"
    assert summary["flags"][1].startswith("linear, which sees the wire only, beats rmle")
    assert len(summary["flags"]) == 2
    assert summary["wins"] == {"linear": 12, "nearest": 0, "rmle": 0}


def test_a_network_at_chance_is_flagged_once_for_all_attacks(folder, tmp_path):
    run = Run.open(shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("attacks")))
    found = suites.run_suite(run, "tiny-v1", IMAGES, attacked=12)
    told = [flag.partition(":")[0] for flag in found["flags"] if "the network is not shown to be better" in flag]
    assert told == ["every attack"]


@pytest.mark.parametrize("broken", [("nearest",), ("linear", "nearest", "rmle")])
def test_a_suite_goes_on_without_an_attack_that_diverges(folder, tmp_path, monkeypatch, broken):
    def run_and_save(run, label, *args, **options):
        if label in broken:
            raise DivergedError(f"{label}: the error is nan in every epoch")
        return made(run, label, *args, **options)

    made = evaluate.run_and_save
    monkeypatch.setattr(evaluate, "run_and_save", run_and_save)
    run = Run.open(shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("attacks")))
    if len(broken) > 1:
        with pytest.raises(UserError, match="nearest: the error is nan"):
            suites.run_suite(run, "tiny-v1", IMAGES, attacked=12)
        return
    found = suites.run_suite(run, "tiny-v1", IMAGES, attacked=12)
    assert list(found["attacks"]) == ["linear", "rmle"]
    assert found["skipped"] == {"nearest": "nearest: the error is nan in every epoch"}
    assert "the training of nearest diverged, so the strongest attack may be missing" in found["flags"]


def test_the_distance_to_the_published_decoder():
    decoder, other = torch.tensor([0.3, 0.4, 0.5]), torch.tensor([0.4, 0.2, 0.4])
    values = {n: {"mse": v, "psnr": v, "ssim": v} for n, v in {"decoder": decoder, "linear": other}.items()}
    summaries = {n: {"attack": {n: {}}, "baseline_mse": 1, "images": {}, "flags": []} for n in values}
    for summary in summaries.values():
        summary |= {"mse": {}, "ssim": {}, "psnr": {}, "seconds": 0}
    summaries["linear"]["class_mean_mse"] = 0.7  # an earlier version made the other one
    combined = suites.combined(summaries, values, {n: {"mse": 1 - v["mse"]} for n, v in values.items()})
    assert combined["below_decoder"]["mean"] == pytest.approx(0.1)
    assert combined["class_mean_mse"] == 0.7
    assert "class_mean_mse" not in combined["attacks"]["linear"]
    assert combined["best_attacker"]["attack"] == "decoder"
    assert combined["best_attacker"]["mse"]["mean"] == pytest.approx(0.4)
    assert combined["worst_case"]["ssim"]["mean"] == pytest.approx((0.4 + 0.4 + 0.5) / 3)


def test_a_suite_trains_the_decoder_of_several_attacks_once(run, monkeypatch):
    decoder = "network=custom,batch_size=32,patience=4"
    specs = (
        f"decoder:steps=8,{decoder}",
        f"refine:steps=2,draws=1,tuning=2,start_steps=8,{decoder}",
        f"gan:steps=2,critic_steps=1,warm_steps=8,width=4,{decoder}",
    )
    monkeypatch.setitem(suites.SUITES, "shared-v1", suites.specs(*specs))
    trained = []
    real = DecoderAttack.learn
    monkeypatch.setattr(DecoderAttack, "learn", lambda self, *a: trained.append(1) or real(self, *a))
    found = suites.run_suite(run, "shared-v1", IMAGES)["attacks"]
    assert len(trained) == 1
    for label, spec in suites.named("shared-v1").items():
        assert found[label]["mse"] == evaluate.evaluate(run, spec, IMAGES).summary["mse"]
        assert ("shared_seconds" in found[label]) == (label != "decoder")


def test_an_unknown_suite(run):
    with pytest.raises(UserError, match="unknown suite 'standard-v9'; did you mean 'standard-v"):
        suites.run_suite(run, "standard-v9", IMAGES)


def test_an_attack_that_a_budget_cut_short_is_made_again(run):
    text = "decoder:epochs=3,network=custom,batch_size=32"
    spec, threat_model = Spec.model_validate(text), stage.ThreatModel()
    parts = stage.parts(run.settings, IMAGES, threat_model.protocol_name, None, None)
    evaluate.attack_run(run, spec, IMAGES, label="cut", budget=Budget(steps=5))
    assert suites.finished(run, "cut", spec, parts, threat_model) is None
    evaluate.attack_run(run, spec, IMAGES, label="cut")
    assert suites.finished(run, "cut", spec, parts, threat_model) is not None
