"""The int8 tail: weights and ranges as the definition says, its cost measured and told, its bytes repeatable."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import small_bundle
from commands import answer
from splitveil import config, runs
from splitveil.cli.export import _print
from splitveil.data import load
from splitveil.deploy import bundle, quantized
from splitveil.deploy import export as exporting
from splitveil.deploy.export import Exported
from splitveil.deploy.graphs import Session
from splitveil.deploy.verify import Comparison
from splitveil.errors import UserError
from splitveil.statistics.intervals import Interval
from splitveil.training import trainer
from splitveil.zoo import Parts

SIZES: dict[str, Any] = {"train_size": 200, "test_size": 300}
IMAGES = load("digits", **SIZES)


def some(count):
    return torch.randint(0, 256, (count, small_bundle.SENT), dtype=torch.uint8, generator=torch.manual_seed(0))


def test_no_room_for_temporary_files_is_one_line(monkeypatch):
    def full(**more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    with pytest.raises(UserError, match=r"cannot write a temporary file in .*: No space left on device; .* set TMPDIR"):
        quantized.int8(small_bundle.tail_bytes(), some(8))


def constants(model):
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def test_weights_have_a_scale_for_each_channel_and_activations_the_range_of_the_wires():
    tail, wires = small_bundle.tail_bytes(), some(100)
    made = onnx.load_from_string(quantized.int8(tail, wires))
    weights = constants(onnx.load_from_string(tail))["weights"]
    held = constants(made)
    scale, whole = held["weights_scale"], held["weights_quantized"]
    assert whole.dtype == np.int8
    np.testing.assert_allclose(scale, np.abs(weights).max(0) / 64, rtol=0.02)  # reduced range: seven bits
    assert (np.abs(whole * scale - weights) <= scale / 2 + 1e-6).all()
    feature = small_bundle.LOW + small_bundle.STEP * wires.numpy().astype(np.float32)
    np.testing.assert_allclose(held["feature_scale"], (feature.max() - feature.min()) / 255, rtol=1e-4)
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("Add") == 1
    grid = next(node for node in made.graph.node if node.op_type == "Add")
    assert "low" in grid.input  # the codec stays in float32


def test_its_answers_are_near_those_in_float32_and_it_says_nothing_of_this_machine():
    tail, wires = small_bundle.tail_bytes(), some(600)
    made = quantized.int8(tail, wires)
    assert made == quantized.int8(tail, torch.cat([wires[: quantized.IMAGES], some(50)]))  # the first 512 alone
    one, other = (Session(model)({"wire": wires}) for model in (tail, made))
    assert 0 < (one - other).abs().max() < 0.03 * one.abs().max()
    assert b"/tmp" not in made


def test_a_tail_without_such_operators_is_refused():
    nodes = [
        helper.make_node("Cast", ["wire"], ["codes"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["codes", "step"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("wire", onnx.TensorProto.UINT8, ["B", 4])]
    outputs = [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["B", 4])]
    model = small_bundle._file(nodes, inputs, outputs, small_bundle._scalars())
    with pytest.raises(UserError, match="no operator that int8 makes faster; export it with --tail fp32"):
        quantized.int8(model, some(8))


def narrow(*_, classes: int, **__) -> Parts:
    """Images 32×32 to a wire of 2 channels 4×4."""
    encoder = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 2, 2))
    tail = [nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, classes)]
    return Parts(encoder, nn.Sequential(*tail))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(runs.zoo, "build", narrow)
        values = {"data": "digits", **SIZES, "arch": "resnet20_sgm", "cut": 2, "precision": "32-true", "recipe": "fast"}
        folder = tmp_path_factory.mktemp("trained") / "run"
        settings = config.parse({**values, "batch_size": 32, "epochs": 2, "defense": ["gaussian:0.6"]})
        trainer.fit(settings, IMAGES, folder)
        yield folder


def test_an_export_measures_what_it_costs_and_flags_it(run, tmp_path, capsys, monkeypatch, quick_exports):
    out = tmp_path / "b"
    monkeypatch.setattr(exporting, "leak_of", lambda *_: None)  # it exports a third graph
    assert answer("export", run, "--out", out, "--tail", "int8", "--codec", "float32")[0] == 0
    made = bundle.read(out)
    assert b"QuantizeLinear" in made.models["cloud"]
    measured = made.wire["measured"]
    assert "int8_tail" in measured
    cost = measured["int8_tail"]
    assert 100 < cost["calibration_images"] <= SIZES["train_size"]
    assert cost["agreement"]["mean"] > 0.9
    assert cost["difference"] == measured["difference"]  # the codec changes nothing, so that this is all
    lost = Interval(-0.02, -0.03, -0.01)
    compared = Comparison(300, lost, lost, lost, 0.0, quantized.Cost(512, Interval(0.97, 0.96, 0.98), lost))
    _print(Exported(out, made.wire, {"encoder": 1, "tail": 2}, compared), out)
    shown = capsys.readouterr()
    assert "int8 tail: same answers as in float32 97.0%" in " ".join(shown.out.split())
    assert "the int8 tail costs accuracy: choose --tail fp32" in " ".join(shown.err.split())


def test_another_tail_is_refused(run, tmp_path):
    code, error = answer("export", run, "--out", tmp_path / "b", "--tail", "int4")
    assert (code, "tail 'int4'; expected one of: fp32, int8" in error) == (2, True)
