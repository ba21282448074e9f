"""The recipes: what fast changes, and that it changes nothing of published."""

from __future__ import annotations

import pytest
import torch

from networks import tiny
from splitveil import config, recipe, runs
from splitveil.audit import cuts
from splitveil.data import augment, to_float
from splitveil.defenses import cem as cem_module
from splitveil.defenses.base import Features, Step
from splitveil.errors import UserError
from splitveil.evaluation import tail
from splitveil.hardening import run as hardening
from splitveil.runs import Run
from splitveil.storage.earlier_versions import settings_in
from splitveil.training import loop
from splitveil.training.trainer import Trainer
from training_helpers import IMAGES, fit, records, settings


def rates(chosen: config.TrainConfig, count: int = 400) -> torch.Tensor:
    return torch.tensor([recipe.learning_rate(chosen, i / count) for i in range(count)], dtype=torch.float64)


def test_published_is_the_default_and_fast_only_changes_defaults():
    published = config.parse({"data": "digits"})
    assert published == config.parse({"data": "digits", "recipe": "published"})
    fast = config.parse({"data": "digits", "recipe": "fast", "epochs": 30, "lr": 0.4})
    changed = recipe.RECIPES["fast"] | {"epochs": 30, "lr": 0.4, "recipe": "fast"}
    assert fast.model_dump() == published.model_dump() | changed


def test_a_recipe_in_a_file_is_read_back_whole(tmp_path):
    fast = config.parse({"data": "digits", "recipe": "fast"})
    (tmp_path / "config.yaml").write_text(config.dump(fast))
    assert config.parse(config.load(tmp_path / "config.yaml")) == fast


def test_a_fast_run_of_before_keeps_its_settings_and_is_not_resumed_as_another(tmp_path):
    fit(tmp_path, recipe="fast", epochs=2, network_dropout=True, unit_variance=False)
    file = tmp_path / "config.yaml"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith(("network_dropout", "unit_variance"))))
    before = Run.open(tmp_path).settings
    assert (before.recipe, before.network_dropout, before.unit_variance) == ("fast", True, False)
    assert config.parse(config.load(file)).unit_variance is False  # so that --config repeats it
    (tmp_path / "summary.json").unlink()
    with pytest.raises(UserError, match="unit_variance was False, now True"):
        fit(tmp_path, resume=True, recipe="fast", epochs=2)


def test_a_run_with_cem_of_before_has_clusters_that_stay(tmp_path):
    """Its config.yaml, unlike a file that somebody wrote, names every parameter that there was."""
    run, own = tmp_path / "run", tmp_path / "own.yaml"
    fit(run, defense=["gaussian:0.1", "cem:weight=4,follow=0"], epochs=2)
    file = run / "config.yaml"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if "follow" not in line))
    assert Run.open(run).settings.defense[1].parameters["follow"] == 0
    assert config.parse(settings_in(file)).resolve().defense[1].parameters["follow"] == 0  # so that --config repeats it
    (run / "summary.json").unlink()
    with pytest.raises(UserError, match=r"'follow': 0}}\], now .*'follow': 100}}\]"):
        fit(run, resume=True, defense=["gaussian:0.1", "cem:4"], epochs=2)
    file.write_text("# hardened_from: run\ndefense:\n- gaussian:\n    sigma: 0.1\n- cem:\n    weight: 4\n")
    assert settings_in(file)["defense"][1]["cem"]["follow"] == 0  # a hardened run's begins with another line
    own.write_text("data: digits\ndefense: [{gaussian: {sigma: 0.1}}, {cem: {weight: 4}}, dropout:0.2]\n")
    chosen = config.parse(settings_in(own)).resolve().defense
    assert (chosen[1].parameters["follow"], chosen[2].parameters["ratio"]) == (100, 0.2)


def test_one_cycle_rises_and_falls_in_straight_lines():
    found = rates(config.parse({"data": "digits", "recipe": "fast", "lr": 0.3, "warmup_epochs": 3}))
    expected = torch.cat([torch.linspace(0, 0.3, 101)[:100], torch.linspace(0.3, 0, 301)[:300]]).double()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("part", "factor"), [(0.0, 0.02), (0.3, 0.1), (0.6, 0.5), (0.8, 1.0), (0.99, 1.0)])
def test_cem_is_as_strong_against_the_task_as_in_the_published_recipe(part, factor):
    pace = recipe.pacing_rate(config.parse({"data": "digits", "recipe": "fast"}), part)
    z = torch.zeros(2, 3)
    step = Step(z, torch.zeros(2).long(), z, z, z, torch.Generator(), pace, part, None)
    assert cem_module.CEM(1)._factor(step) == pytest.approx(factor)


def test_every_image_is_mirrored_in_every_other_epoch(tmp_path):
    made = trainer(tmp_path, alternate_flip=True, rotate=0.0, crop_padding=0, flip=True)
    index, rng = torch.arange(len(made.train)), torch.Generator()
    plain = to_float(made.train.images)
    mirrored = []
    for epoch in range(4):
        made.state.epoch = epoch
        mirrored.append((made._augmented(index, rng) == plain.flip(-1)).flatten(1).all(1))
    assert torch.equal(mirrored[0], ~mirrored[1] | symmetric(plain))
    assert torch.equal(mirrored[0], mirrored[2])
    assert 0.3 < mirrored[0].float().mean() < 0.7


def symmetric(x: torch.Tensor) -> torch.Tensor:
    return (x == x.flip(-1)).flatten(1).all(1)


def test_given_mirrors_draw_nothing():
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    mirror = torch.tensor([True, False, True, False])
    found = augment(images, torch.Generator().manual_seed(1), crop_padding=0, flip=True, mirror=mirror)
    assert torch.equal(found[mirror], to_float(images[mirror].flip(-1)))
    assert torch.equal(found[~mirror], to_float(images[~mirror]))


def test_biases_have_their_own_rate(tmp_path):
    made = trainer(tmp_path, bias_lr=8.0)
    made._step(torch.arange(8), torch.Generator(), 0.5, None)
    matrices, others = made.optimizer.param_groups
    assert others["lr"] == pytest.approx(8 * matrices["lr"])
    assert {p.ndim for p in others["params"]} == {1}
    count = sum(p.numel() for group in (matrices, others) for p in group["params"])
    assert count == sum(p.numel() for p in made.model.parameters())


def test_the_last_epoch_is_served_where_the_recipe_says_so(tmp_path, monkeypatch):
    answers = iter([0.9, 0.1, 0.2])
    real = loop.correct

    def correct(model, split, rng):
        hits = torch.zeros(100, dtype=torch.bool)
        hits[: round(100 * next(answers))] = True
        return hits if len(split) != len(IMAGES.test) else real(model, split, rng)

    monkeypatch.setattr(loop, "correct", correct)
    summary = fit(tmp_path / "run", epochs=3, choose="last")
    assert summary["epoch"] == 2
    assert summary["accuracy_val"] == pytest.approx(0.2)
    assert len(records(tmp_path / "run")) == 3
    assert Run.open(tmp_path / "run").settings.choose == "last"


def trainer(tmp_path, **changes) -> Trainer:
    from lightning_fabric import Fabric

    made = Trainer(settings(**changes).resolve(), IMAGES, tmp_path, Fabric(accelerator="cpu", devices=1))
    made.forward.train()
    return made


def test_cem_without_classes_bounds_with_one_gaussian():
    generator = torch.Generator().manual_seed(0)
    z = 0.3 * torch.randn(4000, 5, generator=generator)
    y = torch.randint(4, (4000,), generator=generator)
    made = cem_module.CEM(16, clusters=1, per_class=False)
    made.sigma2 = 0.04
    made.refit(0, Features(z, y, 4, generator))
    expected = 0.5 * torch.log1p(z.var(0) / 0.04).sum()
    assert made.leakage() == pytest.approx(float(expected), rel=0.02)
    loss = made.loss(Step(z, y, z, z, z, generator, 1e-5, 0.9, None))
    assert loss is not None
    assert float(loss) == pytest.approx(16 * cem_module.UNIT / 5 * float(expected), rel=0.02)
    unlabeled = torch.full((4000,), -1)
    made.refit(1, Features(z, unlabeled, 0, generator))
    loss = made.loss(Step(z, unlabeled, z, z, z, generator, 1e-5, 0.9, None))
    assert loss is not None
    assert torch.isfinite(loss)


def test_a_training_and_the_tail_after_it_see_the_same_augmentation(tmp_path, monkeypatch):
    seen = []

    def spy(images, rng, **options):
        turned = augment(images, rng, **options)
        seen.append((options, bool((turned == 0.5).all(1).any())))
        return turned

    monkeypatch.setattr(loop, "augment", spy)
    monkeypatch.setattr(tail, "augment", spy)
    monkeypatch.setattr(runs.zoo, "build", tiny)
    given = {"epochs": 2, "crop_padding": 1, "flip": True, "rotate": 3.0, "cutout": 4}
    fit(tmp_path / "run", **given)
    steps = len(seen)
    assert steps
    tail.retrain(Run.open(tmp_path / "run"), IMAGES)
    assert len(seen) > steps
    expected = {"crop_padding": 1, "flip": True, "rotate_degrees": 3.0, "cutout": 4}
    for options, hidden in seen:
        assert {name: options[name] for name in expected} == expected
        assert hidden


@pytest.mark.parametrize("kind", ["harden", "cuts"])
def test_searches_for_noise_retrain_tails_by_the_augmentation_of_the_run(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(runs.zoo, "build", tiny)
    fit(tmp_path / "run", epochs=2, crop_padding=1, flip=True, rotate=3.0, cutout=4)
    run = Run.open(tmp_path / "run")
    if kind == "cuts":
        given = cuts._ground(run, IMAGES, cuts.Terms()).search.augmentation
    else:
        made = []

        class Spy(hardening.Hardening):
            def __init__(self, *given, augmentation, **more):
                made.append(augmentation)
                raise UserError("seen")

        with pytest.raises(UserError, match="seen"):
            hardening.harden(run, IMAGES, tmp_path / "hard", max_drop=5.0, kind=Spy)
        (given,) = made
    assert given == {"crop_padding": 1, "flip": True, "rotate_degrees": 3.0, "cutout": 4}
