"""The networks and decoders: parameter counts from closed forms, shapes at every size, refusals."""

from __future__ import annotations

import copy
import itertools
import re

import pytest
import torch
from torch import nn

from splitveil import zoo
from splitveil.errors import UserError
from splitveil.registry import Registry
from splitveil.zoo import Bottleneck, decoders
from splitveil.zoo.base import bottleneck_halves

pytestmark = pytest.mark.usefixtures("quick_weights")

NETWORKS = [name for name in Registry("zoo").names() if ":" not in name]


def build(arch: str, **changes) -> zoo.Parts:
    settings = {"cut": 4, "classes": 10, "image_size": 32, "bottleneck": Bottleneck()}
    return zoo.build(arch, **{**settings, **changes})


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def vgg_parameters(convolutions: list[int], classes: int, *, batch_norm: bool) -> int:
    """3×3 kernels with bias (and two numbers per batch-norm channel), two 512×512 layers, the classifier."""
    pairs = zip([3] + convolutions, convolutions, strict=False)
    features = sum(9 * i * o + o + 2 * o * batch_norm for i, o in pairs)
    return features + 2 * (512 * 512 + 512) + 512 * classes + classes


def resnet_parameters(per_stage: int, classes: int) -> int:
    """3×3 kernels without bias, batch norm, shortcuts without weights: stem 16, stages 32, 64, 128."""
    stages = sum(9 * w * w // 2 + (2 * per_stage - 1) * 9 * w * w + 4 * w * per_stage for w in (32, 64, 128))
    return 9 * 3 * 16 + 32 + stages + 128 * classes + classes


VGG11 = [64, 128, 256, 256, 512, 512, 512, 512]
VGG13 = [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]
VGG16 = [64, 64, 128, 128] + [256] * 3 + [512] * 6


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        ("vgg11", vgg_parameters(VGG11, 10, batch_norm=False)),
        ("vgg11_bn_sgm", vgg_parameters(VGG11, 10, batch_norm=True)),
        ("vgg13_bn", vgg_parameters(VGG13, 10, batch_norm=True)),
        ("vgg16_bn", vgg_parameters(VGG16, 10, batch_norm=True)),
        ("resnet20", resnet_parameters(3, 10)),
        ("resnet32_sgm", resnet_parameters(5, 10)),
        # The ImageNet network has 3,504,872 with 1,000 classes of 1,281 numbers; strides have no weights.
        ("mobilenetv2", 3_504_872 - 990 * 1281),
    ],
)
def test_parameter_counts_follow_from_the_layer_lists(arch, expected):
    parts = build(arch, bottleneck=None)
    assert parameters(parts.encoder, parts.tail) == expected


def test_the_bottleneck_adds_one_convolution_to_each_half():
    with_it, without = build("vgg11_bn"), build("vgg11_bn", bottleneck=None)
    assert parameters(with_it.encoder) - parameters(without.encoder) == 9 * 128 * 8 + 8
    assert parameters(with_it.tail) - parameters(without.tail) == 9 * 8 * 128 + 128


@pytest.mark.parametrize(("arch", "larger"), zip(NETWORKS, itertools.cycle((48, 64))))
def test_every_network_takes_images_of_every_size(arch, larger):
    for size in (32, larger):
        # Of larger images, and of deeper networks of the same layers, the shapes are enough, and quick.
        numbers = size == 32 and not re.search("vgg1[36]|resnet32", arch)
        with torch.device("cpu" if numbers else "meta"):
            parts = build(arch, image_size=size, classes=7)
            z = parts.encoder.eval()(torch.rand(2, 3, size, size))
            before = z.clone()
            assert parts.tail.eval()(z).shape == (2, 7)
        assert z.shape[1] == 8
        assert not numbers or torch.equal(z, before), "the tail changed z in place"


@pytest.mark.parametrize(
    ("arch", "cut", "shape"),
    [
        ("vgg11_bn", 1, (64, 32, 32)),
        ("vgg11_bn", 4, (128, 8, 8)),
        ("vgg11_bn", 13, (512, 1, 1)),
        ("resnet20", 1, (16, 32, 32)),
        ("resnet20", 4, (32, 16, 16)),
        ("resnet20", 10, (128, 4, 4)),
        ("mobilenetv2", 1, (32, 32, 32)),
        ("mobilenetv2", 4, (24, 32, 32)),
        ("mobilenetv2", 18, (320, 4, 4)),
    ],
)
def test_the_cut_counts_blocks(arch, cut, shape):
    parts = build(arch, cut=cut, bottleneck=None)
    assert parts.encoder(torch.rand(2, 3, 32, 32)).shape[1:] == shape
    deepest = build(arch, cut=1, bottleneck=None)
    assert parameters(parts.encoder, parts.tail) == parameters(deepest.encoder, deepest.tail)


@pytest.mark.parametrize("arch", ["vgg11_bn_sgm", "resnet20_sgm", "mobilenetv2_sgm"])
def test_sgm_ends_the_encoder_with_a_sigmoid(arch):
    x = 100 * torch.randn(4, 3, 32, 32)
    bounded, free = build(arch), build(arch.removesuffix("_sgm"))
    free.encoder.load_state_dict(bounded.encoder.state_dict())
    assert torch.equal(bounded.encoder(x), torch.sigmoid(free.encoder(x)))
    assert list(bounded.encoder.children())[-1].__class__ is nn.Sigmoid


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("side", [8, 9, 11])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_the_cloud_half_restores_the_size(stride, side, kernel):
    down, up = bottleneck_halves(Bottleneck(4, stride, kernel, relu=True), (16, side, side + 1))
    z = down(torch.randn(1, 16, side, side + 1))
    assert z.shape == (1, 4, -(-side // stride), -(-(side + 1) // stride))
    assert z.min() >= 0
    assert up(z).shape == (1, 16, side, side + 1)


def test_no_relu_lets_negative_features_through():
    down, _ = bottleneck_halves(Bottleneck(4), (16, 8, 8))
    assert down(torch.randn(1, 16, 8, 8)).min() < 0


def test_building_leaves_batch_norm_statistics_alone():
    fresh = build("vgg11_bn").encoder.state_dict()
    means = [value for name, value in fresh.items() if name.endswith("running_mean")]
    assert means
    assert all(not mean.any() for mean in means)


def test_the_same_name_gives_the_same_keys():
    for arch, cut in [("resnet20_sgm", 4), ("torchvision:resnet18@layer2", None)]:
        first, second = build(arch, cut=cut), build(arch, cut=cut)
        second.encoder.load_state_dict(first.encoder.state_dict())
        second.tail.load_state_dict(first.tail.state_dict())
        x = torch.rand(2, 3, 32, 32)
        halves = [(p.encoder.eval(), p.tail.eval()) for p in (first, second)]
        assert torch.equal(*(tail(encoder(x)) for encoder, tail in halves))


def test_networks_train_channels_last():
    parts = build("resnet20_sgm")
    model = nn.Sequential(parts.encoder, parts.tail).to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 32, 32).to(memory_format=torch.channels_last)
    z = parts.encoder(x)
    assert z.is_contiguous(memory_format=torch.channels_last)
    parts.tail(z).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    "arch", ["torchvision:resnet18@layer2", "torchvision:mobilenet_v2@features.3", "timm:resnet10t@layer1"]
)
def test_library_networks_are_cut_and_narrowed(arch):
    parts = build(arch, cut=None, bottleneck=Bottleneck(4, kernel=1))
    z = parts.encoder(torch.rand(2, 3, 32, 32))
    assert z.shape[1] == 4
    assert parts.tail(z).shape == (2, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "vgg11_bm"}, "unknown model 'vgg11_bm'; did you mean 'vgg11_bn'"),
        ({"arch": "vgg11:features"}, "unknown model 'vgg11:features'"),
        ({"arch": "torchvision"}, "did you mean 'torchvision:NAME@LAYER'"),
        ({"cut": 0}, "cut 0 does not exist in vgg11; expected a whole number from 1 to 13"),
        ({"cut": 14}, "cut 14 does not exist in vgg11; expected a whole number from 1 to 13"),
        ({"cut": None}, "cut is missing; give cut: in the file or --cut, 1 to 13"),
        ({"arch": "resnet20", "cut": 11}, "from 1 to 10"),
        ({"arch": "resnet32", "cut": 17}, "from 1 to 16"),
        ({"arch": "mobilenetv2", "cut": 19}, "from 1 to 18"),
        ({"image_size": 16}, "images of 16 pixels are too small for vgg11; expected at least 32"),
        ({"classes": 0}, "classes is 0; expected a whole number from 1"),
        (
            {"bottleneck": Bottleneck(129)},
            "129 does not fit the feature 128×8×8; expected a whole number from 1 to 128",
        ),
        ({"bottleneck": Bottleneck(8, stride=9)}, "bottleneck stride 9 does not fit"),
        ({"bottleneck": Bottleneck(8, kernel=9)}, "bottleneck kernel 9 does not fit"),
        ({"bottleneck": Bottleneck(8, kernel=2)}, "bottleneck kernel 2 is even"),
        ({"arch": "torchvision:resnet18", "cut": None}, "expected torchvision:NAME@LAYER"),
        ({"arch": "torchvision:resnet19@layer2", "cut": None}, "did you mean 'resnet18'"),
        ({"arch": "timm:resnet19@layer2", "cut": None}, "unknown timm model 'resnet19'; did you mean"),
        ({"arch": "torchvision:resnet18@layer22", "cut": None}, "did you mean 'layer2'"),
        ({"arch": "torchvision:resnet18@layer2", "cut": 4}, "leave the cut out"),
        ({"arch": "torchvision:alexnet@features.0", "cut": None}, "does not take an input of shape"),
        ({"arch": "torchvision:vit_b_16@encoder", "cut": None, "image_size": 50}, "cannot build vit_b_16"),
        ({"arch": "timm:vit_tiny_patch16_224@blocks.1", "cut": None}, "a bottleneck needs a feature"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(UserError) as caught:
        build(**{"arch": "vgg11", **changes})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def multiply_adds(decoder: nn.Module, z: torch.Tensor) -> int:
    """As common profilers count: a transposed kernel once per *output* pixel, batch norm four per number."""
    total = 0

    def count(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.ConvTranspose2d):
            total += output.numel() * module.weight[:, 0].numel()
        elif isinstance(module, nn.BatchNorm2d):
            total += 4 * output.numel()

    for module in decoder.modules():
        module.register_forward_hook(count)
    decoder.eval()(z)
    return total


def test_the_published_decoder_has_the_published_size():
    decoder = decoders.build("res_normN8C64", feature_shape=(8, 8, 8), image_size=32)
    assert parameters(decoder) == 711_539  # published: 711.54 k
    assert multiply_adds(decoder, torch.rand(1, 8, 8, 8)) == pytest.approx(90.66e6, rel=2e-3)


def test_decoder_parameters_follow_from_its_name():
    def res_norm(c: int, n: int, inputs: int, doublings: int) -> int:
        block = 2 * (9 * c * c + c) + 4 * c
        first = 2 * inputs + 9 * inputs * c + c + 2 * c + 9 * c * c + c + inputs * c + 2 * c
        last = 2 * c + 27 * c + 3 + 6 + 81 + 3 + 3 * c + 6
        return first + n * block + doublings * (9 * c * c + 3 * c) + last

    for n, c, inputs, side, doublings in [
        (4, 64, 8, 8, 2),
        (2, 32, 128, 8, 2),
        (0, 16, 4, 4, 3),
        (1, 8, 3, 32, 0),
    ]:
        decoder = decoders.build(f"res_normN{n}C{c}", feature_shape=(inputs, side, side), image_size=32)
        assert parameters(decoder) == res_norm(c, n, inputs, doublings)
    plain = decoders.build("conv_normN0C16", feature_shape=(8, 8, 8), image_size=32)
    assert parameters(plain) == (72 * 16 + 48) + 2 * (144 * 16 + 48) + (144 * 3 + 3)


@pytest.mark.parametrize(
    ("shape", "size", "widths"),
    [
        ((8, 8, 8), 32, [(8, 4), (4, 4), (4, 4), (4, 3)]),
        ((8, 16, 16), 32, [(8, 8), (8, 3)]),
        ((16, 4, 4), 32, [(16, 8), (8, 8), (8, 4), (4, 4), (4, 4), (4, 3)]),
        ((8, 32, 32), 32, [(8, 8), (8, 3)]),
        ((1, 8, 8), 32, [(1, 1), (1, 1), (1, 1), (1, 3)]),
    ],
)
def test_the_published_custom_decoder(shape, size, widths):
    """Its 3 × 3 convolutions, channels in and out; 699 parameters for the wire of the paper's tables."""
    decoder = decoders.build("custom_released", feature_shape=shape, image_size=size)
    assert parameters(decoder) == sum(9 * a * b + b for a, b in widths)
    if shape == (8, 8, 8):
        assert parameters(decoder) == 699
    seen = decoder(torch.rand(2, *shape))
    assert seen.shape == (2, 3, size, size)
    assert 0 < float(seen.min()) < float(seen.max()) < 1


@pytest.mark.parametrize(
    ("name", "shape", "ours"),
    [
        ("res_normN8C64", (8, 12, 12, 48), 711_539),
        ("res_normN8C64", (8, 16, 16, 64), 711_539),
        ("res_normN8C64", (8, 16, 16, 32), 674_483),
        ("conv_normN0C16", (8, 8, 8, 32), 6_339),
        ("custom", (8, 8, 8, 32), 2_555),
    ],
)
def test_decoders_have_the_parameters_that_the_documentation_compares(name, shape, ours):
    *wire, size = shape
    assert parameters(decoders.build(name, feature_shape=tuple(wire), image_size=size)) == ours


@pytest.mark.parametrize("name", ["res_normN1C8", "conv_normN1C8", "custom", "custom_released"])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((8, 8, 8), 32),
        ((8, 12, 12), 48),
        ((8, 16, 16), 64),
        ((3, 10, 10), 48),
        ((4, 5, 6), 32),
        ((2, 40, 40), 32),
        ((512, 1, 1), 64),
    ],
)
def test_decoders_come_out_at_the_size_of_the_image(name, shape, size):
    decoder = decoders.build(name, feature_shape=shape, image_size=size)
    images = decoder(10 * torch.randn(2, *shape))
    assert images.shape == (2, 3, size, size)
    assert images.min() >= 0
    assert images.max() <= 1


def test_exact_multiples_need_no_interpolation():
    for side, size, needed in [(8, 32, False), (12, 48, False), (10, 48, True)]:
        decoder = decoders.build("conv_normN0C8", feature_shape=(8, side, side), image_size=size)
        assert any(isinstance(module, nn.Upsample) for module in decoder.modules()) == needed


def test_decoders_can_be_copied_and_run_channels_last():
    decoder = decoders.build("res_normN1C8", feature_shape=(8, 8, 8), image_size=32).eval()
    twin = copy.deepcopy(decoder).to(memory_format=torch.channels_last)
    z = torch.rand(2, 8, 8, 8)
    torch.testing.assert_close(twin(z.to(memory_format=torch.channels_last)), decoder(z))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnormN8C64", "unknown decoder 'resnormN8C64'; did you mean 'res_normNnCc'"),
        ("res_normN8C64x", "unknown decoder"),
        ("res_norm", "did you mean 'res_normNnCc'"),
        ("res_normNnCc", "is incomplete"),
        ("customN8C64", "unknown decoder"),
        ("res_normN8C0", "channels is 0; expected a whole number from 1 to 4096"),
    ],
)
def test_bad_decoder_names_are_refused(name, message):
    with pytest.raises(UserError) as caught:
        decoders.build(name, feature_shape=(8, 8, 8), image_size=32)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "name", ["res_normN1C8", "conv_normN1C8", "unet_normN1C8", "dense_normN1C8", "custom", "custom_released"]
)
@pytest.mark.parametrize("shape", [(16, 12), (17, 12), (18, 12), (5, 12), (1, 12), (30,), (10,)])
def test_decoders_take_tokens_and_vectors(name, shape):
    decoder = decoders.build(name, feature_shape=shape, image_size=32)
    assert decoder(torch.randn(2, *shape)).shape == (2, 3, 32, 32)


def test_a_decoder_needs_a_shape_that_it_knows():
    for shape in [(), (2, 3, 4, 5), (0, 8, 8)]:
        with pytest.raises(UserError, match=r"expected \(channels, height, width\), \(tokens, channels\) or"):
            decoders.build("custom", feature_shape=shape, image_size=32)


@pytest.mark.parametrize("size", [32, 47, 56, 57, 63, 64, 65])
def test_the_published_mobilenet_takes_every_size(size):
    parts = zoo.build("mobilenetv2_released", cut=3, classes=10, image_size=size)
    assert parts.tail.eval()(parts.encoder.eval()(torch.rand(1, 3, size, size))).shape == (1, 10)
