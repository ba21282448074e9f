"""Every layout of real published files is imported with the published network's logits, or refused with advice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from published import (
    BOTTLENECK,
    PublishedMobileNet,
    PublishedVGG,
    layouts,
    published_state,
    same,
    save,
    save_layout,
)
from splitveil.errors import UserError
from splitveil.legacy import import_checkpoint
from splitveil.legacy.fitting import _stub, _Unfilled
from splitveil.runs import Run
from splitveil.zoo import Bottleneck, build

pytestmark = pytest.mark.usefixtures("quick_weights")

VGG13: list[int | str] = [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]
EXPECTED = {
    "C8S4": ("vgg11_bn_sgm_released", 4, [8, 2, 2]),
    "adv": ("vgg11_bn_sgm", 4, [8, 8, 8]),
    "cifar100": ("vgg11_bn_sgm", 4, [8, 8, 8]),
    "facescrub": ("vgg11_bn_sgm", 4, [8, 12, 12]),
    "facescrub_sca": ("vgg11_bn_sgm", 4, [8, 12, 12]),
    "mobilenetv2": ("mobilenetv2_released", 4, [8, 16, 16]),
    "orig_scheme": ("vgg11_bn_sgm", 4, [8, 8, 8]),
    "patrol_statedict": ("vgg11_bn_sgm_released_double", 4, [8, 8, 8]),
    "resnet20_cut5": ("resnet20_stem5_sgm", 5, [8, 8, 8]),
    "resnet32": ("resnet32_stem5_sgm", 5, [8, 16, 16]),
    "sca": ("vgg11_bn_sgm", 4, [8, 8, 8]),
    "tiny_resnet20": ("resnet20_stem5_sgm", 5, [8, 16, 16]),
    "tiny_vgg": ("vgg11_bn_sgm_released", 4, [8, 16, 16]),
    "vgg11_bn": ("vgg11_bn_released", 4, [8, 8, 8]),
}
"""Folder of a real checkpoint -> our network, cut and wire; nothing but the bottleneck is said."""


@pytest.fixture(autouse=True)
def no_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no ./data here: the accuracy stays open


def option(folder: str) -> list[str]:
    return ["--bottleneck_option", "noRELU_C8S4"] if folder == "C8S4" else BOTTLENECK


def imported(folder: Path, out: Path, options: list[str], **more: Any) -> Run:
    import_checkpoint(folder, out, options=options, **more)
    return Run.open(out)


@pytest.mark.parametrize("folder", sorted(EXPECTED))
def test_a_real_layout_becomes_a_run_that_can_be_read_back(tmp_path: Path, folder: str):
    save_layout(layouts()[folder], tmp_path / folder)
    run = imported(tmp_path / folder, tmp_path / "run", option(folder))
    arch, cut, wire = EXPECTED[folder]
    assert (run.settings.arch, run.settings.cut, run.summary["wire"]["shape"]) == (arch, cut, wire)
    images = _stub(run.settings.data, {"cifar10": 10, "cifar100": 100, "facescrub": 530}.get(run.settings.data, 200))
    with torch.no_grad():
        out = run.model(images)(torch.rand(2, 3, images.size, images.size))
    assert out.shape == (2, len(images.classes))
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("arch", "options", "named"),
    [
        ("vgg11_bn", {"sigmoid": False}, True),
        ("vgg11", {"sigmoid": False, "batch_norm": False, "cut": 3}, False),
        ("vgg13_bn", {"sigmoid": False, "plan": VGG13}, False),
        ("vgg13_bn", {"sigmoid": False, "plan": VGG13, "cut": 6}, True),
        ("vgg11_bn_sgm", {"stride": 4}, True),
        ("vgg11_bn_sgm", {"stride": 4, "relu": True}, False),
        ("vgg11_bn_sgm", {"stride": 8, "relu": True}, True),
        ("vgg11_bn", {"stride": 4, "sigmoid": False, "cut": 2}, False),
    ],
)
def test_a_published_vgg_of_another_form(tmp_path: Path, arch: str, options: dict[str, Any], named: bool):
    model = published_state(PublishedVGG(**options))
    save(model, tmp_path / "c")
    relu, stride = "" if options.get("relu") else "noRELU_", options.get("stride", 1)
    flags = [f"--bottleneck_option={relu}C8S{stride}", f"--cutlayer={options.get('cut', 4)}"]
    flags += [f"--arch={arch}"] * named
    run = imported(tmp_path / "c", tmp_path / "run", flags)
    assert run.settings.arch == f"{arch}_released"
    same(model, run, _stub("cifar10", 10), 32)


@pytest.mark.parametrize(("size", "name", "left", "classes"), [(64, "tinyimagenet", 4, 200), (48, "facescrub", 1, 530)])
def test_a_published_vgg_on_larger_images(tmp_path: Path, size: int, name: str, left: int, classes: int):
    model = published_state(PublishedVGG(classes=classes, left=left))
    save(model, tmp_path / "c")
    run = imported(tmp_path / "c", tmp_path / "run", BOTTLENECK)
    assert run.settings.arch == "vgg11_bn_sgm" + "_released" * (left > 1)
    same(model, run, _stub(name, classes), size)


@pytest.mark.parametrize(
    ("cut", "option"), [(1, "C8S1"), (2, "noRELU_C8S1"), (4, "C8S1"), (6, "noRELU_C8S1"), (8, "C8S1")]
)
def test_the_published_mobilenet_has_its_own_blocks_and_cuts(tmp_path: Path, cut: int, option: str):
    """Its bottleneck has a ReLU whatever the option says."""
    model = published_state(PublishedMobileNet(cut=cut))
    save(model, tmp_path / "c")
    run = imported(tmp_path / "c", tmp_path / "run", [f"--bottleneck_option={option}", f"--cutlayer={cut}"])
    assert run.settings.arch == "mobilenetv2_released"
    assert run.settings.bottleneck_relu
    same(model, run, _stub("cifar10", 10), 32)


def test_the_message_is_that_of_the_nearest_network(tmp_path: Path):
    """Of resnet32 cut 5 with another bottleneck, not of the first cut or network that was tried."""
    folder = save_layout(layouts()["resnet32"], tmp_path / "c")
    with pytest.raises(UserError, match=r"checkpoint_f_best\.tar: 5\.weight has shape \(8, 32, 3, 3\), expected \(4,"):
        import_checkpoint(folder, tmp_path / "run", options=["--bottleneck_option=noRELU_C4S1"])
    folder = save_layout(layouts()["cut3"], tmp_path / "d")
    with pytest.raises(UserError, match=r"checkpoint_f_best\.tar: 7\.weight of shape .* is left over"):
        import_checkpoint(folder, tmp_path / "run", options=["--bottleneck_option=None"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arch", "bottleneck", "message"),
    [
        ("vgg11_bn_released", None, "ends its encoder in a batch norm of the bottleneck's channels"),
        ("vgg11_bn_sgm_released", Bottleneck(8, 6, 5), "the published chain needs kernel 3"),
        ("resnet20_released", Bottleneck(8, 8), "sides that 8 divides"),
    ],
)
def test_what_the_published_code_could_not_build_is_refused(arch: str, bottleneck: Bottleneck | None, message: str):
    with pytest.raises(UserError, match=message):
        build(arch, cut=5, classes=10, image_size=48, bottleneck=bottleneck)


def test_an_odd_stride_is_the_published_chain(tmp_path: Path):
    """Stride 3 is one convolution of stride 2, stride 6 are two."""
    for stride, wire in ((2, 4), (3, 4), (4, 2), (6, 2)):
        parts = build("resnet20_released", cut=5, classes=10, image_size=32, bottleneck=Bottleneck(8, stride))
        z: Tensor = parts.encoder.eval()(torch.zeros(1, 3, 32, 32))
        assert z.shape == (1, 8, wire, wire)
        assert parts.tail.eval()(z).shape == (1, 10)


def test_shapes_are_followed_without_numbers_and_a_batch_norm_of_other_channels_is_noticed():
    wires = torch.empty(2, 4, 3, 3, device="meta")
    with _Unfilled():
        assert nn.Sequential(nn.BatchNorm2d(4, device="meta"), nn.ReLU(), nn.Sigmoid())(wires).shape == wires.shape
        with pytest.raises(RuntimeError, match="batch norm of 5 channels got 4"):
            nn.BatchNorm2d(5, device="meta")(wires)
