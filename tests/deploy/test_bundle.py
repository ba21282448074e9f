"""Bundles appear whole or not at all, and a damaged one is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any, cast

import pytest

from splitveil.deploy import bundle, manifests
from splitveil.errors import UserError
from splitveil.storage import folders

INTERVAL = {"mean": 0.5, "ci95": [0.4, 0.6]}
ABOUT: dict[str, Any] = {
    "splitveil": 1,
    "name": "digits",
    "image": {"dtype": "UINT8", "shape": [8, 8, 3]},
    "draws": [{"name": "n0", "kind": "integer", "shape": [4], "high": 3}],
    "wire": {"dtype": "UINT8", "shape": [2], "codec": "uint4", "bits_per_image": 16, "error_over_sigma": 0.3},
    "outputs": [{"name": "logits", "dtype": "FP32", "shape": [10]}],
    "classes": ["zero", "grün"],
    "measured": {"images": 4, "codes_differ": 0.0}
    | dict.fromkeys(("accuracy_torch", "accuracy_bundle", "difference"), INTERVAL),
    "audit": None,
}
ENCODER, TAIL = b"encoder", b"tail"


def make(out, encoder=ENCODER, **about):
    told = {**ABOUT, **about}
    wire = cast("bundle.Wire", {**told, "pair": bundle.pair_of(encoder, TAIL, told)})
    bundle.write(out, encoder, TAIL, wire, {"triton/x/config.pbtxt": manifests.triton_config(wire)})
    return wire


def test_a_bundle_and_its_parts_are_read_back(tmp_path):
    wire = make(tmp_path / "b")
    whole = bundle.read(tmp_path / "b")
    assert (whole.wire, whole.models) == (wire, {"device": ENCODER, "cloud": TAIL})
    assert bundle.read(tmp_path / "b" / "device").models == {"device": ENCODER}
    assert bundle.read(tmp_path / "b" / "cloud").models == {"cloud": TAIL}
    assert whole.model_name == f"digits-{wire['pair']}"
    sums = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "b" / "cloud", capture_output=True)
    assert sums.returncode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_the_pair_holds_models_and_description_together():
    pairs = {bundle.pair_of(ENCODER, TAIL, ABOUT), bundle.pair_of(b"other", TAIL, ABOUT)}
    pairs |= {bundle.pair_of(ENCODER, b"other", ABOUT), bundle.pair_of(ENCODER, TAIL, {**ABOUT, "name": "x"})}
    assert len(pairs) == 4
    assert bundle.pair_of(ENCODER, TAIL, {**ABOUT, "pair": "000000000000"}) in pairs


@pytest.mark.parametrize("name", ["device/encoder.onnx", "device/wire.json", "cloud/tail.onnx", "cloud/SHA256SUMS"])
@pytest.mark.parametrize("damage", ["changed", "cut", "empty", "missing"])
def test_a_damaged_file_is_one_line(tmp_path, name, damage):
    make(tmp_path / "b")
    path = tmp_path / "b" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"changed": bytes(content), "cut": bytes(content)[:-3], "empty": b""}[damage])
    with pytest.raises(UserError, match=r"export the run again") as caught:
        bundle.read(tmp_path / "b")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"more": 1}, r"damaged \(more: Extra inputs are not permitted\)"),
        ({"wire": {**ABOUT["wire"], "zip": True}}, r"damaged \(wire.zip: Extra inputs"),
        ({"splitveil": 2}, "has schema 2; this version reads 1"),
        ({"name": "../x"}, "expected 1 to 64 of a-z"),
        ({"classes": None}, r"damaged \(classes: "),
        ({"outputs": []}, r"damaged \(outputs: "),
        ({"wire": {**ABOUT["wire"], "shape": [0]}}, r"damaged \(wire.shape.0: "),
    ],
)
def test_a_description_of_another_kind_is_refused(tmp_path, change, reason):
    make(tmp_path / "b", **change)
    with pytest.raises(UserError, match=reason):
        bundle.read(tmp_path / "b")


def test_parts_of_two_exports_are_refused(tmp_path):
    make(tmp_path / "b")
    make(tmp_path / "c", b"another")
    (tmp_path / "b" / "device").rename(tmp_path / "old")
    (tmp_path / "c" / "device").rename(tmp_path / "b" / "device")
    with pytest.raises(UserError, match="a device and a cloud of different exports"):
        bundle.read(tmp_path / "b")


def test_only_a_bundle_is_replaced_and_only_when_asked(tmp_path):
    bundle.check_place(tmp_path / "new", False)
    make(tmp_path / "b")
    with pytest.raises(UserError, match="holds a bundle already; add --overwrite"):
        bundle.check_place(tmp_path / "b", False)
    bundle.check_place(tmp_path / "b", True)
    make(tmp_path / "b", b"another")
    assert bundle.read(tmp_path / "b").models["device"] == b"another"
    (tmp_path / "b" / "key.pem").touch()
    with pytest.raises(UserError, match=r"holds key\.pem beside a bundle; move it elsewhere"):
        bundle.check_place(tmp_path / "b", True)
    (tmp_path / "mine").mkdir()
    bundle.check_place(tmp_path / "mine", False)
    (tmp_path / "mine" / "letter").touch()
    with pytest.raises(UserError, match="exists and is no bundle"):
        bundle.check_place(tmp_path / "mine", True)


def test_a_place_that_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for place, said in ((".", "in use"), ("..", "in use"), ("/", "in use"), ("file/b", "file takes no new folder")):
        with pytest.raises(UserError, match=f"{said}.* choose"):
            bundle.check_place(place, True)
    bundle.check_place("a/b/c", False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_goes_on_naming_the_folder(tmp_path):
    make(tmp_path / "b")
    (tmp_path / "latest").symlink_to("b")
    make(tmp_path / "latest", b"another")
    assert (tmp_path / "latest").is_symlink()
    assert bundle.read(tmp_path / "b").models["device"] == b"another"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "latest"]


STORY = """
import os, signal, sys
from pathlib import Path
from splitveil.storage import folders
moves, stop = 0, int(sys.argv[2])
def killed(self, target, rename=Path.rename):
    global moves
    if moves == stop:
        os.kill(os.getpid(), signal.SIGKILL)
    moves += 1
    return rename(self, target)
Path.rename = killed
with folders.whole_folder(sys.argv[1], "export") as folder:
    (folder / "one").write_text("new")
    (folder / "two").write_text("new")
    if stop < 0:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_export_leaves_the_old_or_nothing_and_the_next_one_is_whole(tmp_path):
    for stop in (-1, 0, 1):  # amid writing, before the old one is moved away, before the new one takes its name
        out = tmp_path / f"at{stop}"
        out.mkdir()
        (out / "one").write_text("old")
        done = subprocess.run([sys.executable, "-c", STORY, out, str(stop)], env=os.environ)
        assert done.returncode == -signal.SIGKILL
        held = {path.name: path.read_text() for path in out.glob("*")} if out.exists() else None
        assert held == (None if stop == 1 else {"one": "old"})
        with folders.whole_folder(out, "export") as folder:
            (folder / "one").write_text("next")
        assert {path.name: path.read_text() for path in out.iterdir()} == {"one": "next"}
        assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_full_disk_is_one_line_and_what_was_there_stays(tmp_path, monkeypatch):
    make(tmp_path / "b")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "_written", full)
    with pytest.raises(UserError, match=r"cannot write .*b: No space left on device; free some space"):
        make(tmp_path / "b", b"another")
    assert bundle.read(tmp_path / "b").models["device"] == ENCODER
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_files_of_other_servers_name_the_model_and_its_tensors():
    import yaml

    wire = cast("bundle.Wire", {**ABOUT, "pair": "0123456789ab", "name": "my_set.1"})
    config = manifests.triton_config(wire)
    assert 'name: "my_set.1-0123456789ab"' in config
    assert '{ name: "wire" data_type: TYPE_UINT8 dims: [2] }' in config
    assert '{ name: "logits" data_type: TYPE_FP32 dims: [10] }' in config
    manifest = yaml.safe_load(manifests.kserve_manifest(wire))
    assert manifest["metadata"]["name"] == "my-set-1-0123456789ab"
    assert manifest["spec"]["predictor"]["model"]["protocolVersion"] == "v2"
    assert json.loads(bundle.canonical(wire)) == wire
