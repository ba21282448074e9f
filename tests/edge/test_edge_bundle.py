"""What a device reads of a bundle, and what it refuses."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import small_bundle
from splitveil.deploy import bundle as exported
from splitveil_edge import UserError, bundle, encode


@pytest.fixture
def folder(tmp_path):
    small_bundle.make(tmp_path / "b")
    return tmp_path / "b" / "device"


def change(folder, wire=None, encoder=None):
    """Change files of a device's folder, and its checksums with them."""
    about = json.loads((folder / "wire.json").read_text())
    for key, value in (wire or {}).items():
        where, _, last = key.rpartition(".")
        (about[where] if where else about)[last] = value
    (folder / "wire.json").write_text(json.dumps(about))
    if encoder is not None:
        (folder / "encoder.onnx").write_bytes(encoder)
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("encoder.onnx", "wire.json")
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


def test_the_device_alone_is_enough(folder):
    found = bundle.read(folder)
    assert found == bundle.read(folder.parent)
    assert found.model_name == exported.read(folder).model_name
    assert (found.image, found.dtype, found.length, found.bytes_per_image) == ((8, 8, 1), "UINT8", 4, 4)
    assert found.draws == (bundle.Draw("n0", "normal", (4,)),)
    assert found.classes == small_bundle.CLASSES


def test_its_keys_are_those_that_an_export_writes():
    assert set(exported.Wire.__annotations__) == bundle.KEYS


@pytest.mark.parametrize("name", ["encoder.onnx", "wire.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["changed", "empty", "missing"])
def test_a_damaged_file_is_one_line(folder, name, damage):
    path = folder / name
    if damage == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(bytes(content) if damage == "changed" else b"")
    with pytest.raises(UserError, match=r"export the run again|is no bundle: it has no wire\.json") as caught:
        bundle.read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        ({"splitveil": 2}, "has schema 2; this version reads 1: install the splitveil-edge that fits"),
        ({"zip": True}, r"damaged \(zip: not a key of schema 1\)"),
        ({"wire.zip": True}, r"damaged \(wire\.zip: not a key of schema 1\)"),
        ({"wire.dtype": "BF16"}, r"wire\.dtype: 'BF16', expected one of: UINT8, FP16, FP32"),
        ({"wire.bits_per_image": 7}, r"wire\.bits_per_image: expected 32"),
        ({"wire.shape": [2, 2]}, r"wire\.shape: \[2, 2\], expected 1 sizes"),
        ({"image.shape": [8, 8, 0]}, r"image\.shape: \[8, 8, 0\], expected 3 sizes of 1 or more"),
        ({"draws": [{"name": "n0", "kind": "cauchy", "shape": [4]}]}, r"draws\.kind: 'cauchy', expected one of"),
        ({"draws": [{"name": "n0", "kind": "integer", "shape": [4]}]}, r"draws\.high: None, expected 1 to 2\*\*53"),
        ({"draws": [{"name": "n0", "kind": "normal"}]}, r"draws\.shape: missing"),
        ({"classes": ["cat"]}, r"outputs\.shape: \[3\], expected \[1\]"),
        ({"classes": None}, "classes: NoneType, expected list"),
        ({"name": "a/../b"}, "name: other letters than"),
        ({"outputs": []}, "outputs: 0 of them, expected 1"),
    ],
)
def test_a_description_of_another_kind_is_one_line(folder, wire, words):
    change(folder, wire)
    with pytest.raises(UserError, match=words):
        bundle.read(folder)


def test_what_is_no_bundle(tmp_path, folder):
    with pytest.raises(UserError, match=r"is no bundle: it has no wire\.json; name the folder device"):
        bundle.read(tmp_path)
    with pytest.raises(UserError, match=r"names no encoder\.onnx; expected the folder device"):
        bundle.read(folder.parent / "cloud")


def graph(*nodes, image=("B", 8, 8, 1)):
    """Return an encoder that does not fit wire.json."""
    made = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Cast", ["flat"], ["floats"], to=TensorProto.FLOAT),
            *nodes,
            helper.make_node("Cast", [nodes[-1].output[0] if nodes else "floats"], ["wire"], to=TensorProto.UINT8),
        ],
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, image)],
        [helper.make_tensor_value_info("wire", TensorProto.UINT8, ["B", 64])],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (graph(), r"encoder\.onnx takes .* which is not what wire\.json says"),
        (graph(helper.make_node("RandomNormalLike", ["floats"], ["n"], seed=1.0)), r"draws by itself \(RandomNormal\)"),
        (b"no graph", r"encoder\.onnx cannot be loaded \(onnxruntime "),
    ],
)
def test_an_encoder_that_draws_or_is_another_is_refused(folder, content, words):
    change(folder, encoder=content)
    with pytest.raises(UserError, match=words) as caught:
        encode.Encoder(bundle.read(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("codec", "dtype", "kind"), [("float16", "FP16", TensorProto.FLOAT16), ("float32", "FP32", TensorProto.FLOAT)]
)
def test_float_wires_go_with_their_lowest_byte_first_and_must_be_finite(folder, codec, dtype, kind):
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Log", ["floats"], ["logs"]),
        helper.make_node("Cast", ["logs"], ["wire"], to=kind),
    ]
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", 8, 8, 1])],
        [helper.make_tensor_value_info("wire", kind, ["B", 64])],
    )
    content = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(content)
    bits = 64 * (16 if dtype == "FP16" else 32)
    wire = {"wire.codec": codec, "wire.dtype": dtype, "wire.shape": [64], "wire.bits_per_image": bits, "draws": []}
    change(folder, wire, content.SerializeToString())
    wires = encode.Wires(bundle.read(folder), 4)
    image = np.full((1, 8, 8, 1), 7, np.uint8)
    (sent,) = wires.of(image)
    number = np.dtype("<f2" if dtype == "FP16" else "<f4")
    assert np.allclose(np.frombuffer(sent, number), np.log(7), rtol=1e-3)
    assert 8 * len(sent) == bits
    with pytest.raises(UserError, match="a number that is not finite"):
        wires.of(np.zeros_like(image))
