"""The front door: modules and tensors in, results out, nothing on the disk."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from splitveil import api
from splitveil.attacks.decoder import DecoderAttack
from splitveil.attacks.linear import LinearAttack
from splitveil.data import Access, Split, load, to_float
from splitveil.defenses.cem import CEM
from splitveil.defenses.gaussian import Gaussian
from splitveil.errors import AccessError, DivergedError, UserError
from splitveil.evaluation import reliability, suites
from splitveil.given import recipe_of
from splitveil.model import SplitModel
from splitveil.randomness import stream
from splitveil.recipe import TEST
from splitveil.statistics.intervals import binomial_ci, paired_ratio

DIGITS = load("digits", train_size=200, test_size=100)
X, Y = to_float(DIGITS.train.images), DIGITS.train.labels
OWN = to_float(DIGITS.test.images[:60]), DIGITS.test.labels[:60]
UNDER = to_float(DIGITS.test.images[60:]), DIGITS.test.labels[60:]


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = [nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.Sigmoid()]
        return nn.Sequential(*first, nn.Flatten(), nn.Linear(512, 10))


def defended(*defenses: object) -> SplitModel:
    return api.split(network(), at="2", example=X[:1], defenses=defenses)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> SplitModel:
    made = defended(Gaussian(0.1), CEM(16))
    api.fit(made, (X, Y), validate=(X[:40], Y[:40]), epochs=6, batch_size=20, lr=0.05)
    return made


def test_one_experiment(model):
    """A trained model classifies, its defense has acted, and an attack says what it reached."""
    accuracy = float((model(UNDER[0], torch.Generator().manual_seed(0)).argmax(1) == UNDER[1]).float().mean())
    assert accuracy > 0.5
    assert model.defense.leakage() > 0  # type: ignore[union-attr, operator]
    result = api.attack(model, LinearAttack(looks=2), learn_from=OWN, invert=UNDER)
    assert 0 < result.mse < 0.6 * result.baseline_mse
    assert 0 < result.ssim <= 1
    assert result.psnr > 5
    interval = result.interval()
    assert interval.lo < result.mse < interval.hi
    assert result.images.shape == result.originals.shape == (40, 3, 32, 32)
    torch.testing.assert_close(result.originals, UNDER[0], atol=1 / 255, rtol=0)
    assert "mse=" in repr(result)
    assert len(result.plot(3).axes) == 6
    (picture, _) = result.plot([7]).axes
    torch.testing.assert_close(torch.tensor(picture.images[0].get_array()).permute(2, 0, 1), result.originals[7])


def test_the_accuracy_is_that_of_the_noisy_wire_with_its_interval(model):
    found = api.accuracy(model.train(), (X[:50], Y[:50]), seed=3)
    rng = stream("cpu", 3, TEST)
    hits = model.eval()(to_float((X[:50] * 255).round().to(torch.uint8)), rng).argmax(1) == Y[:50]
    assert found == binomial_ci(int(hits.sum()), 50)
    with pytest.raises(UserError, match="labels of data go from"):
        api.accuracy(model, (X[:5], Y[:5] + 10))


def test_two_results_are_compared_image_by_image(model):
    sides = {"learn_from": OWN, "invert": UNDER, "progress": False}
    one, two = api.attack(model, "linear:looks=2", **sides), api.attack(model, "nearest:looks=1", **sides)
    assert two.ratio(one) == paired_ratio(two.outcome.values["mse"], one.outcome.values["mse"])
    assert one.ratio(one, "ssim").mean == 1
    with pytest.raises(UserError, match="there is no metric 'mae'"):
        one.ratio(two, "mae")
    other = api.attack(model, "linear:looks=2", learn_from=OWN, invert=(UNDER[0][1:], UNDER[1][1:]))
    with pytest.raises(UserError, match="on other images"):
        one.ratio(other)


def test_flags_of_a_model_are_found_once_for_all_attacks_of_a_suite_and_stand_beside_each(model, monkeypatch):
    asked, of_model = [], reliability.of_model

    def counted(of, images):
        asked.append(of)
        return [*of_model(of, images), "seen"]

    monkeypatch.setattr(reliability, "of_model", counted)
    monkeypatch.setitem(suites.SUITES, "two", suites.specs("linear:looks=1", "nearest:looks=1"))
    for _ in range(2):  # nothing is kept from one call to the next
        report = api.evaluate(model, suite="two", learn_from=OWN, invert=UNDER, progress=False)
        assert all("seen" in result.flags for result in report.results.values())
    assert len(asked) == 2


def test_the_shortest_suite_says_that_it_is_no_evidence(model):
    report = api.evaluate(model, "smoke-v1", learn_from=OWN, invert=UNDER, progress=False)
    assert any("smoke-v1" in flag for flag in report.flags)
    assert len(report.plot(2).axes) == 2 * (1 + len(report.results))


def test_an_attack_leaves_the_model_as_it_is(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    grads = [p.requires_grad for p in model.parameters()]
    api.attack(model, "linear", learn_from=OWN, invert=UNDER)
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == grads
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()


def test_a_network_that_was_not_trained_is_flagged(model):
    sides = {"learn_from": OWN, "invert": UNDER, "progress": False}
    nothing = "the network is not shown to be better than chance"
    assert not any(nothing in flag for flag in api.attack(model, "linear", **sides).flags)
    blank = defended(Gaussian(0.1))
    assert api.attack(blank, "linear", **sides).flags[0].startswith(nothing)
    report = api.evaluate(blank, ["linear", "nearest"], **sides)
    assert [flag.partition(":")[0] for flag in report.flags if nothing in flag] == ["every attack"]
    strange = {**sides, "invert": (UNDER[0], UNDER[1] + 10)}  # classes that the network does not have
    assert not any(nothing in flag for flag in api.attack(blank, "linear", **strange).flags)


def test_text_and_objects_are_the_same():
    made = [defended(Gaussian(0.1), CEM(4.0)), defended("gaussian:0.1", "cem:4")]
    for one in made:
        api.fit(one, (X, Y), epochs=2, batch_size=50)
    assert all(torch.equal(a, b) for a, b in zip(*(one.state_dict().values() for one in made), strict=True))
    settings = {"learn_from": OWN, "invert": UNDER}
    by_text = api.attack(made[0], "decoder:epochs=1,network=custom", **settings)  # type: ignore[arg-type]
    by_object = api.attack(made[0], DecoderAttack(1, "custom"), **settings)  # type: ignore[arg-type]
    assert torch.equal(by_text.images, by_object.images)


def test_tensors_data_sets_and_loaders_are_the_same():
    tensors = api.images_of((X[:30], Y[:30]), "x")
    for other in (
        TensorDataset(X[:30], Y[:30]),
        DataLoader(TensorDataset(X[:30], Y[:30]), batch_size=7),
        (DIGITS.train.images[:30], Y[:30]),
        Split(DIGITS.train.images[:30], Y[:30]),
    ):
        found = api.images_of(other, "x")  # type: ignore[arg-type]
        assert torch.equal(found.images, tensors.images)
        assert torch.equal(found.labels, tensors.labels)


@pytest.mark.parametrize("defense", ["adversarial:network=custom", "adversarial_noise:network=custom"])
def test_a_defense_with_an_optimizer_of_its_own_is_trained(defense):
    """What is kept of the chosen epoch are not only tensors."""
    made = defended(defense)
    records = api.fit(made, (X[:40], Y[:40]), epochs=2, batch_size=20)
    assert len(records) == 2
    again = defended(defense)
    again.load_state_dict(made.state_dict())
    assert all(torch.equal(*pair) for pair in zip(made.parameters(), again.parameters(), strict=True))


class Bare(nn.Module):
    """Noise by a module that is no defense of splitveil."""

    def on_wire(self, z, rng):
        return z + 0.5 * torch.randn(z.shape, generator=rng)


def test_settings_that_contradict_each_other_are_refused_before_the_training():
    model = defended()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match="momentum is 0, but nesterov is true, as recipe fast has it"):
        api.fit(model, (X, Y), epochs=1, momentum=0, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_defense_that_cannot_be_trained_with_is_refused_and_stays():
    model = SplitModel(nn.Sequential(nn.Conv2d(3, 4, 4, 4)), nn.Flatten(), defense=Bare(), example=OWN[0][:1])
    with pytest.raises(UserError, match="the defense Bare cannot be trained with"):
        api.fit(model, OWN, epochs=1)
    assert isinstance(model.defense, Bare)
    with pytest.raises(UserError, match="Bare is no defense"):
        SplitModel(nn.Conv2d(3, 4, 4, 4), nn.Flatten(), defense=[Gaussian(0.1), Bare()], example=OWN[0][:1])  # type: ignore[list-item]


def test_images_that_validate_choose_the_epoch():
    asked = recipe_of(OWN, {"epochs": 3}, chosen=True)
    assert (asked.choose, asked.rotate, asked.crop_padding, asked.flip) == ("best", 0.0, None, None)
    assert recipe_of(OWN, {"epochs": 3}, chosen=False).choose == "last"
    assert recipe_of(OWN, {"choose": "last"}, chosen=True).choose == "last"
    published = recipe_of(OWN, {"recipe": "published", "rotate": 5.0}, chosen=False)
    assert (published.choose, published.rotate) == ("best", 5.0)


def test_a_frozen_encoder_puts_the_same_on_the_wire_after_a_training():
    """Devices may have it already."""
    frozen, trained = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 4, 4), frozen, nn.ReLU(), nn.BatchNorm2d(4, affine=False))
    tail = nn.Sequential(trained, nn.Flatten(), nn.Linear(256, 10))
    model = SplitModel(encoder.requires_grad_(False), tail, example=OWN[0][:1])
    before, norms = model.eval().features(OWN[0]), copy.deepcopy([frozen, trained])
    api.fit(model, OWN, epochs=1, batch_size=16, progress=False)
    torch.testing.assert_close(model.features(OWN[0]), before)
    means = [norm.state_dict()["running_mean"] for norm in (frozen, *norms[:1], trained, *norms[1:])]
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[2], means[3])


def test_halves_on_another_device_are_joined_there():
    model = SplitModel(nn.Conv2d(3, 4, 4, 4, device="meta"), nn.Flatten(), example=OWN[0][:1])
    assert (model.mean.device.type, model.wire_shape) == ("meta", (4, 8, 8))


def test_labels_of_a_split_are_checked_too():
    with pytest.raises(UserError, match="labels of data go down to -1"):
        api.fit(defended(Gaussian(0.1)), Split(DIGITS.train.images, DIGITS.train.labels - 1), epochs=1)


def test_the_same_seed_trains_the_same():
    weights = []
    for seed in (1, 1, 2):
        made = defended("gaussian:0.1")
        api.fit(made, (X, Y), epochs=1, seed=seed)
        weights.append(copy.deepcopy(made.state_dict()))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_a_trained_network_has_the_layers_that_it_was_built_of():
    """Saved whole, a network with our faster layers could only be read back where SplitVeil is installed."""
    layers = [nn.Conv2d(3, 64, 4, 16), nn.Sigmoid(), nn.Conv2d(64, 64, 3, padding=1), nn.Flatten(), nn.LazyLinear(10)]
    whole = nn.Sequential(*layers)
    whole(X[:1])
    model = api.split(whole, at="1", example=X[:1], defenses=["gaussian:0.1"])
    api.fit(model, (X[:64], Y[:64]), epochs=1, batch_size=32)
    assert sum(type(module) is nn.Conv2d for module in model.modules()) == 2


def test_training_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    api.fit(defended("gaussian:0.1"), (X, Y), epochs=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_report_has_all_attacks_on_the_same_wires(model):
    report = api.evaluate(model, [LinearAttack(looks=2), "nearest"], learn_from=OWN, invert=UNDER)
    assert list(report.results) == ["linear", "nearest"]
    assert report.worst_case_mse <= report.mse <= max(result.mse for result in report.results.values())
    assert report.best_attacker in ("linear", "nearest", "choice per image")
    assert "nearest" in repr(report)
    alone = api.attack(model, LinearAttack(looks=2), learn_from=OWN, invert=UNDER)
    assert alone.mse == report.results["linear"].mse


def test_a_report_of_too_few_images_is_shown_and_says_so(model):
    few = (OWN[0][:10], OWN[1][:10])
    report = api.evaluate(model, [LinearAttack(looks=2), "nearest"], learn_from=few, invert=UNDER)
    assert "too few images in learn_from" in repr(report)
    for asked in ("best_attacker", "mse"):
        with pytest.raises(UserError, match="too few images in learn_from to tell the best attacker; give 20 or more"):
            getattr(report, asked)


def test_a_report_is_made_without_an_attack_that_diverges(model, monkeypatch):
    def fit(self, *args):
        raise DivergedError("decoder: the error is nan in every epoch; lower lr (0.001)")

    monkeypatch.setattr(DecoderAttack, "fit", fit)
    report = api.evaluate(model, [LinearAttack(looks=2), "decoder"], learn_from=OWN, invert=UNDER)
    assert list(report.results) == ["linear"]
    assert "lower lr" in report.skipped["decoder"]
    assert "the training of decoder diverged, so the strongest attack may be missing" in report.flags


def test_what_is_not_granted_is_not_made(model):
    query = frozenset({Access.QUERY})
    report = api.evaluate(model, ["linear", "rmle:steps=2"], learn_from=OWN, invert=UNDER, grants=query)
    assert list(report.results) == ["linear"]
    assert report.skipped == {"rmle": "it needs weights, which is not granted"}
    with pytest.raises(AccessError, match="the attack needs weights; the protocol grants query"):
        api.attack(model, "rmle:steps=2", learn_from=OWN, invert=UNDER, grants=query)


def test_a_bad_layer_or_defense_is_named():
    with pytest.raises(UserError, match="no layer 'conv2'"):
        api.split(network(), at="conv2", example=X[:1])
    with pytest.raises(UserError, match="unknown defense 'gausian'; did you mean 'gaussian'"):
        defended("gausian")
    with pytest.raises(UserError, match="gaussian: sigma is -1"):
        defended("gaussian:-1")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((2 * X, Y), r"the images of data are from 0 to 2; expected pixels in \[0, 1\], without normalization"),
        ((X[:0], Y[:0]), "the images of data are none"),
        ((X * float("nan"), Y), "the images of data are from nan to nan"),
        ((X, Y, Y), r"data has 3 parts; expected \(x, y\)"),
        ((X, Y[:-1]), r"the labels of data have shape \(199,\); expected \(200,\)"),
    ],
)
def test_bad_images_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        api.fit(defended(), data, epochs=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "epoch: no such setting; did you mean 'epochs'"),
        ({"epochs": 0}, "epochs is 0; expected"),
        ({"lr": float("nan")}, "lr is nan; expected"),
        ({"optimizer": "adam"}, "optimizer is 'adam'; expected sgd or muon"),
        ({"scheduler": "cosine"}, "scheduler: no such setting; did you mean 'schedule'"),
        ({"xyz": 1}, "xyz: no such setting; there are alternate_flip, batch_size, bias_lr"),
        ({"devices": 2}, "devices is 2; fit trains on one; splitveil train has --devices"),
        ({"recipe": "quick"}, "recipe is 'quick'; expected published or fast"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        api.fit(defended(), (X, Y), **settings)


def test_images_on_both_sides_are_refused(model):
    with pytest.raises(UserError, match="learn_from and invert share 40 images; remove them from learn_from"):
        api.attack(model, "linear", learn_from=(X, Y), invert=(X[:40], Y[:40]))


def test_attacks_that_are_none_or_one(model):
    with pytest.raises(UserError, match="suite holds no attacks; expected a name such as 'quick-v4'"):
        api.evaluate(model, [], learn_from=OWN, invert=UNDER)
    report = api.evaluate(model, LinearAttack(looks=2), learn_from=OWN, invert=UNDER)
    assert list(report.results) == ["linear"]
    with pytest.raises(UserError, match="there is no metric 'mae'; expected one of "):
        report.results["linear"].interval("mae")
    with pytest.raises(UserError, match=r"expected a set such as \{Access.QUERY"):
        api.attack(model, "linear", learn_from=OWN, invert=UNDER, grants=["query"])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="budget is 5; expected a splitveil"):
        api.attack(model, "linear", learn_from=OWN, invert=UNDER, budget=5)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="invert has 1 image; expected at least 2"):
        api.attack(model, "linear", learn_from=OWN, invert=(UNDER[0][:1], UNDER[1][:1]))
    with pytest.raises(UserError, match=r"the class LinearAttack is no registered attack.*write Linear\(\)"):
        api.attack(model, LinearAttack, learn_from=OWN, invert=UNDER)  # type: ignore[arg-type]


def test_attacks_that_need_more_images_than_the_attacker_has_are_left_out(model):
    few = OWN[0][:5], OWN[1][:5]
    report = api.evaluate(model, ["linear:looks=1", "residual:epochs=1"], learn_from=few, invert=UNDER)
    assert list(report.results) == ["linear"]
    assert report.skipped == {"residual": "the attacker has 5 images; expected at least 6"}


def test_what_several_attacks_show_together_is_a_flag_of_the_report():
    other, labels = UNDER[0].clone(), UNDER[1]
    other[:3] = (OWN[0][:3] + 1 / 255).clamp(max=1)
    report = api.evaluate(
        defended(),
        ["nearest", "rmle:steps=1,start=grey"],
        learn_from=OWN,
        invert=(other, labels),
        progress=False,
    )
    (wins,) = [flag for flag in report.flags if "which sees the wire only, beats rmle" in flag]
    (copies,) = [flag for flag in report.flags if "3 of 40 attacked images have a near-duplicate" in flag]
    assert wins in repr(report)
    assert copies in repr(report)
