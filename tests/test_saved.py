"""Models and results from Python in a folder, and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import splitveil as sv
from splitveil.attacks.base import Attack, Runtime, Victim
from splitveil.cli import main
from splitveil.data import Split
from splitveil.defenses.base import Defense
from splitveil.results.comparison import compare_runs
from splitveil.runs import Run

X, Y = torch.rand(90, 1, 12, 16, generator=torch.Generator().manual_seed(0)), torch.arange(90) % 3
SIDES: Any = {"learn_from": (X[:40], Y[:40]), "invert": (X[40:], Y[40:]), "progress": False}


def network(width: int = 6, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = [nn.Conv2d(1, width, 4, 4), nn.BatchNorm2d(width), nn.Sigmoid()]
        return nn.Sequential(*first, nn.Flatten(), nn.Linear(12 * width, 3))


class Shifted(Defense):
    def __init__(self, by: float = 1.0):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        return z + self.by


@pytest.fixture(scope="module")
def model() -> sv.SplitModel:
    made = sv.split(network(), "2", X[:1], defenses=["gaussian:0.1", "cem:4"], mean=[0.4], std=[0.3])
    sv.fit(made, (X, Y), epochs=2, batch_size=30, progress=False)
    return made


@pytest.fixture(scope="module")
def report(model) -> sv.Report:
    return sv.evaluate(
        model, ["linear:looks=1", "nearest", "rmle:steps=1"], **SIDES, grants=frozenset({sv.Access.QUERY})
    )


def same(one: sv.SplitModel, other: sv.SplitModel) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    logits = [made.eval()(X, torch.Generator().manual_seed(0)) for made in (one, other)]
    return all(torch.equal(*pair) for pair in pairs) and torch.allclose(*logits, atol=1e-5)  # other layouts in memory


def message(function: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(sv.UserError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_report_comes_back_as_it_was(report, model, tmp_path):
    sv.save(report, tmp_path / "mine")
    saved = sv.load(tmp_path / "mine", network=network(seed=1))
    assert same(saved.model, model)
    assert saved.report.suite == "own attacks"
    assert saved.report.skipped == report.skipped
    assert saved.report.flags == report.flags
    assert saved.report.best_attacker == report.best_attacker
    assert saved.report.mse == pytest.approx(report.mse, rel=1e-6)
    for name, result in report.results.items():
        again = saved.results[name]
        assert torch.equal(again.images, result.images)
        assert torch.equal(again.originals, result.originals)
        assert (again.flags, again.baseline_mse) == (result.flags, result.baseline_mse)
        assert again.class_mean_mse == result.class_mean_mse == report.class_mean_mse
        torch.testing.assert_close(again.outcome.class_mean, result.outcome.class_mean)
        assert again.outcome.values.keys() == result.outcome.values.keys()
        assert again.interval("ssim").mean == pytest.approx(result.interval("ssim").mean, abs=1e-6)
    # Attacked again it gives the same.
    once_more = sv.attack(saved.model, "linear:looks=1", **SIDES)
    torch.testing.assert_close(once_more.images, report.results["linear"].images, atol=1 / 255 + 1e-6, rtol=0)


def test_the_figures_alone_need_no_network(report, tmp_path):
    sv.save(report, tmp_path)
    saved = sv.load(tmp_path)
    assert saved.results["linear"].mse == pytest.approx(report.results["linear"].mse)
    expected = (
        f"of a network, which no file can build; give one of the same layers: splitveil.load('{tmp_path}', network="
    )
    assert expected in message(lambda: saved.model)
    assert "figures without their model" in message(sv.save, saved.report, tmp_path / "other")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (network(5), "the wire (6, 3, 4), the network that was given (5, 3, 4); give one of the same layers"),
        (nn.Sequential(*network(), nn.ReLU(), nn.Linear(3, 3)), "lacks the tensor tail.6."),
        (nn.Sequential(*network()[:4], nn.Linear(72, 3, bias=False)), "holds tail.4.bias, which the network"),
        (nn.Sequential(*network()[:4], nn.Linear(72, 4)), "tail.4.weight has shape (3, 72), expected (4, 72)"),
        (nn.Sequential(nn.Identity()), "no layer '2'"),
        (len, "network is a builtin_function_or_method; expected a torch.nn.Module"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(given, expected, model, tmp_path):
    sv.save(model, tmp_path)
    assert expected in message(sv.load, tmp_path, given)


def test_halves_and_an_own_defense(tmp_path):
    def halves() -> tuple[nn.Module, nn.Module]:
        net = network(seed=2)
        return net[:3], net[3:]

    made = sv.SplitModel(*halves(), defense=[Shifted(3.0)], example=X[:1])
    sv.save(made, tmp_path)
    assert "give both: network=(encoder, tail)" in message(sv.load, tmp_path, network(), defenses=[Shifted()])
    assert "Shifted is a class of your own; give all of them in their order: defenses=[...]" in message(
        sv.load, tmp_path, halves()
    )
    again = sv.load(tmp_path, halves(), defenses=[Shifted()]).model
    assert same(again, made)
    assert float(again.state_dict()["defense.parts.0.by"]) == 3.0


class Doubled(nn.Module):
    """No `Defense`, and all that a model asks of one."""

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        return 2 * z


@pytest.mark.parametrize("defense", [None, Doubled(), Shifted(2.0), sv.Gaussian(0.3)])
def test_a_defense_alone_or_none(defense, tmp_path):
    net = network(seed=4).eval()
    made = sv.SplitModel(net[:3], net[3:], defense=defense, example=X[:1])
    sv.save(made, tmp_path)
    own = None if defense is None or isinstance(defense, sv.Gaussian) else [type(defense)()]
    assert same(sv.load(tmp_path, (network()[:3], network()[3:]), defenses=own).model, made)


def test_results_are_gathered_in_one_folder_of_their_model(model, tmp_path):
    one, other = sv.attack(model, "linear:looks=1", **SIDES), sv.attack(model, "nearest", **SIDES)
    for result in (one, other, one):
        sv.save(result, tmp_path)
    assert set(sv.load(tmp_path).results) == {"linear", "nearest"}
    assert "holds the reports none" in message(lambda: sv.load(tmp_path).report)
    again = sv.attack(model, "linear:looks=2", **SIDES)
    assert "attacks/linear holds another result" in message(sv.save, again, tmp_path)
    fresh = sv.split(network(seed=3), "2", X[:1])
    assert "holds another model; choose an empty or new folder" in message(sv.save, fresh, tmp_path)


def test_what_is_no_folder_of_ours_is_left_alone(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert "holds notes.txt; choose an empty or new folder" in message(sv.save, model, tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]
    assert "is no run" in message(sv.load, tmp_path)
    assert "save got a list" in message(sv.save, [model], tmp_path)


def test_saving_that_was_stopped_begins_again(model, tmp_path):
    sv.save(model, tmp_path)
    for name in ("summary.json", "model.safetensors"):
        (tmp_path / name).unlink()
    sv.save(model, tmp_path)
    assert same(sv.load(tmp_path, network()).model, model)


@pytest.mark.parametrize("file", ["model.json", "model.safetensors", "attacks/linear/reconstructions.npz"])
def test_a_damaged_file_is_named(file, report, tmp_path):
    sv.save(report, tmp_path)
    (tmp_path / file).write_bytes(b"nothing of the kind")
    assert file in message(sv.load, tmp_path, network())


def test_weights_of_another_model_are_named(model, tmp_path):
    """They were loaded beside the figures of this one."""
    sv.save(model, tmp_path / "one")
    other = sv.split(network(seed=1), "2", X[:1], defenses=["gaussian:0.1", "cem:4"], mean=[0.4], std=[0.3])
    sv.fit(other, (X, Y), epochs=2, batch_size=30, progress=False)
    sv.save(other, tmp_path / "other")
    (tmp_path / "one/model.safetensors").write_bytes((tmp_path / "other/model.safetensors").read_bytes())
    assert "was replaced since summary.json" in message(sv.load, tmp_path / "one", network())


def test_arrays_of_objects_are_not_unpickled(report, tmp_path):
    sv.save(report, tmp_path)
    np.savez(
        tmp_path / "attacks/linear/reconstructions.npz",
        originals=np.array([{}], dtype=object),
        reconstructions=np.zeros(1),
    )
    assert "reconstructions.npz is damaged" in message(sv.load, tmp_path)


def test_the_command_line_compares_saved_reports(report, tmp_path, capsys):
    sv.save(report, tmp_path / "a")
    other = sv.split(network(), "2", X[:1], defenses=["gaussian:0.3"])
    sv.save(sv.evaluate(other, ["linear:looks=1"], **SIDES), tmp_path / "b")
    rows = {row.metric: row for row in compare_runs([tmp_path / "a"], [tmp_path / "b"]).rows}
    assert rows["mse"].paired
    assert rows["mse"].a.mean == pytest.approx(report.results["linear"].mse)
    main(["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    with pytest.raises(SystemExit) as stop:
        main(["attack", str(tmp_path / "a"), "--attack", "linear"])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert "saved from Python, with images and a network of your own, which commands do not know" in told
    assert "privacy_card or export" in told


def test_the_settings_say_how_it_was_trained(model, tmp_path):
    sv.save(model, tmp_path / "trained")
    settings = Run.open(tmp_path / "trained").settings
    assert (settings.epochs, settings.batch_size, settings.recipe, settings.flip) == (2, 30, "fast", False)
    assert [spec.name for spec in settings.defense] == ["gaussian", "cem"]
    sv.save(sv.split(network(), "2", X[:1]), tmp_path / "untrained")
    assert "# training: unknown" in (tmp_path / "untrained/config.yaml").read_text()


def test_how_it_was_trained_comes_back_with_it(model, tmp_path):
    sv.save(model, tmp_path / "one")
    again = sv.load(tmp_path / "one", network=network()).model
    assert again is not None
    assert again.trained_by == model.trained_by
    sv.save(again, tmp_path / "other")
    assert (tmp_path / "one" / "config.yaml").read_text() == (tmp_path / "other" / "config.yaml").read_text()


def test_a_model_is_saved_again_into_a_folder_of_an_earlier_version(model, tmp_path):
    sv.save(model, tmp_path)
    file = tmp_path / "model.json"
    about = json.loads(file.read_text())
    del about["trained_by"]["cutout"]
    file.write_text(json.dumps(about))
    sv.save(model, tmp_path)
    about["trained_by"]["cutout"] = 3
    file.write_text(json.dumps(about))
    assert "holds another model" in message(sv.save, model, tmp_path)
    del about["trained_by"]
    file.write_text(json.dumps(about))
    sv.save(model, tmp_path)
    again = sv.load(tmp_path, network=network()).model
    assert again is not None
    sv.save(again, tmp_path)


def test_tied_weights_are_saved_and_come_back(tmp_path):
    def tied(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
        made[4].weight = made[2].weight
        return made

    example = torch.rand(1, 3, 8, 8)
    model = sv.split(tied(0), at="0", example=example, defenses=["gaussian:0.1"]).eval()
    sv.save(model, tmp_path)
    again = sv.load(tmp_path, network=tied(1)).model
    assert again is not None
    assert torch.equal(again.tail(model.features(example)), model.tail(model.features(example)))


class Limited(Attack):
    """The mean of the attacker's images, with settings that JSON has no form for."""

    def __init__(self, last: float = 0.5):
        self.limit, self.most, self.key, self.last = float("inf"), 10**5000, lambda x: x, last

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        self.found = (images.images / 255).mean(0)

    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        return self.found.expand(len(wire), -1, -1, -1)

    def curve(self) -> list[float]:
        return [1.0, self.last]


def test_settings_that_json_cannot_hold_are_saved_as_text(model, tmp_path):
    result = sv.attack(model, Limited(), **SIDES)
    sv.save(result, tmp_path)
    kept = json.loads((tmp_path / "attacks/Limited/summary.json").read_text())["attack"]["Limited"]
    assert (kept["limit"], kept["most"], kept["last"]) == ("inf", "a number of more than 100 digits", 0.5)
    assert kept["key"].startswith("<function Limited.__init__")
    assert " at 0x" not in kept["key"]
    assert sv.load(tmp_path).results["Limited"].mse == pytest.approx(result.mse)
    sv.save(result, tmp_path)


def test_a_result_that_json_cannot_hold_leaves_nothing_behind(model, tmp_path):
    sv.save(model, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    report = sv.evaluate(model, ["nearest", Limited(float("nan"))], **SIDES)
    for thing in (report, report.results["Limited"]):
        said = message(sv.save, thing, tmp_path)
        assert "the result of Limited cannot be saved as JSON (Out of range float values" in said
        assert "expected finite figures" in said
        assert sorted(tmp_path.rglob("*")) == before


def test_the_same_model_is_saved_again_in_another_mode_and_by_another_version(tmp_path):
    net = network(seed=5)
    made = sv.SplitModel(net[:3], net[3:], defense=[Shifted(3.0)], example=X[:1])
    sv.save(made.train(), tmp_path)
    file = tmp_path / "model.json"
    about = json.loads(file.read_text())
    assert "training" not in about["defenses"][0]["parameters"]
    sv.save(made.eval(), tmp_path)
    about["splitveil"] = "0.2.0"
    about["defenses"][0]["parameters"]["training"] = True  # as earlier versions have it
    file.write_text(json.dumps(about))
    sv.save(made, tmp_path)
    about["at"] = "1"
    file.write_text(json.dumps(about))
    assert "holds another model" in message(sv.save, made, tmp_path)


def test_a_run_of_the_command_line_is_loaded(tmp_path):
    from splitveil import config
    from splitveil.data import load
    from splitveil.evaluation.evaluate import attack_run
    from splitveil.training import trainer

    values = {"data": "digits", "train_size": 60, "test_size": 40, "arch": "resnet20_sgm", "cut": 2, "epochs": 1}
    images, settings = load("digits", train_size=60, test_size=40), config.parse(values)
    trainer.fit(settings, images, tmp_path)
    attack_run(Run.open(tmp_path), config.Spec.model_validate("linear:looks=1"), images)
    saved = sv.load(tmp_path)
    assert same_wire(saved.model, Run.open(tmp_path).model(images))
    kept = json.loads((tmp_path / "attacks/linear/summary.json").read_text())
    assert saved.results["linear"].mse == pytest.approx(kept["mse"]["mean"])
    assert len(saved.results["linear"].images) == kept["images"]["attacked"] == 4  # as few as the picture shows
    (tmp_path / "attacks/linear/reconstructions.npz").unlink()
    figures = sv.load(tmp_path).results["linear"]
    assert "not all images as arrays; look at its reconstructions.png" in message(lambda: figures.images)
    assert "leave network and defenses out" in message(sv.load, tmp_path, network())


def same_wire(one: sv.SplitModel, other: sv.SplitModel) -> bool:
    x = torch.rand(2, *one.image_shape, generator=torch.Generator().manual_seed(0))
    return torch.equal(one.encode(x), other.encode(x))
