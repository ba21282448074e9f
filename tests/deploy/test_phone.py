"""The device's graph as a phone's program; ExecuTorch itself is tried where it is installed."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

import small_bundle
from splitveil.data import load
from splitveil.defenses._codec_choice import fit
from splitveil.defenses.gaussian import Gaussian
from splitveil.deploy import bundle, export, phone
from splitveil.deploy.graphs import DeviceGraph
from splitveil.deploy.halves import Sender
from splitveil.errors import UserError
from splitveil.model import SplitModel

DIGITS = load("digits", train_size=40, test_size=20)


def graph() -> tuple[DeviceGraph, list]:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.Conv2d(4, 2, 1))
    model = SplitModel(encoder, nn.Flatten(), defense=[Gaussian(0.2)], example=torch.rand(1, 3, 32, 32)).eval()
    send = Sender(model.requires_grad_(False))
    x = DIGITS.train.images.float() / 255
    draws = send.draws(x[:3])
    return DeviceGraph(send, draws, fit(send(x, torch.Generator().manual_seed(0)), 4)), draws


def test_without_the_package_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(phone, "PACKAGE", "no_such_package")
    options = export.Options(phone=True)
    with pytest.raises(UserError, match=r"--phone needs the package no_such_package; pip install 'splitveil\[phone\]'"):
        export.export(None, DIGITS, tmp_path / "b", options)  # type: ignore[arg-type]
    assert not (tmp_path / "b").exists()


def test_the_program_is_among_the_checksums_of_the_device(tmp_path):
    made = small_bundle.make(tmp_path / "b")
    bundle.write(tmp_path / "c", made.models["device"], made.models["cloud"], made.wire, {phone.FILE: b"program"})
    sums = (tmp_path / "c" / "device" / "SHA256SUMS").read_text()
    assert f"{hashlib.sha256(b'program').hexdigest()}  encoder.pte\n" in sums
    assert "encoder.pte" not in (tmp_path / "c" / "cloud" / "SHA256SUMS").read_text()
    assert bundle.read(tmp_path / "c").wire == made.wire


@pytest.mark.parametrize("wrong", [False, True])
def test_the_program_makes_the_bytes_of_the_graph_or_is_refused(wrong, monkeypatch):
    pytest.importorskip("executorch")
    device, draws = graph()
    if wrong:
        expected = phone._check
        other = graph()[0]
        other.coder.low += 3 * other.coder.step  # type: ignore[operator, union-attr]
        monkeypatch.setattr(phone, "_check", lambda made, _, *rest: expected(made, other, *rest))
        with pytest.raises(UserError, match=r"the exported wire is \d steps off"):
            phone.phone_bytes(device, draws, DIGITS.test, 0)
        return
    made = phone.phone_bytes(device, draws, DIGITS.test, 0)
    assert made == phone.phone_bytes(device, draws, DIGITS.test, 0)
    assert not [word for word in (b"site-packages", b".py", b"/tmp") if word in made]
