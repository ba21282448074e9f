"""What an imported run serves is what the published network was trained and validated with, and is said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from published import layouts, save_layout
from splitveil.defenses.cem import CEM
from splitveil.errors import UserError
from splitveil.legacy import import_checkpoint, read_options
from splitveil.legacy import notes as say
from splitveil.legacy.command import run
from splitveil.legacy.fitting import _stub
from splitveil.runs import Run

pytestmark = pytest.mark.usefixtures("quick_weights")

OPTIONS = ["--bottleneck_option=noRELU_C8S1", "--cutlayer=4"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_layout(layouts()["dp"], tmp_path_factory.mktemp("stored") / "c")


@pytest.fixture
def folder(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # no ./data here
    return stored


def wire(folder: Path, out: Path, options: list[str], seed: int = 0) -> tuple[Any, torch.Tensor, torch.Tensor]:
    imported = import_checkpoint(folder, out, options=[*OPTIONS, *options])
    model = Run.open(out).model(_stub("cifar10", 10))
    with torch.no_grad():
        z = model.features(torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(3)))
        return imported, z, model.protect(z, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("option", "epsilon"),
    [("local_dp", 10.0), ("local_dp", 1.0), ("local_dp_laplace", 10.0), ("local_dp_laplace", 2.5)],
)
def test_local_dp_has_the_published_noise(folder: Path, tmp_path: Path, option: str, epsilon: float):
    options = [f"--AT_regularization={option}", f"--AT_regularization_strength={epsilon}"]
    imported, z, sent = wire(folder, tmp_path / "run", options)
    gaussian = option == "local_dp"
    expected = math.sqrt(2 * math.log(1.25 / 1e-4)) / epsilon if gaussian else math.sqrt(2) / epsilon
    noise = sent - z  # not clipped, neither before nor after
    assert float(noise.std()) == pytest.approx(expected, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0, abs=0.05 * expected)
    name, value = ("gaussian:sigma", expected) if gaussian else ("laplace:scale", 1 / epsilon)
    assert any(f"published noise, {name}={value:.6g}"[:36] in note for note in imported.notes)
    assert say.CLIPPED not in imported.notes


@pytest.mark.parametrize("reading", ["paper", "code"])
@pytest.mark.parametrize("option", ["local_dp", "local_dp_laplace"])
def test_lambda_beside_local_dp_leaves_clusters_alone_as_published(
    folder: Path, tmp_path: Path, option: str, reading: Any
):
    options = [f"--AT_regularization={option}", "--AT_regularization_strength=2", "--lambd=16", "--var_threshold=0.1"]
    options += ["--regularization=Gaussian", "--regularization_strength=0.05"]
    imported = import_checkpoint(folder, tmp_path / "run", options=[*OPTIONS, *options], reading=reading)
    stack: Any = Run.open(tmp_path / "run").model(_stub("cifar10", 10)).defense
    (cem,) = (part for part in stack if isinstance(part, CEM))
    assert cem.weight == 16
    assert cem.threshold * cem.sigma2 == pytest.approx(0.1 * 0.05**2, rel=1e-5)
    assert any("whatever noise local_dp adds" in note for note in imported.notes) == (option == "local_dp")


def test_top_k_is_that_of_the_batch(folder: Path, tmp_path: Path):
    imported, z, sent = wire(folder, tmp_path / "run", ["--AT_regularization=topkprune0.2"])
    least = z.flatten().sort(descending=True).values[round(0.8 * z.numel()) - 1]
    assert torch.equal(sent, torch.where(z >= least, z, torch.zeros(())))
    assert any("depends on the images beside it" in note for note in imported.notes)


@pytest.mark.parametrize(("option", "strength"), [("gan_adv_noise", "0.3"), ("gan_adv_step1_noise", "0.1")])
def test_a_wire_that_needs_a_lost_proxy_is_refused_with_advice_that_works(
    folder: Path, tmp_path: Path, option: str, strength: str
):
    options = [f"--AT_regularization={option}", f"--AT_regularization_strength={strength}"]
    with pytest.raises(UserError, match=r"hold no proxy.*--AT_regularization None") as caught:
        wire(folder, tmp_path / "run", options)
    assert not (tmp_path / "run").exists()
    message = str(caught.value)
    advice = message.partition("bare network with ")[2].partition(",")[0].split()
    assert "imported" in run([str(folder), "--out", str(tmp_path / "run"), *OPTIONS, *advice])
    command = message.partition("splitveil legacy ")[2].split()
    assert "adversarial_noise" in run(command)
    wire(folder, tmp_path / "off", [options[0], "--AT_regularization_strength=0"])


@pytest.mark.parametrize(
    ("reading", "options"),
    [
        ("paper", ["--AT_regularization=nopeek", "--lambd=16"]),
        ("code", ["--AT_regularization=gan_adv_step1", "--AT_regularization_strength=0.3"]),
        ("paper", ["--regularization=Gaussian", "--regularization_strength=0.025", "--lambd=8", "--log_entropy=0"]),
        ("code", ["--regularization=Gaussian", "--regularization_strength=0.025", "--lambd=8", "--log_entropy=0"]),
        ("paper", ["--AT_regularization=dropout0.2", "--num_epochs=100"]),
    ],
)
def test_all_that_the_translation_knows_is_said(folder: Path, tmp_path: Path, options: list[str], reading: Any):
    known = read_options([*OPTIONS, "--arch=vgg11_bn_sgm", *options], reading=reading).notes  # the files tell it
    imported = import_checkpoint(folder, tmp_path / "run", options=[*OPTIONS, *options], reading=reading)
    assert {note for note in known if note != say.SCALE} <= set(imported.notes)
    assert imported.summary["imported"]["notes"] == imported.notes


@pytest.mark.parametrize(("ratio", "reading"), [(0.2, "code"), (0.6, "paper")])
def test_dropout_keeps_its_scale_and_no_note_says_otherwise(folder: Path, tmp_path: Path, ratio: float, reading: Any):
    options = [*OPTIONS, f"--AT_regularization=dropout{ratio}"]
    imported = import_checkpoint(folder, tmp_path / "run", options=options, reading=reading)
    _, z, sent = wire(folder, tmp_path / "other", options[2:])
    assert torch.equal(sent[sent != 0], z[sent != 0])
    assert float((sent == 0).float().mean()) == pytest.approx(ratio, abs=0.03)
    assert say.SCALE not in imported.notes
    assert say.UNSEEN.format("dropout") in imported.notes


def test_what_the_import_makes_good_is_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name, words in (("resnet20_cut5", "starts with a 5×5"), ("vgg11_bn", "batch norm"), ("C8S4", "a chain of")):
        stride = "4" if name == "C8S4" else "1"
        options = [f"--bottleneck_option=noRELU_C8S{stride}"]
        imported = import_checkpoint(
            save_layout(layouts()[name], tmp_path / name), tmp_path / f"{name}_", options=options
        )
        assert not any(words in note for note in imported.notes)
        assert say.RATE in imported.notes
