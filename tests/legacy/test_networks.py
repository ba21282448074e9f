"""Published command lines: the code's reading trains the published network where a name is another one here."""

from __future__ import annotations

import pytest
import torch

from splitveil import config, runs
from splitveil.legacy import read_options
from splitveil.legacy.fitting import _stub

B = "--bottleneck_option noRELU_C8S1"


@pytest.mark.parametrize(
    ("line", "paper", "code", "said"),
    [
        (f"--arch vgg11_bn {B}", "vgg11_bn", "vgg11_bn_released", "in a batch norm"),
        (f"--arch vgg13_bn {B}", "vgg13_bn", "vgg13_bn_released", "in a batch norm"),
        ("--arch vgg11", "vgg11", "vgg11", ""),  # the published one does not build without a bottleneck
        (f"--arch mobilenetv2 {B}", "mobilenetv2", "mobilenetv2_released", "is another network"),
        (f"--dataset tinyimagenet {B}", "vgg11_bn_sgm", "vgg11_bn_sgm_released", "2,048 inputs on 64 pixels"),
        ("--bottleneck_option C8S4", "vgg11_bn_sgm", "vgg11_bn_sgm_released", "stride 4 is a chain"),
        ("--bottleneck_option C8S2", "vgg11_bn_sgm", "vgg11_bn_sgm", ""),
        ("--arch resnet20 --bottleneck_option C8S8", "resnet20_sgm", "resnet20_released", "stride 8 is a chain"),
        (f"--arch resnet32 {B}", "resnet32_sgm", "resnet32_stem5_sgm", "5×5"),
        (f"--dataset facescrub {B}", "vgg11_bn_sgm", "vgg11_bn_sgm", ""),
    ],
)
def test_the_reading_chooses_the_network(line: str, paper: str, code: str, said: str):
    for reading, arch in (("paper", paper), ("code", code)):
        translation = read_options(line.split(), reading=reading)  # type: ignore[arg-type]
        assert translation.settings["arch"] == arch
        told = [note for note in translation.notes if said in note]
        if said:
            assert ("--reading code" in told[0]) == (reading == "paper")
        settings = config.parse(translation.settings).resolve()
        classes = {"tinyimagenet": 200, "facescrub": 530}.get(settings.data, 10)
        with torch.device("meta"):
            runs.zoo.build(
                settings.arch,
                cut=settings.cut,
                classes=classes,
                image_size=_stub(settings.data, classes).size,
                bottleneck=None
                if settings.bottleneck is None
                else runs.zoo.Bottleneck(settings.bottleneck, settings.bottleneck_stride),
            )


def test_the_published_networks_have_the_published_sizes():
    """Counted in the published code."""
    settings = config.parse(read_options(f"--arch mobilenetv2 {B}".split(), reading="code").settings).resolve()
    assert settings.bottleneck_relu
    model = runs.build_model(settings, _stub("cifar10", 10))
    assert sum(p.numel() for p in model.encoder.parameters()) == 59864
    assert model.wire_shape == (8, 16, 16)
    tiny = config.parse(read_options(f"--dataset tinyimagenet {B}".split(), reading="code").settings).resolve()
    head = runs.build_model(tiny, _stub("tinyimagenet", 200)).tail.get_submodule("head")
    assert sum(p.numel() for p in head.parameters()) == 1414344
