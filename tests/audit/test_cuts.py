"""Where to cut: the cuts of one network are the same function, cost what they cost, and are measured alike."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from splitveil import runs, zoo
from splitveil.audit import cuts, equal_noise, one_cut, recut, undefended
from splitveil.audit.cuts import Terms
from splitveil.audit.device import counted
from splitveil.audit.equal_noise import MOST, STEPS, Search, deviation
from splitveil.audit.recut import network_of, worth
from splitveil.cli import _cuts
from splitveil.cli._cuts import show_cuts
from splitveil.data import Split, load
from splitveil.errors import UserError
from splitveil.model import SplitModel
from splitveil.zoo.base import assemble

SIZES: dict[str, Any] = {"train_size": 200, "test_size": 100}
TERMS = Terms(max_drop=20.0, tail_images=60, attacker=60, attacked=10, tested=60, decoder_epochs=1)


def small(arch: str, *, cut: int | None, classes: int, image_size: int, bottleneck: Any = None) -> zoo.Parts:
    """Images 32×32 to 4×8×8 and then 4×4×4 values."""
    layers = [nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 2, 2)]
    blocks = [nn.Sequential(layer, nn.ReLU()) for layer in layers]
    head = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    sigmoid = arch.endswith("_sgm")
    return assemble(arch, blocks, head, cut=cut, image_size=image_size, bottleneck=bottleneck, sigmoid=sigmoid)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(runs.zoo, "build", small)
    monkeypatch.setattr(equal_noise, "STEPS", 2)
    monkeypatch.setattr(one_cut, "DECODER", "conv_normN1C4")


def show(out: Path, network: str = "resnet20", layers: str = "all", **more: Any) -> None:
    trained = None if Path(network).is_dir() else 2
    given = {"data": "digits", "epochs": trained, **SIZES, "terms": TERMS, **more}
    show_cuts(network, layers, out=out, **given)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.zoo, "build", small)
        patch.setattr(equal_noise, "STEPS", 2)
        patch.setattr(one_cut, "DECODER", "conv_normN1C4")
        out = tmp_path_factory.mktemp("cuts") / "out"
        show(out)
    return out


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    return record | {"rows": [{**row, "seconds": None} for row in record["rows"]]}


# The network and its cuts


def test_every_cut_of_a_network_is_the_same_function():
    model = _split("resnet20", 3)
    x = torch.rand(2, 3, 32, 32)
    network = network_of(model, "resnet20", 32)
    assert network.layers == tuple(map(str, range(1, 11)))
    for layer in ("1", "5", "10"):
        parts = network.halves(layer)
        assert torch.allclose(parts.tail(parts.encoder(x)), model.tail(model.encoder(x)), atol=1e-6)


def test_what_a_cut_costs_is_what_its_layers_cost():
    first, second = network_of(_split("vgg11_bn", 2), "vgg11_bn", 32).chosen("1,2")
    assert (first.wire, second.wire) == ((64, 32, 32), (64, 16, 16))
    assert first.multiply_adds == second.multiply_adds == 64 * 27 * 32**2
    assert first.parameters == 64 * 27 + 3 * 64  # weights, biases, and the norm's scales and shifts


@pytest.mark.parametrize(("inputs", "outputs", "groups", "stride"), [(4, 8, 4, 1), (6, 9, 3, 2)])
def test_multiply_adds_of_grouped_convolutions(inputs, outputs, groups, stride):
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups)
    side = (8 + stride - 1) // stride
    assert counted(lambda: conv(torch.zeros(1, inputs, 8, 8))) == outputs * inputs // groups * 9 * side**2


class Skipping(nn.Module):
    """A stem, two blocks with a shortcut, and a linear layer."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU())
        self.blocks = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def test_cuts_that_a_shortcut_crosses_are_not_worth_it():
    """Of the first convolution and its ReLU the second is taken; behind the last layer nothing can learn."""
    assert worth(Skipping().eval(), torch.zeros(1, 3, 32, 32)) == ["stem"]


def test_a_network_of_a_library_is_cut_elsewhere_with_its_weights(monkeypatch):
    made = []

    def build(name: str, classes: int, image_size: int) -> nn.Module:
        made.append(Skipping(classes).eval())
        return made[-1]

    monkeypatch.setitem(recut.BUILDERS, "torchvision", build)
    arch, x = "torchvision:skipping@stem.0", torch.rand(2, 3, 32, 32)
    parts = zoo.build(arch, classes=5, image_size=32)
    model = SplitModel(parts.encoder, parts.tail, layout=parts.layout, example=x[:1]).eval()
    network = network_of(model, arch, 32)
    (cut,) = network.chosen("all")
    assert (cut.layer, cut.wire) == ("stem", (4, 8, 8))
    halves = network.halves("stem")
    assert torch.allclose(halves.tail(halves.encoder(x)), made[0](x), atol=1e-6)
    assert not torch.allclose(made[-1](x), Skipping(5)(x))  # its weights are the trained ones
    with pytest.raises(UserError, match="is crossed by"):
        network.chosen("blocks.0")
    images = load("digits", train_size=20, test_size=20)
    assert undefended.settings_of("torchvision:skipping", images, data="digits").arch == "torchvision:skipping@stem"


def _split(arch: str, cut: int) -> SplitModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = zoo.build(arch, cut=cut, classes=10, image_size=32)
    return SplitModel(parts.encoder, parts.tail, example=torch.zeros(1, 3, 32, 32)).eval()


# The noise


def test_the_deviation_is_that_of_all_values_about_their_means():
    images = torch.randint(256, (300, 3, 8, 8), dtype=torch.uint8)
    model = SplitModel(nn.Conv2d(3, 2, 3), nn.Flatten())
    with torch.no_grad():
        z = model.features(images / 255).flatten(1)
    assert deviation(model, images) == pytest.approx(float(z.var(0, correction=0).mean().sqrt()), rel=1e-5)


@pytest.mark.parametrize("limit", [0.05, 1.0, 8.0])
def test_the_search_comes_within_an_eighth_of_the_most_noise(monkeypatch, limit):
    _answer(monkeypatch, limit)
    noisy, tried = _search()
    sigma = noisy.defense.noise_variance() ** 0.5  # type: ignore[union-attr,operator]
    assert limit / (MOST / 0.01) ** (1 / 2**STEPS) <= sigma <= limit
    assert sigma == pytest.approx(max(one.sigma for one in tried if one.accepted))
    assert len(tried) == STEPS


def test_where_all_noise_costs_too_much_there_is_no_model(monkeypatch):
    _answer(monkeypatch, 0.0)
    noisy, tried = _search()
    assert noisy is None
    assert not any(one.accepted for one in tried)


def _answer(monkeypatch: pytest.MonkeyPatch, limit: float) -> None:
    """Let the accuracy be 0.8 up to a noise of ``limit`` and 0.6 beyond; the feature has the deviation 1."""

    def accuracy(model: Any, *_: object) -> float:
        return 0.8 if model.defense.noise_variance() ** 0.5 <= limit else 0.6

    monkeypatch.setattr("splitveil.hardening.search.retrained", lambda model, *_, **__: model)
    monkeypatch.setattr(equal_noise, "noisy_accuracy", accuracy)
    monkeypatch.setattr(equal_noise, "deviation", lambda *_: 1.0)


def _search() -> tuple[Any, list[equal_noise.Tried]]:
    images = Split(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.long))
    search = Search(images, images, seed=0, augmentation={}, bf16=False)
    return search.run(SplitModel(nn.Conv2d(3, 2, 3), nn.Flatten()), 0.75)


# The front


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), max_size=8))
def test_the_front_holds_exactly_what_nothing_beats(points):
    rows = [
        {"layer": str(place), "multiply_adds": cost, "linear": {"mean": error / 10}, "decoder": None}
        for place, (cost, error) in enumerate(points)
    ]
    found = {points[int(layer)] for layer in cuts.front(rows)}
    beaten = {(c, e) for c, e in points if any(a <= c and b >= e and (a, b) != (c, e) for a, b in points)}
    assert found == set(points) - beaten


# The whole


def test_the_record_says_what_was_measured(finished, capsys):
    record = json.loads((finished / "cuts.json").read_text())
    assert (record["schema"], record["cuts"], record["network"]) == (1, ["1", "2"], "resnet20")
    first, second = record["rows"]
    assert (first["bytes"], second["bytes"]) == (4 * 256, 4 * 64)
    assert first["multiply_adds"] == 4 * 48 * 64
    for row in record["rows"]:
        assert row["skipped"] == {}
        assert row["accuracy_val"] >= record["before"] - TERMS.max_drop / 100
        assert row["linkage"]["gallery"] == 10
        assert row["leakage"]["kind"] == "upper"
        for name in ("linear", "decoder", "accuracy"):
            assert row[name]["ci95"][0] <= row[name]["mean"] <= row[name]["ci95"][1]
    assert set(record["front"]) <= {"1", "2"}
    assert (finished / "cuts.png").read_bytes()[:4] == b"\x89PNG"


def test_a_stopped_audit_goes_on_to_the_same_record(finished, quick, tmp_path, capsys, monkeypatch):
    out, original = tmp_path / "out", cuts.measured

    def stopped(cut: recut.Cut, *rest: Any) -> dict[str, Any]:
        if cut.layer == "2":
            raise KeyboardInterrupt
        return original(cut, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(cuts, "measured", stopped)
        with pytest.raises(KeyboardInterrupt):
            show(out)
    assert [row["layer"] for row in json.loads((out / "cuts.json").read_text())["rows"]] == ["1"]
    show(out, resume=True)
    made, whole = (json.loads((folder / "cuts.json").read_text()) for folder in (out, finished))
    assert comparable(made) == comparable(whole)
    said = capsys.readouterr().out
    assert max(map(len, said.partition("picture:")[0].splitlines())) <= 80
    monkeypatch.setattr(cuts, "measured", None)  # all of it is there
    (out / ".cuts.png.x1.tmp").touch()  # of a process that was killed while it drew
    show(out, resume=True)
    assert not (out / ".cuts.png.x1.tmp").exists()


def test_what_is_too_large_is_left_out_with_a_reason(finished, quick, tmp_path, capsys, monkeypatch):
    """A trained run can be audited too, without its images being named."""
    for room in (one_cut, one_cut.linear_error.__globals__):
        (monkeypatch.setattr if room is one_cut else monkeypatch.setitem)(room, "MOST_WEIGHTS", 5)  # type: ignore[operator]
    monkeypatch.setattr(one_cut, "capacity", lambda *_: 10**5)
    show(tmp_path / "out", str(finished / "network"), "2", data=None, train_size=None, test_size=None)
    (row,) = json.loads((tmp_path / "out" / "cuts.json").read_text())["rows"]
    assert row["linear"] is None is row["linkage"] is row["leakage"]
    assert row["decoder"] is not None
    assert "196,608 weights; at most 5 are fitted" in row["skipped"]["linear"]
    assert "60 wires of 64 values" in row["skipped"]["leakage"]
    assert "not measured" in capsys.readouterr().err


def test_where_no_noise_is_cheap_enough_the_row_says_so(finished, quick, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(equal_noise, "noisy_accuracy", lambda *_: 0.0)
    run = {"data": None, "train_size": None, "test_size": None}
    show(tmp_path / "out", str(finished / "network"), "2", **run, terms=replace(TERMS, max_drop=1.0))
    (row,) = json.loads((tmp_path / "out" / "cuts.json").read_text())["rows"]
    assert row["sigma"] is None
    assert "costs more accuracy" in row["skipped"]["noise"]


@pytest.mark.parametrize(
    ("network", "layers", "more", "message"),
    [
        ("resnet20", "3", {}, "layer '3' does not exist in resnet20; expected all, or numbers from 1 to 2"),
        ("resnet20", "first", {}, "layer 'first' does not exist"),
        ("resnet20", "1,2,1", {}, "names '1' twice"),
        ("resnet20_sgm", "all", {}, "ends its encoder in a sigmoid"),
        ("vgg11_released", "all", {}, "is built for one cut of the published code; name vgg11,"),
        ("timmy:resnet18", "all", {}, "unknown library 'timmy'"),
        ("resnet20", "all", {"data": None}, "name its images with --data"),
        ("resnet20", "all", {"data": "folder:nowhere"}, "nowhere"),
        ("resnet20", "all", {"epochs": 0}, "epochs is 0"),
    ],
)
def test_bad_input_is_refused_before_any_work(quick, tmp_path, network, layers, more, message):
    with pytest.raises(UserError) as error:
        show(tmp_path / "out", network, layers, **more)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(finished, quick, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no audit of cuts"):
        show(tmp_path)
    copy = shutil.copytree(finished, tmp_path / "copy")
    with pytest.raises(UserError, match="add --resume"):
        show(copy)
    with pytest.raises(UserError, match="other values of --layers"):
        show(copy, layers="1", resume=True)
    with pytest.raises(UserError, match="other values of the settings"):
        show(copy, resume=True, terms=Terms())
    with pytest.raises(UserError, match="leave --data, --train-size, --test-size out"):
        show(tmp_path / "new", str(finished / "network"))
    (copy / "cuts.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        show(copy, resume=True)


def test_terms_out_of_their_range_are_refused():
    with pytest.raises(UserError, match="max_drop is 0"):
        Terms(max_drop=0.0)


# What it says when the network or its attackers have learned nothing


def _row(layer: str, cost: int, error: float, wide: float = 0.01) -> dict[str, Any]:
    return {
        "layer": layer,
        "multiply_adds": cost,
        "parameters": 10,
        "bytes": 4,
        "linear": None,
        "decoder": {"mean": error, "ci95": [error - wide, error + wide]},
        "accuracy": {"mean": 0.5, "ci95": [0.4, 0.6]},
        "linkage": None,
        "leakage": None,
        "skipped": {},
        "seconds": 1.0,
    }


ROWS = [_row("1", 10, 0.09), _row("2", 20, 0.03), _row("3", 30, 0.04), _row("4", 40, 0.055, 0.02)]


def test_a_cut_whose_attacks_learned_nothing_is_not_on_the_front():
    assert cuts.front(ROWS) == ["1"]
    assert cuts.front(ROWS, 0.06) == ["2", "3"]


def test_the_table_and_the_picture_mark_cuts_whose_attacks_learned_nothing(tmp_path, capsys):
    record = {
        "network": "resnet20",
        "rows": ROWS,
        "terms": {"max_drop": 1.0},
        "front": ["2", "3"],
        "mean_image": 0.06,
        "before": 0.5,
    }
    _cuts._print(record)
    printed = capsys.readouterr().out
    assert all(mark in printed for mark in ("1?", "2*", "3*", "4?"))
    assert "no attack is shown to beat the mean image there" in " ".join(printed.split())
    cuts.draw(record, tmp_path / "cuts.png")
    assert (tmp_path / "cuts.png").read_bytes()[:4] == b"\x89PNG"


def test_a_network_at_chance_and_attacks_that_fail_are_flagged(finished, quick, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cuts, "noisy_accuracy", lambda *_: 0.0)
    monkeypatch.setattr(cuts, "mean_image_error", lambda *_: load("digits").test.images.new_zeros(1).float())
    run = {"data": None, "train_size": None, "test_size": None}
    show(tmp_path / "out", str(finished / "network"), "2", **run, terms=replace(TERMS, max_drop=100.0))
    record = json.loads((tmp_path / "out" / "cuts.json").read_text())
    chance, failed = record["flags"]
    assert "not shown to be better than chance on its" in chance
    assert "say nothing about where to cut" in chance
    assert "no attack is shown to beat the mean image at 2" in failed
    assert "the attacker had" in failed
    assert record["front"] == []
    assert " ".join(capsys.readouterr().err.split()).count("flag ") >= 2


def test_the_audit_says_how_to_go_on(finished):
    record = json.loads((finished / "cuts.json").read_text())
    named = _cuts._next(record)
    assert named.startswith("splitveil train --recipe fast --data digits --arch resnet20 --cut ")
    about = record["settings"] | {"arch": "torchvision:resnet18@relu", "data": "folder:my photos"}
    other = _cuts._next(record | {"settings": about, "front": ["layer2"]})
    assert "--data 'folder:my photos' --arch torchvision:resnet18@layer2 --out runs/layer2" in other
