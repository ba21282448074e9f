"""Gray and oblong images go through everything that color squares do: training, defenses, attacks, pictures."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

import splitveil as sv
from splitveil.attacks._cosine import CosineModel
from splitveil.attacks._critic import critic
from splitveil.attacks._denoiser import GaussianModel
from splitveil.attacks.base import Extent, Victim
from splitveil.config import Spec
from splitveil.data import Access, Split, augment, to_float
from splitveil.data._augment import warp
from splitveil.defenses.base import NEVER
from splitveil.registry import Registry
from splitveil.zoo import decoders

SHAPES = [(1, 12, 20), (3, 20, 12)]
SMALL = {
    "epochs": 1, "steps": 2, "iterations": 2, "restarts": 1, "looks": 2, "network": "custom", "batch_size": 8,
    "width": 4, "start_epochs": 1, "warm_epochs": 1, "samples": 2, "draws": 1, "tuning": 2,
}  # fmt: skip


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(shape: tuple[int, int, int], count: int = 60) -> tuple[Tensor, Tensor]:
    channels, height, width = shape
    coarse = torch.rand(count, channels, height // 4, width // 4, generator=rng())
    return nn.functional.interpolate(coarse, size=(height, width), mode="bilinear"), torch.arange(count) % 3


def split(shape: tuple[int, int, int], *defenses: str) -> sv.SplitModel:
    channels, height, width = shape
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = [nn.Conv2d(channels, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 8, 3, 2, 1), nn.Sigmoid()]
        tail = nn.Sequential(nn.Flatten(), nn.Linear(height * width // 2, 3))
        stack = [Spec.model_validate(text).make("defenses") for text in defenses]
        return sv.SplitModel(nn.Sequential(*first), tail, defense=stack, example=images(shape, 1)[0])


@pytest.mark.parametrize("name", Registry("attacks").names())
def test_every_attack_answers_with_images_of_the_shape(name):
    target = Registry("attacks").get(name)
    settings = {key: value for key, value in SMALL.items() if key in inspect.signature(target).parameters}
    x, y = images(SHAPES[0])
    model = split(SHAPES[0], "gaussian:0.05")
    spec = Spec(name=name, parameters=settings)
    result = sv.attack(model, spec, learn_from=(x[:40], y[:40]), invert=(x[40:], y[40:]), progress=False)
    assert result.images.shape == x[40:].shape
    assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1
    assert 0 < result.mse < 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_a_training_with_everything_and_the_best_attack(shape):
    """What a network of such images gives away is found: the linear attack has less than the mean image's error."""
    x, y = images(shape, 160)
    model = split(shape, "gaussian:0.01", "cem:1")
    settings = {"crop_padding": 2, "flip": True, "rotate": 10, "progress": False}
    sv.fit(model, (x[:60], y[:60]), validate=(x[60:80], y[60:80]), epochs=2, batch_size=20, **settings)
    result = sv.attack(model, "linear", learn_from=(x[:120], y[:120]), invert=(x[120:], y[120:]), progress=False)
    assert result.mse < 0.8 * result.baseline_mse
    assert result.plot().axes[0].get_images()[0].get_array().shape == (*shape[1:], 3)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", Registry("defenses").names())
def test_every_defense_acts_on_the_wire_of_such_images(name):
    x, y = images(SHAPES[1], 20)
    try:
        model = split(SHAPES[1], *(["gaussian"] if name == "cem" else []), name)
    except sv.UserError as error:
        if "pip install" in str(error):
            pytest.skip(str(error))
        raise
    if not any(getattr(part, "acts_after", 0) == NEVER for part in model.modules()):  # put on a trained model only
        sv.OwnLoop(model, epochs=999, images=20).loss(x, y).backward()
    assert model(x, rng()).shape == (20, 3)


def test_a_turn_is_a_turn_whatever_the_sides():
    """By 180 degrees both axes are mirrored; by 90 the largest square in the middle is turned, counter-clockwise."""
    x = torch.rand(1, 1, 6, 10, generator=rng())
    still, unmirrored = torch.zeros(2, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool)
    torch.testing.assert_close(warp(x, still, unmirrored, torch.tensor([180.0])), x.flip(2, 3), atol=1e-4, rtol=0)
    turned = warp(x, still, unmirrored, torch.tensor([90.0]))[..., 2:8]
    torch.testing.assert_close(turned, x[..., 2:8].rot90(1, (2, 3)), atol=1e-4, rtol=0)


def test_a_shift_moves_by_whole_pixels_along_both_sides():
    x = torch.randint(256, (1, 1, 6, 10), generator=rng(), dtype=torch.uint8)
    shift, unmirrored = torch.tensor([[2], [-3]]), torch.zeros(1, dtype=torch.bool)
    moved = warp(to_float(x), shift, unmirrored, torch.zeros(1))
    torch.testing.assert_close(moved[..., :4, 3:], to_float(x)[..., 2:, :7], atol=1e-5, rtol=0)
    assert augment(x, rng(), crop_padding=2).shape == x.shape


@pytest.mark.parametrize("name", ["res_normN1C8", "conv_normN1C8", "unet_normN1C8", "dense_normN1C8", "custom"])
@pytest.mark.parametrize("feature", [(4, 5, 7), (4, 10, 3), (9, 6), (12,)])
def test_decoders_give_images_of_any_shape(name, feature):
    decoder = decoders.build(name, feature_shape=feature, image_size=(1, 20, 28))
    found = decoder(torch.rand(2, *feature, generator=rng()))
    assert found.shape == (2, 1, 20, 28)


@pytest.mark.parametrize("shape", [(1, 25, 31), (3, 31, 25)])
@pytest.mark.parametrize("kind", ["plain", "published"])
def test_critics_of_any_shape(shape, kind):
    assert critic(shape, 4, kind)(torch.rand(2, *shape, generator=rng())).shape[0] == 2


@pytest.mark.parametrize("shape", [(1, 5, 8), (3, 8, 5)])
def test_transforms_of_any_shape_keep_lengths(shape):
    x = torch.randn(40, *shape, generator=rng())
    model = CosineModel.fit(x)
    torch.testing.assert_close(model.coefficients(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))
    torch.testing.assert_close(model.image(model.coefficients(x) / model.deviation), x, atol=1e-5, rtol=1e-5)
    gaussian = GaussianModel(x)
    torch.testing.assert_close(gaussian.inverse(gaussian.transform(x)), x, atol=1e-5, rtol=1e-5)


def test_the_extent_of_an_attack_tells_the_shape():
    x, y = images(SHAPES[0], 4)
    model = split(SHAPES[0])
    own = Split((255 * x).round().to(torch.uint8), y)
    extent = Extent.of(Victim(model, frozenset(Access)), own, 4)
    assert (extent.image, extent.size, extent.image_bytes) == ((1, 12, 20), 20, 4 * 240)
