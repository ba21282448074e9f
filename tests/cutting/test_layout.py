"""Wires come with their channels first, whatever the order of the layer's axes."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitveil import config, runs, zoo
from splitveil.attacks.base import Victim
from splitveil.cutting.layout import LAYOUTS
from splitveil.cutting.network import cut_network
from splitveil.data import Access, Split, to_float
from splitveil.errors import UserError
from splitveil.model import SplitModel
from splitveil.training import checkpoints
from training_helpers import Killed, fit, killer

pytestmark = pytest.mark.usefixtures("quick_weights")


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
    parts = zoo.build("timm:mambaout_femto@stages.0", cut=None, classes=10, image_size=32, bottleneck=bottleneck)
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


# Halves that nobody cut, and a layout that is said


class Half(nn.Module):
    """A convolution to 6 channels on half the side, in an order of axes, of images of any size or of one."""

    def __init__(self, order: tuple[int, ...], size: int | None = None):
        super().__init__()
        self.conv, self.order, self.size = nn.Conv2d(3, 6, 3, stride=2, padding=1), order, size

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None and x.shape[-1] != self.size:
            raise ValueError("made for one size")
        return self.conv(x).permute(self.order)


class Back(nn.Module):
    """The head behind it."""

    def __init__(self, order: tuple[int, ...]):
        super().__init__()
        self.head, self.order = nn.Conv2d(6, 10, 3), [order.index(axis) for axis in range(4)]

    def forward(self, z: Tensor) -> Tensor:
        return self.head(z.permute(self.order)).mean((2, 3))


FIRST, LAST, MIDDLE = (0, 1, 2, 3), (0, 2, 3, 1), (0, 2, 1, 3)
QUERY = frozenset({Access.QUERY})


@pytest.mark.parametrize(
    ("order", "size", "message"),
    [
        (FIRST, None, None),
        (LAST, None, r"channels at axis 3, and the wire carries them at axis 1 .*say layout='channels_last'"),
        (MIDDLE, None, "channels at axis 2, .*let the encoder permute its output"),
        (LAST, 12, r"which axis of the output \(6, 6, 6\) of the encoder holds .*say it: layout='channels_first' or"),
        (FIRST, 12, None),
    ],
)
@pytest.mark.parametrize("look", ["query", "observe"])
def test_halves_are_tried_before_an_attack_looks(order, size, message, look):
    model = SplitModel(Half(order, size), Back(order))
    images = Split(torch.randint(256, (3, 3, 12, 12), dtype=torch.uint8), torch.zeros(3, dtype=torch.long))
    victim = Victim(model, QUERY)
    rng = torch.Generator().manual_seed(0)

    def send() -> Tensor:
        if look == "query":
            return victim.query(to_float(images.images), rng)
        return victim.observe(images).wire(torch.arange(3), rng)

    if message is None:
        assert send().shape == (3, 6, 6, 6)
        return
    with pytest.raises(UserError, match=message):
        send()


@pytest.mark.parametrize("size", [None, 12])
@pytest.mark.parametrize(("order", "layout"), [(FIRST, "channels_first"), (LAST, "channels_last")])
def test_a_layout_that_is_said_decides(order, layout, size):
    encoder, tail = Half(order, size).eval(), Back(order).eval()
    model = SplitModel(encoder, tail, layout=layout).eval()
    x = torch.rand(2, 3, 12, 12)
    rng = torch.Generator().manual_seed(0)
    torch.testing.assert_close(Victim(model, QUERY).query(x, rng), encoder.conv(x))
    torch.testing.assert_close(model(x), tail(encoder(x)))
    kept = copy.deepcopy(model)
    kept.load_state_dict(model.state_dict())
    torch.testing.assert_close(kept(x), model(x))


@pytest.mark.parametrize(("order", "layout"), [(FIRST, "channels_first"), (LAST, "channels_last")])
def test_a_cut_takes_a_layout_that_cannot_be_found(order, layout):
    network = Reordered(order, size=8, norm=nn.Softsign()).eval()
    network.conv = nn.Conv2d(3, 6, 3)  # 6×6×6
    x = torch.rand(2, 3, 8, 8)
    with pytest.raises(UserError, match="say it: layout='channels_first' or 'channels_last', in a name torchvision"):
        SplitModel.cut(network, "wire", x[:1])
    model = SplitModel.cut(network, "wire", x[:1], layout=layout).eval()
    wire = Victim(model, QUERY).query(x, torch.Generator())
    torch.testing.assert_close(wire, network.norm(network.conv(x)))
    torch.testing.assert_close(model(x), network(x))


def test_tokens_keep_their_order_whatever_is_said():
    pool = (nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 5))
    network = nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.Flatten(2), nn.Identity(), *pool)
    for layout in LAYOUTS:
        encoder, _ = cut_network(network.eval(), "2", torch.rand(1, 3, 8, 8), layout=layout)
        assert encoder(torch.rand(2, 3, 8, 8)).shape == (2, 4, 6)
    tokens = SplitModel(nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.Flatten(2)), nn.Flatten())
    with pytest.raises(UserError, match="channels at axis 1, and the wire carries them at axis 2"):
        Victim(tokens, QUERY).query(torch.rand(2, 3, 8, 8), torch.Generator())


@pytest.mark.parametrize("bad", ["channel_last", "NHWC", ""])
def test_unknown_layouts(bad):
    with pytest.raises(UserError, match=f"the layout is '{bad}'.* channels_first or channels_last|did you mean"):
        SplitModel(nn.Identity(), nn.Flatten(), layout=bad)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"the layout is '{bad}'"):
        zoo.build(f"torchvision:swin_t@features.1:{bad}", cut=None, classes=10, image_size=32)


def test_a_name_says_the_layout():
    named = "timm:mambaout_femto@stages.0:"
    shapes = {}
    for layout in ("channels_last", "channels_first"):  # the second is wrong, and it is what was said
        parts = zoo.build(named + layout, cut=None, classes=10, image_size=32, bottleneck=zoo.Bottleneck(4))
        shapes[layout] = tuple(parts.encoder.eval()(torch.rand(1, 3, 32, 32)).shape[1:])
    assert shapes == {"channels_last": (4, 8, 8), "channels_first": (4, 8, 48)}


@pytest.mark.parametrize(("order", "layout"), [(FIRST, None), (LAST, "channels_last"), (LAST, None), (MIDDLE, None)])
def test_networks_of_others_are_tried_when_they_are_built(order, layout, monkeypatch):
    monkeypatch.setattr(runs.zoo, "build", lambda *_, **__: zoo.Parts(Half(order), Back(order), layout))
    settings = config.parse({"data": "digits", "arch": "resnet20_sgm", "cut": 1}).resolve()
    images: Any = SimpleNamespace(classes=("0", "1"), size=32, mean=(0.5,) * 3, std=(0.2,) * 3)
    if order == FIRST or layout:
        assert runs.build_model(settings, images).wire_shape == (6, 16, 16)
    else:
        with pytest.raises(UserError, match="the encoder's features have their channels at axis"):
            runs.build_model(settings, images)


# A training that goes on


def test_a_training_is_not_resumed_with_another_wire(tmp_path, monkeypatch):
    def parts(order, layout=None):
        return lambda *_, **__: zoo.Parts(Half(order), Back(order), layout)

    monkeypatch.setattr(runs.zoo, "build", parts(FIRST))
    with pytest.raises(Killed):
        fit(tmp_path, killer(1, 0), defense=("gaussian:0.1",))
    path = tmp_path / "checkpoint" / "last.pt"
    saved = torch.load(path)
    assert saved["wire"] == [6, 16, 16]
    torch.save({**saved, "wire": [16, 16, 6]}, path)
    with pytest.raises(UserError, match=r"is of a training with the wire \[16, 16, 6\], and this version has \[6, 16"):
        fit(tmp_path, resume=True, defense=("gaussian:0.1",))
    torch.save({key: value for key, value in saved.items() if key != "wire"}, path)  # of an older version
    assert fit(tmp_path, resume=True, defense=("gaussian:0.1",))["wire"]["shape"] == [6, 16, 16]


@pytest.mark.parametrize(("order", "refused"), [(FIRST, False), (LAST, True), (MIDDLE, True)])
def test_a_checkpoint_of_an_older_version_is_refused_where_the_order_has_changed(order, refused, tmp_path):
    encoder, tail = cut_network(Reordered(order).eval(), "wire", torch.rand(1, 3, 8, 8))
    model = SplitModel(nn.Sequential(encoder), tail)
    model.wire_shape = (6, 4, 4)
    with pytest.raises(UserError, match="of an older version, which ordered the wire") if refused else nullcontext():
        checkpoints._check_wire({}, model, tmp_path)


@pytest.mark.parametrize("channels", [8, 16])
def test_a_norm_over_whole_maps_with_channels_at_the_end_has_them_there(channels):
    net = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), Permuted(), nn.LayerNorm([16, 16, channels]), nn.Flatten()
    )
    assert SplitModel.cut(net, "2", torch.rand(1, 3, 16, 16)).wire_shape == (channels, 16, 16)


class Permuted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize("channels", [8, 16])
@pytest.mark.parametrize("layer", ["maps", "rows", "linear"])
def test_a_norm_or_a_linear_layer_along_the_rows_of_maps_leaves_them_as_they_are(channels, layer):
    """A layer norm over channels, rows and columns together was taken for one over channels at the end."""
    made = {
        "maps": nn.LayerNorm([channels, 16, 16]),
        "rows": nn.LayerNorm([16, 16]),
        "linear": nn.Linear(16, 16),
    }[layer]
    net = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), made, nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    net(x := torch.rand(1, 3, 16, 16))
    for at in ("1", "2"):
        model = SplitModel.cut(net, at, x)
        assert model.wire_shape == (channels, 16, 16)
        normal = (x - model.mean.view(1, -1, 1, 1)) / model.std.view(1, -1, 1, 1)
        assert torch.allclose(model.features(x), net[: int(at) + 1](normal), atol=1e-5)
