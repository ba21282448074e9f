"""Wires come with their channels first, whatever the order of the layer's axes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from splitveil import config, runs, zoo
from splitveil.errors import UserError
from splitveil.split import SplitModel, cut_network


class Reordered(nn.Module):
    """A convolution whose output is permuted by ``order``, and a head that puts it back."""

    def __init__(self, order: tuple[int, ...], size: int | None = None, norm: nn.Module | None = None):
        super().__init__()
        self.conv, self.norm, self.wire = nn.Conv2d(3, 6, 3, stride=2, padding=1), norm or nn.Identity(), nn.Identity()
        self.order, self.size, self.head = order, size, nn.Conv2d(6, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None and x.shape[-1] != self.size:
            raise ValueError("made for one size")
        z = self.wire(self.norm(self.conv(x).permute(self.order)))
        back = [self.order.index(axis) for axis in range(4)]
        return self.head(z.permute(back)).mean((2, 3))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (0, 2, 1, 3)])
@pytest.mark.parametrize("side", [8, 12])  # of 12 pixels the feature is 6×6×6: its shape tells nothing
def test_the_wire_has_its_channels_first(order, side):
    network = Reordered(order).eval()
    x = torch.rand(3, 3, side, side)
    model = SplitModel.cut(network, "wire", x[:1]).eval()
    assert torch.equal(model.encode(x), network.conv(x))
    torch.testing.assert_close(model(x), network(x))
    weights = {"encoder.conv.weight", "encoder.conv.bias", "tail.head.weight", "tail.head.bias"}
    assert set(model.state_dict()) == {"mean", "std"} | weights


def test_a_network_for_one_size_is_judged_by_its_layers():
    for order, norm in [((0, 2, 3, 1), nn.LayerNorm(6)), ((0, 1, 2, 3), nn.BatchNorm2d(6))]:
        network = Reordered(order, size=8, norm=norm).eval()
        encoder, _ = cut_network(network, "wire", torch.rand(1, 3, 8, 8))
        assert encoder(torch.rand(2, 3, 8, 8)).shape == (2, 6, 4, 4)


def test_a_layout_that_cannot_be_known_is_refused():
    with pytest.raises(UserError, match=r"which axis of the output \(4, 4, 6\) of layer 'wire' holds the channels"):
        cut_network(Reordered((0, 2, 3, 1), size=8), "wire", torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("arch", "shape"),
    [
        ("torchvision:swin_t@features.1", (96, 8, 8)),
        ("timm:mambaout_femto@stages.0", (48, 8, 8)),
        ("timm:pvt_v2_b0@stages.1.downsample", (64, 4, 4)),
        ("timm:convnext_atto@stages.0", (40, 8, 8)),
        ("timm:vit_tiny_patch16_224@blocks.1", (5, 192)),
    ],
)
def test_library_wires_are_ordered(arch, shape):
    encoder = zoo.build(arch, cut=None, classes=10, image_size=32).encoder.eval()
    assert encoder(torch.rand(2, 3, 32, 32)).shape == (2, *shape)


def test_a_bottleneck_narrows_the_channels():
    bottleneck = zoo.Bottleneck(4)
    parts = zoo.build("torchvision:swin_t@features.1", cut=None, classes=10, image_size=32, bottleneck=bottleneck)
    z = parts.encoder.eval()(torch.rand(2, 3, 32, 32))
    assert z.shape == (2, 4, 8, 8)
    assert parts.tail.eval()(z).shape == (2, 10)


def test_looking_for_the_channels_draws_no_weights():
    torch.manual_seed(0)
    zoo.build("timm:mambaout_femto@stages.0", cut=None, classes=10, image_size=32)
    after = torch.rand(1)
    torch.manual_seed(0)
    timm = pytest.importorskip("timm")

    timm.create_model("mambaout_femto", num_classes=10)
    assert torch.equal(torch.rand(1), after)


def test_a_run_with_the_wire_of_an_older_version_is_refused(tmp_path):
    settings = config.parse({"data": "digits", "arch": "resnet20_sgm", "cut": 1}).resolve()
    images = SimpleNamespace(classes=("0", "1"), size=32, mean=(0.5,) * 3, std=(0.2,) * 3)
    run = runs.Run(tmp_path, settings, {"wire": {"shape": [32, 32, 16]}})
    with pytest.raises(UserError, match=r"trained with the wire \[32, 32, 16\], which this version orders as"):
        run.model(images)  # type: ignore[arg-type]
