"""Published checkpoint files become runs with the same logits; damaged and malicious ones are refused."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from published import PublishedResNet20, PublishedVGG
from splitveil import config, data, runs
from splitveil.errors import UserError
from splitveil.legacy import import_checkpoint
from splitveil.legacy.checkpoint import settings_in_name
from splitveil.legacy.command import run
from splitveil.legacy.fitting import NORMALIZATION
from splitveil.legacy.tensors import read_tensors
from splitveil.runs import Run

pytestmark = pytest.mark.usefixtures("quick_weights")

NAME = (
    "pretrain_False_lambd_16_noise_0.025_epoch_240_bottleneck_noRELU_C8S1_log_1_ATstrength_0.3_lr_0.05_varthres_0.125"
)


def randomized(model: nn.Module, seed: int = 0) -> Any:
    rng = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.copy_(torch.randn(value.shape, generator=rng) * 0.1)
        elif name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=rng) + 0.5)
        elif name.endswith("num_batches_tracked"):
            value.fill_(7)
    return model.eval()


def save(model: Any, folder: Path, wrap: Any = lambda state: state) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, module in (("f", model.local), ("cloud", model.cloud), ("classifier", model.classifier)):
        torch.save(wrap(module.state_dict()), folder / f"checkpoint_{part}_best.tar")
    return folder


@pytest.fixture(scope="module")
def images() -> data.ImageSet:
    return data.load("digits", train_size=40, test_size=20)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def published() -> Any:
    torch.manual_seed(0)
    return randomized(PublishedVGG())


@pytest.fixture(scope="module")
def saved(published: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(published, tmp_path_factory.mktemp("saved"))


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "nopeek_infocons_sgm_lg1_thre0.125" / NAME)


def logits(model: Any, x: Tensor) -> Tensor:
    """Without the noise on the wire."""
    with torch.no_grad():
        return model.tail(model.features(x))


OPTIONS = ["--dataset=digits", "--cutlayer=4"]


def test_a_published_vgg_gives_identical_logits(
    published: Any, folder: Path, tmp_path: Path, images: data.ImageSet, x: Tensor
):
    imported = import_checkpoint(folder, tmp_path / "run", options=OPTIONS, train_size=40, test_size=20)
    run_ = Run.open(tmp_path / "run")
    model = run_.model(images)
    mean, std = (torch.tensor(v)[:, None, None] for v in (images.mean, images.std))
    with torch.no_grad():
        assert torch.equal(logits(model, x), published((x - mean) / std))
    named = {"lr": 0.05, "epochs": 240, "bottleneck": 8, "arch": "vgg11_bn_sgm", "cut": 4}
    assert {key: getattr(run_.settings, key) for key in named} == named
    assert [spec.name for spec in run_.settings.defense] == ["gaussian", "nopeek", "cem"]
    assert 0 <= imported.summary["accuracy"]["mean"] <= 1
    assert run_.summary["wire"] == {"shape": [8, 8, 8], "bytes": 2048}
    assert run_.summary == json.loads(json.dumps(imported.summary))


@pytest.mark.parametrize("reading", ["paper", "code"])
def test_a_published_resnet_with_its_wide_stem(tmp_path: Path, images: data.ImageSet, x: Tensor, reading: Any):
    torch.manual_seed(0)
    published = randomized(PublishedResNet20(cut=5))
    save(published, tmp_path / "c")
    options = ["--dataset", "digits", "--bottleneck_option", "noRELU_C8S1"]
    imported = import_checkpoint(tmp_path / "c", tmp_path / "run", options=options, reading=reading, test_size=20)
    run_ = Run.open(tmp_path / "run")
    assert (run_.settings.arch, run_.settings.cut) == ("resnet20_stem5_sgm", 5)
    assert any("nothing names the cut; 5 fits" in note for note in imported.notes)
    mean, std = run_.model(images).mean[:, None, None], run_.model(images).std[:, None, None]
    with torch.no_grad():
        assert torch.equal(logits(run_.model(images), x), published((x - mean) / std))


@pytest.mark.parametrize("arch", ["vgg11_bn_sgm", "resnet20", "resnet20_sgm"])
def test_a_round_trip_of_our_own_models(tmp_path: Path, images: data.ImageSet, x: Tensor, arch: str):
    values = {"data": "digits", "arch": arch, "cut": 4, "bottleneck": 8, "defense": ["gaussian:0.025"]}
    torch.manual_seed(3)
    ours = randomized(runs.build_model(config.parse(values).resolve(), images))
    tail = ours.tail.state_dict()

    def published(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        return {f"{prefix}{i}.{name.rpartition('.')[2]}": value for i, (name, value) in enumerate(state.items())}

    (tmp_path / "c").mkdir()
    parts = {
        "f": published(ours.encoder.state_dict(), "module.local."),
        "cloud": published({k: v for k, v in tail.items() if not k.startswith("head")}, "module."),
        "classifier": published({k: v for k, v in tail.items() if k.startswith("head")}, ""),
    }
    for part, state in parts.items():
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / "c" / f"checkpoint_{part}_best.tar")
    options = [*OPTIONS, "--arch", arch, "--bottleneck_option=noRELU_C8S1"]
    options += ["--regularization=Gaussian", "--regularization_strength=0.025"]
    import_checkpoint(tmp_path / "c", tmp_path / "run", options=options, train_size=40, test_size=20)
    model = Run.open(tmp_path / "run").model(images)
    rngs = [torch.Generator().manual_seed(5) for _ in range(2)]
    with torch.no_grad():
        assert torch.equal(model(x, rngs[0]), ours(x, rngs[1]))


def test_the_sparse_coding_layer_comes_along(tmp_path: Path, images: data.ImageSet, x: Tensor):
    torch.manual_seed(0)
    published = randomized(PublishedVGG(lca=300))
    name = tmp_path / "SCA_new_infocons_sgm_lg1" / NAME
    saved = save(published, name)
    import_checkpoint(saved, tmp_path / "run", options=["--dataset=digits"], train_size=40, test_size=20)
    run_ = Run.open(tmp_path / "run")
    assert run_.settings.defense[0].name == "sparse_coding_released"
    mean, std = (torch.tensor(v)[:, None, None] for v in (images.mean, images.std))
    with torch.no_grad():
        torch.testing.assert_close(logits(run_.model(images), x), published((x - mean) / std), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("ratio", "reading"), [(0.2, "paper"), (0.5, "code")])
def test_imported_dropout_is_not_rescaled(
    published: Any, tmp_path: Path, images: data.ImageSet, x: Tensor, ratio: float, reading: Any
):
    """The published network was trained and validated with E[z_wire] = (1 − p) z, whatever the options say."""
    name = NAME.replace("lambd_16_noise_0.025", "lambd_0_noise_0")
    saved = save(published, tmp_path / f"dropout{ratio}_infocons_sgm_lg1" / name)
    import_checkpoint(saved, tmp_path / "run", options=OPTIONS, reading=reading, train_size=40, test_size=20)
    run_ = Run.open(tmp_path / "run")
    assert dict(run_.settings.defense[0].parameters) == {"ratio": ratio, "rescale": False}
    with torch.no_grad():
        z = run_.model(images).features(x)
        wire = run_.model(images).protect(z, torch.Generator().manual_seed(0))
    assert torch.equal(wire[wire != 0], z[wire != 0])


def test_an_imported_run_can_be_attacked(folder: Path, tmp_path: Path, images: data.ImageSet):
    from splitveil.evaluation.evaluate import attack_run

    import_checkpoint(folder, tmp_path / "run", options=OPTIONS, train_size=40, test_size=20)
    summary = attack_run(Run.open(tmp_path / "run"), config.Spec.model_validate("linear"), images)
    assert summary["images"]["attacked"] > 0


def test_without_the_images_the_accuracy_is_null_and_the_published_normalization_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
):
    monkeypatch.chdir(tmp_path)  # no ./data here
    imported = import_checkpoint(folder, tmp_path / "run", options=["--cutlayer", "4"])
    assert imported.summary["accuracy"] is None
    assert any("accuracy not measured" in note for note in imported.notes)
    tensors = runs.load_file(tmp_path / "run" / "model.safetensors")
    assert torch.equal(tensors["std"], torch.tensor(NORMALIZATION["cifar10"][1]))
    text = run([str(folder), "--out", str(tmp_path / "own"), "--normalization", "own"])
    assert "accuracy not measured" in text
    assert Run.open(tmp_path / "own").settings.data == "cifar10"


def test_settings_in_a_folder_name():
    found = settings_in_name(Path("saves/cifar10/gan_adv_step1_pruning180_infocons_sgm_lg1") / NAME)
    assert found == {
        "dataset": "cifar10",
        "AT_regularization": "gan_adv_step1_pruning180",
        "AT_regularization_strength": 0.3,
        "lambd": 16.0,
        "regularization": "Gaussian",
        "regularization_strength": 0.025,
        "num_epochs": 240,
        "bottleneck_option": "noRELU_C8S1",
        "log_entropy": 1.0,
        "learning_rate": 0.05,
        "var_threshold": 0.125,
    }
    assert settings_in_name(Path("somewhere/else")) == {}


class Malicious:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_refused_and_not_run(folder: Path, tmp_path: Path):
    witness = tmp_path / "executed"
    bad = folder / "checkpoint_cloud_best.tar"
    torch.save({"0.weight": Malicious(witness)}, bad)
    with pytest.raises(UserError, match=r"checkpoint_cloud_best.tar holds more than tensors.*refused"):
        import_checkpoint(folder, tmp_path / "run", options=OPTIONS)
    for protocol in (2, 5):
        bad.write_bytes(pickle.dumps({"0.weight": Malicious(witness)}, protocol))
        with pytest.raises(UserError, match=r"holds more than tensors.*refused|is damaged, or no file of"):
            import_checkpoint(folder, tmp_path / "run", options=OPTIONS)
    torch.save(PublishedVGG().local, folder / "checkpoint_f_best.tar")  # as the published code saves pruned models
    with pytest.raises(UserError, match=r"checkpoint_f_best.tar holds more than tensors: a whole model"):
        import_checkpoint(folder, tmp_path / "run", options=OPTIONS)
    assert not witness.exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_named(tmp_path: Path, zipped: bool):
    path = tmp_path / "checkpoint_f_best.tar"
    state = PublishedVGG().local.state_dict()
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    assert read_tensors(path).keys() == state.keys()
    for length in (0, 1, 2, 3, 100, 5000, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"checkpoint_f_best\.tar is (truncated|damaged)") as caught:
            read_tensors(path)
        assert "\n" not in str(caught.value)


def test_a_file_with_flipped_bytes_is_named(tmp_path: Path):
    path = tmp_path / "checkpoint_f_best.tar"
    torch.save(PublishedVGG().local.state_dict(), path)
    with zipfile.ZipFile(path) as archive:
        offset = next(i.header_offset for i in archive.infolist() if i.filename.endswith("data.pkl"))
    content = bytearray(path.read_bytes())
    content[offset + 80 : offset + 200] = b"\xff" * 120
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint_f_best\.tar is (truncated or )?damaged"):
        read_tensors(path)


def change(folder: Path, part: str, edit: Any) -> None:
    path = folder / f"checkpoint_{part}_best.tar"
    state = torch.load(path, weights_only=True)
    torch.save(edit(state) or state, path)


@pytest.mark.parametrize(
    ("part", "edit", "message"),
    [
        ("f", lambda s: s.pop("4.weight") is None, "lacks the tensor 4.weight of shape (128, 64, 3, 3)"),
        ("f", lambda s: s.pop("5.running_var") is None, "lacks the tensor 5.running_var of shape (128,)"),
        ("classifier", lambda s: s.pop("6.bias") is None, "lacks the tensor 6.bias of shape (10,)"),
        (
            "cloud",
            lambda s: s.update({"0.weight": torch.zeros(128, 4, 3, 3)}),
            "0.weight has shape (128, 4, 3, 3), expected (128, 8, 3, 3)",
        ),
        ("f", lambda s: s.update({"9.weight": torch.zeros(8, 8)}), "9.weight of shape (8, 8) is left over"),
        ("f", lambda s: s["0.bias"].fill_(float("nan")) is None, "0.bias holds values that are not finite"),
        (
            "f",
            lambda s: s.update({"note": "x"}),
            "note is a str; expected a state dictionary of tensors only",
        ),
        ("f", lambda s: [s], "holds a list; expected a state dictionary"),
        ("f", lambda s: {"state_dict": {}}, "holds no tensors"),
        ("classifier", lambda s: {"0.bias": torch.zeros(3)}, "has no matrix"),
    ],
)
def test_a_wrong_tensor_is_named(folder: Path, tmp_path: Path, part: str, edit: Any, message: str):
    change(folder, part, edit)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        import_checkpoint(folder, tmp_path / "run", options=OPTIONS)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_profiler_counters_and_absent_batch_counters_do_not_matter(folder: Path, tmp_path: Path):
    change(folder, "f", lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")})
    change(folder, "cloud", lambda s: s.update({"total_ops": torch.zeros(1), "1.total_params": torch.zeros(1)}))
    import_checkpoint(folder, tmp_path / "run", options=OPTIONS, train_size=40, test_size=20)


def test_bad_folders_and_flags(folder: Path, tmp_path: Path):
    out = ["--out", str(tmp_path / "run")]
    with pytest.raises(UserError, match="say where the run goes: --out RUN"):
        run([str(folder)])
    with pytest.raises(UserError, match="is no folder"):
        import_checkpoint(tmp_path / "none", tmp_path / "run")
    with pytest.raises(
        UserError, match=r"lacks checkpoint_f_60.tar, the device part; it has checkpoint_classifier_best"
    ):
        run([str(folder), *out, "--checkpoint", "60"])
    with pytest.raises(UserError, match=r"has no checkpoint_\*.tar"):
        import_checkpoint(tmp_path, tmp_path / "run")
    with pytest.raises(UserError, match="is not empty"):
        import_checkpoint(folder, folder, options=OPTIONS)
    with pytest.raises(UserError, match="none is not a folder"):
        run([str(folder), *out, "--data", f"folder:{tmp_path / 'none'}"])
    with pytest.raises(UserError, match="did you mean 'published'"):
        run([str(folder), *out, "--normalization", "publishd"])
    with pytest.raises(UserError, match="expected a whole number of images"):
        run([str(folder), *out, "--test-size", "x"])
    with pytest.raises(UserError, match=r"has shape .* give --arch, --cut and --bottleneck"):
        run([str(folder), *out, "--data", "digits", "--bottleneck", "4"])
    with pytest.raises(UserError, match="is left over"):
        run([str(folder), *out, "--data", "digits", "--bottleneck_option", "None"])
    assert not (tmp_path / "run").exists()


def test_classes_must_fit_the_images(tmp_path: Path):
    save(randomized(PublishedVGG(classes=7)), tmp_path / "c")
    with pytest.raises(UserError, match="7 outputs, which no published image set has"):
        import_checkpoint(tmp_path / "c", tmp_path / "run")
    with pytest.raises(UserError, match="7 outputs, digits has 10 classes"):
        import_checkpoint(tmp_path / "c", tmp_path / "run", options=["--dataset", "digits"])
