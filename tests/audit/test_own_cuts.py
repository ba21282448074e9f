"""Where to cut a network that is given as a module, with arrays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import splitveil as sv
from splitveil.audit import cuts, equal_noise, one_cut

SIDE = 12
FEW: dict[str, Any] = {"max_drop": 60, "decoder_epochs": 1, "progress": False}


def images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Dark and bright noise, the class."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    return (0.4 * torch.rand(count, 1, SIDE, SIDE, generator=rng) + 0.5 * y.view(-1, 1, 1, 1)), y


def network() -> nn.Sequential:
    """A convolution with its ReLU, a second one, and a linear layer that tells dark from bright."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(18, 2)
    )
    model = sv.split(net, at="1", example=images(1, 0)[0])
    sv.fit(model, images(120, 1), epochs=4, batch_size=30, progress=False)
    net.load_state_dict({**model.encoder.state_dict(), **model.tail.state_dict()})
    return net.eval()


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    return {"learn_from": images(50, 2), "invert": images(20, 3)}


@pytest.fixture(scope="module")
def quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equal_noise, "STEPS", 2)
        patch.setattr(one_cut, "DECODER", "conv_normN1C4")
        yield


@pytest.fixture(scope="module")
def found(given, quick) -> sv.Cuts:
    return sv.compare_cuts(network(), images(80, 4), **given, **FEW)


def test_every_cut_that_is_worth_it_has_its_costs_and_errors(found):
    assert [row["layer"] for row in found.rows] == ["1", "2", "3", "4"]
    assert [list(row["wire"]) for row in found.rows] == [[2, 12, 12], [2, 3, 3], [2, 3, 3], [18]]
    assert [row["bytes"] for row in found.rows] == [4 * 288, 4 * 18, 4 * 18, 4 * 18]
    first, second = 2 * 9 * 144, 4 * 9
    assert [row["multiply_adds"] for row in found.rows] == [first, first, first + second, first + second]
    for row in found.rows:
        assert row["accuracy_val"] >= found.record["before"] - 0.6
        assert row["linear"]["ci95"][0] <= row["linear"]["mean"] <= row["linear"]["ci95"][1]
    assert set(found.front) <= {"1", "2", "3", "4"}
    assert found.front == cuts.front(found.rows, found.record["mean_image"])


def test_it_is_printed_as_a_table_and_drawn(found, tmp_path):
    first, heads, *rest = repr(found).splitlines()
    assert first == "Sequential, at most 60 points of accuracy lost"
    assert heads.split() == ["cut", "Mult-adds", "Weights", "Bytes", "Accuracy", "Linear", "Decoder", "Linkage", "Nats"]
    assert [line.split()[0].rstrip("*?") for line in rest[:4]] == ["1", "2", "3", "4"]
    assert "1,152" in rest[0]
    assert any(line.startswith("error of always answering the mean image: 0.") for line in rest)
    assert all(f"flag: {flag}" in repr(found) for flag in found.flags)
    path = found.picture(tmp_path / "cuts.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert found.plot()._repr_png_()[1:4] == b"PNG"  # type: ignore[attr-defined]


def test_the_network_stays_as_it_is_and_equal_seeds_give_equal_figures(given, quick, found):
    net = network().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    again = sv.compare_cuts(net, images(80, 4), layers=["2"], **given, **FEW)
    assert net.training
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    (row,) = again.rows
    same = ("wire", "sigma", "accuracy", "linear", "decoder")
    assert [row[name] for name in same] == [found.rows[1][name] for name in same]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"layers": ["9"]}, "the network has no layer '9'"),
        ({"layers": ["1", "1"]}, "layers names '1' twice; name each layer once"),
        ({"layers": []}, "layers is empty; expected names of layers, or 'all'"),
        ({"layers": ["5"]}, "a cut at '5' leaves no weights in the cloud"),
        (
            {"max_drops": 1},
            "compare_cuts has no setting 'max_drops'; did you mean 'max_drop'? expected one of",
        ),
        ({"max_drop": 0}, "max_drop is 0"),
        ({"test": images(9, 5)[::-1]}, "the images of test have shape"),
        ({"invert": images(50, 2)}, "learn_from and invert share 50 images"),
        (
            {"data": images(1, 4)},
            "data has 1 images, of which a tenth validates; expected at least 20, or give validate",
        ),
        ({"layers": 5}, "layers has 5; expected a name, as network.named_modules() has it, a list of names, or 'all'"),
        ({"layers": None}, "layers has None; expected a name"),
        ({"layers": ["1", 1]}, "layers has 1; expected a name"),
        ({"seed": "a"}, "seed is 'a'; expected a whole number from 0"),
        ({"attacked": 1}, "attacked is 1; expected at least 2 images"),
        ({"tested": 1}, "tested is 1; expected at least 20 images"),
        ({"test": images(1, 5)}, "test has 1 images, for accuracy and linkage; expected at least 20"),
        ({"invert": images(2, 5)}, "invert has 2 images, for accuracy and linkage; expected at least 20, or give test"),
        ({"validate": (images(9, 5)[0], torch.full((9,), 7))}, "the labels of validate go from 7 to 7"),
    ],
)
def test_bad_input_is_refused_before_any_cut_is_measured(monkeypatch, given, more, message):
    monkeypatch.setattr(cuts, "measured", None)
    with pytest.raises(sv.UserError) as error:
        sv.compare_cuts(network(), **{"data": images(80, 4), **given, "progress": False, **more})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_images_that_the_network_does_not_take_are_refused(given):
    x, y = images(20, 4)
    with pytest.raises(sv.UserError, match=r"does not take an input of shape \(1, 1, 16, 16\)"):
        sv.compare_cuts(network(), (nn.functional.pad(x, (2, 2, 2, 2)), y), **given, progress=False)
    with pytest.raises(sv.UserError, match="network is a int; expected a torch"):
        sv.compare_cuts(3, (x, y), **given)  # type: ignore[arg-type]
    with pytest.raises(sv.UserError, match=r"network is a SplitModel, .* give the network before sv\.split"):
        sv.compare_cuts(sv.split(network(), at="1", example=x[:1]), (x, y), **given)
