"""A run of digits as a bundle: it agrees with PyTorch, repeats byte for byte, and says nothing of this machine."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from commands import answer, state_of
from splitveil import config, runs
from splitveil.cli.export import _question
from splitveil.coded import coded_run
from splitveil.data import Split, load
from splitveil.defenses import _codec, _codec_choice
from splitveil.defenses.gaussian import Gaussian
from splitveil.deploy import bundle, graphs
from splitveil.deploy import export as exporting
from splitveil.deploy.audited import audit_of, files
from splitveil.deploy.graphs import CloudGraph, DeviceGraph, Session
from splitveil.deploy.halves import Receiver, Sender
from splitveil.deploy.verify import Pair, as_input, check_logits, check_share, compare
from splitveil.errors import UserError
from splitveil.evaluation.stage import parts
from splitveil.model import SplitModel
from splitveil.storage.files import json_digest
from splitveil.training import trainer
from splitveil.zoo import Parts

SIZES: dict[str, Any] = {"train_size": 200, "test_size": 300}
IMAGES = load("digits", **SIZES)


def narrow(*_, classes: int, **__) -> Parts:
    """Images 32×32 to a wire of 2 channels 4×4."""
    encoder = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 2, 2))
    return Parts(encoder, nn.Sequential(nn.Flatten(), nn.Linear(32, classes)))


@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(runs.zoo, "build", narrow)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, small) -> Path:
    values = {"data": "digits", **SIZES, "arch": "resnet20_sgm", "cut": 2, "precision": "32-true", "recipe": "fast"}
    folder = tmp_path_factory.mktemp("trained") / "run"
    trainer.fit(config.parse({**values, "batch_size": 32, "epochs": 2, "defense": ["gaussian:0.6"]}), IMAGES, folder)
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory, quick_exports) -> Path:
    out = tmp_path_factory.mktemp("exported") / "bundle"
    assert answer("export", run, "--out", out) == (0, "")
    return out


def test_the_commands_that_follow_can_be_pasted(tmp_path):
    digits, out = replace(IMAGES, example=None), tmp_path / "my bundle"
    assert _question(out, digits) == (
        f"splitveil query '{out}/device' IMAGE --url http://127.0.0.1:8080; "
        "there IMAGE is the file of a picture of 32 by 32 pixels"
    )
    for size, more in ((32, ""), (40, " --resize bilinear")):
        file = tmp_path / f"{size}.png"
        Image.new("RGB", (size, size)).save(file)
        expected = f"splitveil query '{out}/device' {file} --url http://127.0.0.1:8080{more}"
        assert _question(out, replace(IMAGES, example=file)) == expected


def test_a_bundle_holds_what_each_side_needs(exported):
    whole = bundle.read(exported)
    wire = whole.wire
    assert {str(path) for path in state_of(exported)} == {
        *(f"device/{name}" for name in ("encoder.onnx", "wire.json", "SHA256SUMS")),
        *(f"cloud/{name}" for name in ("tail.onnx", "wire.json", "SHA256SUMS")),
        *(f"triton/{whole.model_name}/{name}" for name in ("config.pbtxt", "1/model.onnx")),
        "attack/linear.onnx",
        "kserve.yaml",
    }
    assert wire["draws"] == [{"name": "n0", "kind": "normal", "shape": [2, 4, 4]}]
    assert wire["image"] == {"dtype": "UINT8", "shape": [32, 32, 3]}
    assert (wire["name"], len(wire["classes"])) == ("digits", 10)
    coded = wire["wire"]
    assert (coded["codec"], coded["shape"], coded["bits_per_image"]) == ("uint4", [16], 128)
    assert coded["error_over_sigma"] is not None
    assert 0 < coded["error_over_sigma"] <= _codec_choice.ENOUGH
    assert wire["measured"]["images"] == 300


def test_the_files_run_without_the_model_and_answer_as_it_does(exported, run, small):
    whole, model = bundle.read(exported), runs.Run.open(run).model(IMAGES)
    images = IMAGES.test.images[:40]
    noise = torch.randn(40, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    wire = Session(whole.models["device"])({"image": as_input(images), "n0": noise})
    assert wire.dtype == torch.uint8
    logits = Session(whole.models["cloud"])({"wire": wire})
    with torch.no_grad():
        expected = model.tail(model.features(images.float() / 255) + 0.6 * noise)
    assert float((logits - expected).abs().max()) < 0.5 * float(expected.std())  # but for four bits
    assert float((logits.argmax(1) == expected.argmax(1)).float().mean()) > 0.8


def test_the_linear_attack_in_it_makes_of_a_wire_what_the_attack_itself_does(exported, run, small):
    whole, loaded = bundle.read(exported), runs.Run.open(run)
    measured = whole.wire["measured"].get("linear_mse")
    assert measured is not None
    given = parts(loaded.settings, IMAGES, loaded.settings.protocol, None, None).attacker_test
    images = given.images[: measured["images"]]
    noise = torch.randn(len(images), 2, 4, 4, generator=torch.Generator().manual_seed(1))
    wire = Session(whole.models["device"])({"image": as_input(images), "n0": noise})
    seen = Session((exported / bundle.PICTURE).read_bytes())({"wire": wire})
    assert (seen.dtype, seen.shape) == (torch.uint8, as_input(images).shape)
    errors = ((seen.float() - as_input(images).float()) / 255).square().flatten(1).mean(1)
    # The rank is that of the wire here; the draws are others than the export's.
    assert float(errors.mean()) == pytest.approx(measured["coded"]["mean"], rel=0.1)
    assert measured["difference"]["mean"] == pytest.approx(measured["coded"]["mean"] - measured["float32"]["mean"])
    assert float(errors.mean()) < 0.9 * float((images.float() / 255).var(0).mean())


def test_an_audit_of_what_is_sent_goes_along_without_the_paths_of_this_machine(run, tmp_path, small):
    copied = runs.Run.open(shutil.copytree(run, tmp_path / "run"))
    assert audit_of(copied, "uint4") == (None, {})
    coded = coded_run(copied, IMAGES, "uint4")
    record = {
        "model": {"run": str(coded.path), "weights": coded.digest(), "data": f"folder:root={tmp_path}/faces,size=32"},
        "verdict": {"level": "reduces leakage", "sentence": "An attacker ..."},
        "attacker": {"suite": "quick-v2", "images": 60, "attacked": 60},
        "best_attacker": {"name": "linear", "mse": {"mean": 0.05, "ci95": [0.04, 0.06]}},
        "reference": {"run": "."},
        "policy": {"file": f"{tmp_path}/policy.yaml", "met": True},
        "command": f"splitveil audit {coded.path} --root {tmp_path}/images",
        "date": "2026-11-28",
    }
    (coded.path / "audit").mkdir()
    (coded.path / "audit" / "audit.json").write_text(json.dumps(record))
    page = f'<meta name="record" content="{json_digest(record)}"><b>{coded.path}</b><pre>{record["command"]}</pre>'
    (coded.path / "audit" / "audit.html").write_text(page)
    summary, files = audit_of(copied, "uint4")
    assert summary is not None
    assert (summary["verdict"], summary["best_attacker"]["mse"]["mean"]) == ("reduces leakage", 0.05)
    assert str(files["card.html"]).endswith("><b>uint4</b><pre>splitveil audit run --codec uint4</pre>")
    assert str(tmp_path) not in str(files)
    assert json.loads(str(files["card.json"]))["policy"]["file"] == "policy.yaml"
    assert json.loads(str(files["card.json"]))["reference"]["run"] == "."
    assert json.loads(str(files["card.json"]))["model"]["data"] == "folder:root=faces,size=32"
    assert audit_of(copied, "uint8") == (None, {})
    (coded.path / "audit" / "audit.json").write_text(json.dumps({**record, "verdict": {"level": "leaks"}}))
    assert set(audit_of(copied, "uint4")[1]) == {"card.json"}  # the page is of another audit
    runs.save_weights(SplitModel(torch.nn.Identity(), torch.nn.Identity()), copied.path / "model.safetensors")
    assert audit_of(copied, "uint4") == (None, {})  # the card is of other weights


def test_a_coded_reference_is_named_with_its_run_where_the_audited_one_has_the_same_name():
    record = {"model": {"run": "runs/cem/coded/uint4"}, "reference": {"run": "/home/me/none/coded/uint4"}}
    kept = json.loads(str(files(record, "")["card.json"]))
    assert (kept["model"]["run"], kept["reference"]["run"]) == ("uint4", "none/coded/uint4")


def test_nothing_in_it_says_where_it_was_made(exported, run):
    here = {str(run), str(exported), str(Path.cwd()), str(Path.home()), socket.gethostname(), getpass.getuser()}
    secrets = [word.encode() for word in here if len(word) > 3] + [b"site-packages", b"splitveil/", b".py", b"/tmp"]
    for path in exported.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert [word for word in secrets if word in content] == [], path


def test_the_same_run_gives_the_same_bytes_and_a_bundle_is_not_overwritten_unasked(exported, run, tmp_path):
    again = tmp_path / "again"
    assert answer("export", run, "--out", again, "--overwrite")[0] == 0
    assert state_of(again) == state_of(exported)
    code, said = answer("export", run, "--out", again)
    assert (code, said.count("\n")) == (2, 1)
    assert "holds a bundle already; add --overwrite" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--codec", "uint3"], "codec 'uint3'; expected one of: auto, uint8"),
        (["--name", "Über uns"], "name 'Über uns'; expected 1 to 64 of a-z"),
    ],
)
def test_bad_options_are_one_line_and_nothing_is_written(run, tmp_path, arguments, said):
    code, error = answer("export", run, "--out", tmp_path / "b", *arguments)
    assert (code, error.count("\n")) == (2, 1)
    assert said in error
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "PACKAGES", ("onnx", "no_such_package"))
    code, said = answer("export", run, "--out", tmp_path / "b")
    assert (code, said) == (
        2,
        "splitveil: exporting needs the package no_such_package; pip install 'splitveil[deploy]'\n",
    )


def test_a_wire_without_noise_is_refused_unless_it_is_asked_for():
    parts = narrow(classes=10)
    model = SplitModel(parts.encoder, parts.tail, example=torch.rand(1, 3, 32, 32)).eval()
    with pytest.raises(
        UserError, match="nothing on this wire is random, so that it hides little; add --allow-undefended"
    ):
        exporting.convert(model, IMAGES.train, IMAGES.test, exporting.Options(), lambda *_: None)
    torch.nn.init.constant_(next(parts.tail.parameters()), torch.nan)
    with pytest.raises(UserError, match=r"tail\.1\.weight holds NaN or infinity"):
        exporting.convert(model, IMAGES.train, IMAGES.test, exporting.Options(undefended=True), lambda *_: None)


def pair(encoder: Any, tail: Any, coder: Any = None) -> Pair:
    """The graphs of an untrained network with other sessions."""
    torch.manual_seed(0)
    parts = narrow(classes=10)
    model = SplitModel(parts.encoder, parts.tail, defense=Gaussian(0.2), example=torch.rand(1, 3, 32, 32)).eval()
    send = Sender(model)
    draws = send.draws(IMAGES.train.images[:3].float() / 255)
    sent, _ = exporting.sample(send, IMAGES.train, 0)
    coder = _codec_choice.fit(sent, 4) if coder is None else coder
    device, cloud = DeviceGraph(send, draws, coder), CloudGraph(Receiver(model), coder)

    def run_device(inputs):
        return encoder(device(inputs["image"], [inputs["n0"]]), inputs)

    return Pair(device, cloud, run_device, lambda inputs: tail(cloud(inputs["wire"])), draws)  # type: ignore[arg-type]


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


FEW = IMAGES.test.subset(torch.arange(40))
WRONG = {
    r"differs from PyTorch's in \d+ of 1,280 numbers": lambda wire, _: wire ^ (wire % 16 == 6).to(torch.uint8),
    r"the exported wire is 8 steps off; expected one at most": lambda wire, _: wire ^ 8,
    r"differs in a batch of 17 from alone in \d+": lambda wire, _: wire ^ (wire % 16 == 6) * (len(wire) > 2),
    "the exported wire is the same for any draws": lambda wire, inputs: inputs["image"][:, 0, :16, 0],
}


@pytest.mark.parametrize("said", WRONG)
def test_files_that_do_not_agree_are_refused(said):
    assert compare(pair(lambda wire, _: wire, lambda logits: logits), FEW, rng()).codes_differ == 0
    with pytest.raises(UserError, match=said):
        compare(pair(WRONG[said], lambda logits: logits), FEW, rng())


def test_a_tail_that_answers_otherwise_is_refused():
    with pytest.raises(UserError, match=r"the exported tail answers 0\.01 off from PyTorch; expected at most 0\.0001"):
        compare(pair(lambda wire, _: wire, lambda logits: logits + 0.01), FEW, rng())
    with pytest.raises(UserError, match="answers nan off"):
        check_logits(torch.tensor([[torch.nan]]), torch.zeros(1, 1))


def test_a_tail_that_mixes_the_images_of_a_batch_is_refused():
    """The server answers strangers together."""
    mixing = pair(lambda wire, _: wire, lambda logits: logits + 0.01 * (len(logits) > 1))
    with pytest.raises(UserError, match=r"the exported tail answers 0\.01 off in a batch from alone"):
        compare(mixing, FEW, rng())


def test_a_run_is_exported_with_its_own_images_only(run, tmp_path, small):
    changed = replace(IMAGES, train=Split(255 - IMAGES.train.images, IMAGES.train.labels))
    with pytest.raises(UserError, match="was trained with other training images"):
        exporting.export(runs.Run.open(run), changed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_accuracy_is_that_of_the_coded_wire_beside_the_float_one():
    """Floats lose nothing, four bits something, and one bit's worth of grid nearly all."""
    good = pair(lambda wire, _: wire, lambda logits: logits)
    with torch.no_grad():
        labels = good.cloud.receive(good.device.replayed.send.network.features(IMAGES.train.images / 255)).argmax(1)
    learned = Split(IMAGES.train.images, labels)  # what the network answers without noise is right
    coarse = _codec.Grid((2, 4, 4), 2, torch.full((2,), -50.0), torch.full((2,), 100.0))
    found = {}
    for name, coder in (("float32", _codec.Floats((2, 4, 4), "float32")), ("uint4", good.coder), ("coarse", coarse)):
        one = pair(lambda wire, _: wire, lambda logits: logits, coder=coder)
        found[name] = compare(one, learned, rng())
    same = found["float32"].difference  # not one answer differs, of which the width of the interval is left
    assert same.mean == 0
    assert same.lo == pytest.approx(-same.hi)
    assert same.lo < 0
    assert found["uint4"].difference.lo > -0.3 > found["coarse"].difference.hi
    assert found["coarse"].accuracy_torch == found["float32"].accuracy_torch
    for one in found.values():
        assert one.difference.mean == pytest.approx(one.accuracy_bundle.mean - one.accuracy_torch.mean)


def test_one_tie_is_no_difference():
    check_share(1, 10)
    check_share(100, 10**6)
    with pytest.raises(UserError, match="in 2 of 10 numbers"):
        check_share(2, 10)
