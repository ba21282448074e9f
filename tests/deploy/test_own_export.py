"""A model that was made in Python becomes a bundle that devices and servers read, or is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import splitveil as sv
from splitveil.deploy import audited, bundle
from splitveil.deploy.graphs import Session
from splitveil.evaluation import suites

pytestmark = pytest.mark.usefixtures("quick_exports")

X = torch.rand(40, 1, 12, 16, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3


def model_of(*defenses: Any) -> sv.SplitModel:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(192, 3))
    return sv.split(net, at="1", example=X[:1], defenses=list(defenses), mean=[0.5], std=[0.3])


def test_a_gray_network_of_ones_own_is_exported_and_answers_as_in_python(tmp_path):
    model = model_of(sv.Gaussian(0.05))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = sv.export(
        model, tmp_path / "bundle", train=(X, Y), test=(X, Y), classes=["a", "b", "c"], name="mine", codec="float32"
    )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(value.requires_grad for value in model.parameters())
    read = bundle.read(found.out)
    assert read.wire["classes"] == ["a", "b", "c"]
    assert read.wire["image"]["shape"] == [12, 16, 1]
    assert (read.wire["name"], read.wire["audit"]) == ("mine", None)
    from splitveil_edge import bundle as device_bundle
    from splitveil_edge.encode import Encoder

    pixels = (X * 255).round().byte().permute(0, 2, 3, 1).numpy()
    wires = Encoder(device_bundle.read(found.out / "device"))(pixels)
    tail = Session((found.out / "cloud" / "tail.onnx").read_bytes())
    logits = tail({"wire": torch.tensor(wires)}).numpy()
    clean = model.eval().tail(model.features(torch.tensor(pixels).permute(0, 3, 1, 2) / 255)).detach().numpy()
    assert np.abs(logits - clean).max() < 0.6  # noise of 0.05 through a linear layer


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"classes": ["a", "b"]}, "classes has 2 names, the network has 3 outputs"),
        ({"codec": "zip"}, "codec 'zip'; expected one of"),
        ({"name": "My model"}, "name 'My model'; expected 1 to 64"),
        ({"test": (X[:, :, :, :12], Y)}, "the images of test have shape"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(tmp_path, more, message):
    given = {"train": (X, Y), "test": (X, Y)} | more
    with pytest.raises(sv.UserError, match=message):
        sv.export(model_of(sv.Gaussian(0.05)), tmp_path / "bundle", **given)
    assert not (tmp_path / "bundle").exists()


def test_a_wire_without_noise_is_refused_in_words_of_python(tmp_path):
    with pytest.raises(sv.UserError, match="allow_undefended=True"):
        sv.export(model_of(), tmp_path / "bundle", train=(X, Y), test=(X, Y))
    sv.export(model_of(), tmp_path / "bundle", train=(X, Y), test=(X, Y), allow_undefended=True)
    assert bundle.read(tmp_path / "bundle").wire["draws"] == []


def card_of(model: sv.SplitModel, **more: Any) -> Any:
    given: dict[str, Any] = {"suite": "smoke-v1", "bounds": ("linkage",), "progress": False, **more}
    return sv.privacy_card(model, learn_from=(X[:20], Y[:20]), invert=(X[20:], Y[20:]), **given)


@pytest.fixture(scope="module")
def carded() -> Any:
    return card_of(model_of(sv.Gaussian(0.05)), codec="uint8", train=(X, Y))


@pytest.fixture(scope="module")
def without(tmp_path_factory) -> Any:
    """A bundle without a card."""
    out = tmp_path_factory.mktemp("bundles") / "without"
    return sv.export(model_of(sv.Gaussian(0.05)), out, train=(X, Y), test=(X, Y), codec="uint8")


@pytest.mark.parametrize("saved", [False, True])
def test_a_bundle_holds_the_card_of_exactly_its_wire(tmp_path, carded, without, saved):
    if saved:
        carded.save(tmp_path / "card")
    given = {"train": (X, Y), "test": (X, Y), "codec": "uint8"}
    card = tmp_path / "card" if saved else carded
    with_card = sv.export(model_of(sv.Gaussian(0.05)), tmp_path / "with", card=card, **given)
    kept = json.loads((tmp_path / "with" / "card.json").read_text())
    assert f"/with': model-{with_card.wire['pair']}, 192 bytes for each image by uint8, accuracy " in repr(with_card)
    assert repr(with_card).endswith(f"privacy card: {carded.verdict})")
    assert repr(without).endswith("no privacy card)")
    assert kept["model"] == carded.record()["model"]
    assert "by the codec uint8" in (tmp_path / "with" / "card.html").read_text()
    summary = bundle.read(with_card.out).wire["audit"]
    assert summary is not None
    assert (summary["verdict"], summary["suite"]) == (carded.verdict, "smoke-v1")
    assert not (without.out / "card.json").exists()
    names = ("device/encoder.onnx", "cloud/tail.onnx")
    assert all((with_card.out / name).read_bytes() == (without.out / name).read_bytes() for name in names)


def test_a_card_of_another_wire_is_refused_before_anything_is_made(tmp_path, carded, monkeypatch):
    monkeypatch.setattr("splitveil.deploy.own.convert", None)
    model, given = model_of(sv.Gaussian(0.05)), {"train": (X, Y), "test": (X, Y), "codec": "uint8"}
    other = r"the card is of another model \([0-9a-f]{12}\) than the one given \([0-9a-f]{12}\), .* version of torch"
    for wrong, more, message in (
        (
            model,
            {"codec": "uint4"},
            "the card is about a wire that is sent by uint8, this bundle sends uint4; make the",
        ),
        (model_of(sv.Gaussian(0.5)), {}, other),  # its weights are the same
        (model, {"train": (X[:7], Y[:7])}, other),
        (model, {"card": 3}, "card is a int; expected what splitveil.privacy_card returns, or the folder of its save"),
        (model, {"card": tmp_path / "nowhere"}, "nowhere"),
        (model, {"card": ""}, r"^card is an empty text; give the folder of card\.save\(\.\.\.\)$"),
    ):
        with pytest.raises(sv.UserError, match=message):
            sv.export(wrong, tmp_path / "bundle", **{"card": carded, **given, **more})
    carded.save(tmp_path / "card")
    for name in ("audit.json", "audit.html"):
        file = tmp_path / "card" / name
        with pytest.raises(sv.UserError, match=rf"^card is the file {file}; give the folder of card\.save\(\.\.\.\)$"):
            sv.export(model, tmp_path / "bundle", **given, card=str(file))
    (tmp_path / "card" / "audit.html").write_text("another card")
    with pytest.raises(sv.UserError, match=r"audit.html is missing, or of another card than its record; give the"):
        sv.export(model, tmp_path / "bundle", **given, card=tmp_path / "card")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("record", [{}, {"model": None}, {"model": "mine"}, []])
def test_a_record_that_does_not_say_what_it_is_about_is_refused(record):
    model = model_of(sv.Gaussian(0.05))
    with pytest.raises(sv.UserError, match=r"^the card does not say which model it is about; give what"):
        audited.checked(record, model, model)


def test_a_card_before_any_codec_is_that_of_a_bundle_of_float32(tmp_path, monkeypatch):
    monkeypatch.setitem(suites.SUITES, "brief", suites.specs("linear"))
    model = model_of(sv.Gaussian(0.05))
    card = card_of(model, suite="brief")
    made = sv.export(model, tmp_path / "bundle", train=(X, Y), test=(X, Y), codec="float32", card=card)
    assert (made.out / "card.html").is_file()
    with pytest.raises(
        sv.UserError, match="the card is about the wire before any codec, this bundle sends uint8; make"
    ):
        sv.export(model, tmp_path / "other", train=(X, Y), test=(X, Y), codec="uint8", card=card)
