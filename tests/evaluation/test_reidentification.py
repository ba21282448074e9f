"""The judge: what it is trained on, that it is kept and found again, and what it says of images."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from networks import tiny
from splitveil import runs, zoo
from splitveil.config import Spec
from splitveil.data import Split, load, protocol, to_float
from splitveil.errors import UserError
from splitveil.evaluation import evaluate, reidentification
from splitveil.evaluation.reidentification import FILE, Judge, fingerprint, independent_of, judge_for
from splitveil.runs import Run
from splitveil.training import trainer
from training_helpers import IMAGES, fit, settings

DIGITS = load("digits", train_size=600, test_size=100)


@pytest.fixture(scope="module")
def judge():
    patch = pytest.MonkeyPatch()
    patch.setattr(runs.zoo, "build", tiny)
    yield Judge.train(DIGITS, seed=5, epochs=8)
    patch.undo()


@pytest.fixture
def trained(monkeypatch) -> list[dict[str, Any]]:
    """Every training that is started: its settings, images and the folder."""
    real, calls = trainer.fit, []

    def spy(settings, images, out, **options):
        calls.append({"settings": settings, "images": images, "out": out, **options})
        return real(settings, images, out, **options)

    monkeypatch.setattr(trainer, "fit", spy)
    return calls


def test_a_few_images_still_make_a_judge_by_the_fast_recipe(monkeypatch, trained):
    """Batches of 512 made a dozen steps of 500 images, and a judge at chance: every wire looked as if it hid all."""
    monkeypatch.setattr(runs.zoo, "build", tiny)
    judge = Judge.train(DIGITS, epochs=12, recipe="fast")
    (call,) = trained
    assert (call["settings"].batch_size, call["settings"].lr) == (32, 0.2 / 16)
    assert judge.about["accuracy"]["mean"] > 0.7


def test_enough_images_keep_the_batches_of_the_recipe():
    many = replace(DIGITS, train=DIGITS.train.subset(torch.arange(600).repeat(30)))
    plain = fingerprint(many, 1, arch="resnet20", epochs=12, recipe="fast")
    assert reidentification._batches(many, 12, "fast") == {}
    assert reidentification._batches(DIGITS, 12, "published") == {}
    assert plain != fingerprint(many, 1, arch="resnet20", epochs=2, recipe="fast")


def test_a_judge_whose_rate_only_rose_is_not_taken_from_the_cache():
    labels = [split.labels.numpy().tobytes() for split in (DIGITS.train, DIGITS.test)]
    many = replace(DIGITS, train=DIGITS.train.subset(torch.arange(600).repeat(100)))
    labels[0] = many.train.labels.numpy().tobytes()
    parts = [many.train.digest(), many.test.digest(), many.classes, "resnet20", 1, 3, "fast"]
    before = hashlib.sha256(b"".join([*labels, json.dumps(parts).encode()])).hexdigest()
    assert reidentification._batches(many, 3, "fast") == {}
    assert fingerprint(many, 1, arch="resnet20", epochs=3, recipe="fast") != before


def test_it_recognises_originals_and_nothing_in_noise(judge):
    test = DIGITS.test
    hits = judge.correct(test.images, test.labels)
    assert hits.dtype == torch.bool
    assert hits.shape == (100,)
    assert hits.float().mean() == pytest.approx(judge.about["accuracy"]["mean"])
    assert hits.float().mean() > 0.7
    noise = torch.rand(100, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert judge.correct(noise, test.labels).float().mean() < 0.4
    assert torch.equal(judge.correct(to_float(test.images), test.labels), hits)
    wrong = (test.labels + 1) % 10
    assert not bool((judge.correct(test.images, wrong) & hits).any())


def test_every_image_is_judged_on_its_own(judge, monkeypatch):
    test = DIGITS.test
    whole = judge.correct(test.images, test.labels)
    monkeypatch.setattr(trainer, "EVALUATION_BATCH", 7)
    assert torch.equal(judge.correct(test.images, test.labels), whole)


def test_it_is_trained_on_clean_training_images_only(small, trained):
    twins = Split(torch.cat([IMAGES.train.images, IMAGES.test.images[:3]]), torch.cat([IMAGES.train.labels] * 2)[:63])
    shared = replace(IMAGES, train=twins)
    judge = Judge.train(shared, epochs=1)
    assert len(trained[0]["images"].train) == 60  # the three test images among them are left out
    settings = trained[0]["settings"]
    assert (settings.defense, settings.seed, settings.arch) == ((), reidentification.SEED, "resnet20")
    parts = protocol(settings.protocol, trained[0]["images"], seed=settings.seed)
    assert judge.about["images"] == len(parts.defender_train) == 54
    assert set(judge.about) == {"network", "seed", "epochs", "images", "accuracy", "fingerprint"}


def test_the_same_seed_is_the_same_judge_and_training_leaves_nothing_behind(small, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second, other = (Judge.train(IMAGES, seed, epochs=1) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert list(tmp_path.iterdir()) == []
    weights = [judge.model.state_dict() for judge in (first, second, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not torch.equal(weights[0]["encoder.0.weight"], weights[2]["encoder.0.weight"])


def test_a_judge_comes_back_from_its_file(judge, small, tmp_path):
    judge.save(tmp_path / FILE)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = Judge.load(tmp_path / FILE, DIGITS)
    assert torch.equal(torch.get_rng_state(), state)
    assert again.about == judge.about
    noisy = (to_float(DIGITS.test.images) + 0.3 * torch.rand(100, 3, 32, 32)).clamp(0, 1)
    assert torch.equal(again.correct(noisy, DIGITS.test.labels), judge.correct(noisy, DIGITS.test.labels))


def test_a_run_keeps_its_judge(tmp_path, small, trained):
    fit(tmp_path / "run", epochs=1, defense=())
    run, before = Run.open(tmp_path / "run"), len(trained)
    judge = judge_for(run, IMAGES, epochs=1)
    assert trained[-1]["settings"].arch == "vgg11_bn"  # the victim is a ResNet
    written = (run.path / FILE).read_bytes()
    assert judge_for(run, IMAGES, epochs=1).about == judge.about
    assert len(trained) == before + 1
    assert (run.path / FILE).read_bytes() == written
    judge_for(run, IMAGES, epochs=2)  # another judge: trained, and kept instead
    assert len(trained) == before + 2
    assert judge_for(run, IMAGES, epochs=2).about["epochs"] == 2
    assert len(trained) == before + 2


def test_runs_with_the_same_images_share_a_judge(tmp_path, small, trained):
    for name in ("a", "b"):
        fit(tmp_path / name, epochs=1, defense=(), seed=ord(name))
    before = len(trained)
    judges = [judge_for(Run.open(tmp_path / n), IMAGES, cache=tmp_path / "judges", epochs=1) for n in ("a", "b")]
    assert len(trained) == before + 1
    assert judges[0].about == judges[1].about
    (kept,) = (tmp_path / "judges").iterdir()
    assert kept.name == f"judge-{judges[0].about['fingerprint'][:12]}.safetensors"
    assert not (tmp_path / "a" / FILE).exists()
    other = replace(IMAGES, train=IMAGES.train.subset(torch.arange(59)))
    judge_for(Run.open(tmp_path / "a"), other, cache=tmp_path / "judges", epochs=1)
    assert len(list((tmp_path / "judges").iterdir())) == 2


def test_the_fingerprint_knows_all_that_makes_a_judge():
    base: dict[str, Any] = {"images": IMAGES, "seed": 0, "arch": "resnet20", "epochs": 3}
    flipped = IMAGES.train.labels.clone()
    flipped[0] = (flipped[0] + 1) % 10
    darker = IMAGES.test.images.clone()
    darker[0, 0, 0, 0] ^= 1
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"arch": "mobilenetv2"},
        {"epochs": 4},
        {"images": replace(IMAGES, train=Split(IMAGES.train.images, flipped))},
        {"images": replace(IMAGES, test=Split(darker, IMAGES.test.labels))},
        {"images": replace(IMAGES, classes=[*IMAGES.classes, "eleven"])},
    ]
    assert len({fingerprint(**{**base, **change}) for change in changes}) == len(changes)
    assert fingerprint(**{**base, "images": load("digits", train_size=60, test_size=20)}) == fingerprint(**base)


@pytest.mark.parametrize("victim", ["resnet20_sgm", "vgg11_bn_sgm", "mobilenetv2_sgm", "torchvision:resnet18@layer2"])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_judge_and_victim_are_of_other_families(victim, size):
    families, arch = ("resnet", "vgg", "mobilenet"), independent_of(victim, size)
    assert [f in victim for f in families] != [f in arch for f in families]
    zoo.build(arch, cut=1, classes=3, image_size=size)  # which refuses images that are too small for it


def test_as_metrics_of_an_attack(tmp_path, small, judge):
    chosen = settings(epochs=1, defense=(), test_size=100, train_size=600)
    trainer.fit(chosen, DIGITS, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    outcome = evaluate.evaluate(run, Spec.model_validate("linear:1"), DIGITS, extra=judge.metrics())
    truth = protocol("inference_time", DIGITS, seed=0).attacker_test
    assert torch.equal(outcome.values["recognized"], judge.correct(truth.images, truth.labels))
    assert outcome.summary["about_reidentified"] == outcome.summary["about_recognized"] == judge.about
    seen = judge.correct(outcome.reconstructions, truth.labels)
    assert outcome.values["reidentified"].dtype == torch.bool
    assert int((outcome.values["reidentified"] ^ seen).sum()) <= 1  # the picture is rounded to 8 bits


def test_reconstructions_are_held_against_what_the_judge_sees_in_the_originals(judge):
    split, black = DIGITS.test, torch.zeros(100, 3, 32, 32)
    seen = {name: metric(black, to_float(split.images), split.labels) for name, metric in judge.metrics().items()}
    assert torch.equal(seen["recognized"], judge.correct(split.images, split.labels))
    assert torch.equal(seen["reidentified"], judge.correct(black, split.labels))
    assert int(seen["reidentified"].sum()) == 10  # one and the same class for all of them


def test_bad_images_are_refused(judge):
    with pytest.raises(UserError, match=r"images \(4, 3, 16, 16\) and labels \(4,\); expected \(N, 3, 32, 32\)"):
        judge.correct(torch.zeros(4, 3, 16, 16), torch.zeros(4, dtype=torch.long))
    with pytest.raises(UserError, match=r"labels \(3,\); expected"):
        judge.correct(torch.zeros(4, 3, 32, 32), torch.zeros(3, dtype=torch.long))


def test_files_that_are_no_judge_of_these_images(judge, small, tmp_path):
    def refused(name: str) -> str:
        with pytest.raises(UserError) as error:
            Judge.load(tmp_path / name, DIGITS)
        assert "\n" not in str(error.value)
        assert str(tmp_path / name) in str(error.value)
        return str(error.value)

    assert "cannot read the judge" in refused("none")
    (tmp_path / "text").write_text("a judge, as it were")
    assert "cannot read the judge" in refused("text")
    judge.save(tmp_path / "judge")
    half = (tmp_path / "judge").read_bytes()
    (tmp_path / "half").write_bytes(half[: len(half) // 2])
    assert "cannot read the judge" in refused("half")
    save_file({"a": torch.zeros(1)}, tmp_path / "weights")
    assert "holds no judge" in refused("weights")
    save_file({"a": torch.zeros(1)}, tmp_path / "other", metadata={"judge": json.dumps({"accuracy": 1})})
    assert "holds no judge" in refused("other")
    with pytest.raises(UserError, match="on other images than digits here, or by another version; delete it"):
        Judge.load(tmp_path / "judge", IMAGES)


def test_what_is_in_the_file(judge, tmp_path):
    judge.save(tmp_path / FILE)
    with safe_open(tmp_path / FILE, "pt") as file:
        assert json.loads(file.metadata()["judge"]) == judge.about
    judge.save(tmp_path / "again")
    digests = {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in (FILE, "again")}
    assert len(digests) == 1
