"""The flag for wires that depend on the images beside them, under the noise of every defense."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import nn

import toy
from noisy_defenses import NOISY
from splitveil.data import to_float
from splitveil.defenses._codec_choice import fit
from splitveil.defenses.base import Defense, Stack
from splitveil.defenses.codec import Codec
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.topk import TopK
from splitveil.evaluation import reliability
from splitveil.model import SplitModel
from splitveil.registry import Registry
from toy import rng

IMAGES = toy.images(40, 1)
SHAPE = (8, 4, 4)
STRENGTHS: dict[str, dict[str, Any]] = {
    "gaussian": {"sigma": 0.05},
    "laplace": {"scale": 0.05},
    "local_dp": {"epsilon": 40.0},
    "adversarial_noise": {"network": "custom"},
}
"""Where the defaults would hide the features altogether, or take long; adversarial_noise draws nothing, and stands
here for noise that is the same each time."""
NAMES = (*NOISY, "adversarial_noise")


class Leaking(Defense):
    """A part of each image's wire is that of the image before it."""

    def on_wire(self, z, rng):
        return 0.7 * z + 0.3 * z.roll(1, 0)


COUPLED = {"a batch's largest": lambda: TopK(0.2, scope="released"), "the image before": Leaking}


def model(*names_or_defenses: str | Defense) -> SplitModel:
    parts = [
        Registry("defenses").get(one)(**STRENGTHS.get(one, {})) if isinstance(one, str) else one
        for one in names_or_defenses
    ]
    plain, _ = toy.model(SHAPE[0] * 16, 0.0, SHAPE)
    made = SplitModel(plain.encoder, nn.Flatten(), defense=Stack(*parts), layout="channels_first")
    made.wire_shape = tuple(SHAPE)
    made.image_shape = (3, toy.SIDE, toy.SIDE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made.defense.install(made)  # type: ignore[union-attr, operator]
    return made.eval()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("coupled", "last"), zip(COUPLED, (True, False), strict=True))
def test_noise_hides_no_dependence_on_the_images_beside(name, coupled, last):
    parts = [COUPLED[coupled](), name] if last else [name, COUPLED[coupled]()]
    assert any("depends on the images beside it" in flag for flag in reliability.of_model(model(*parts), IMAGES))


@pytest.mark.parametrize("name", NAMES)
def test_noise_is_no_dependence(name):
    for parts in ([name], [TopK(0.2), name], [name, TopK(0.2)]):
        assert not [flag for flag in reliability.of_model(model(*parts), IMAGES) if "beside it" in flag]


def drawn(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


class Drawn(Defense):
    """A defense whose noise is what it is given."""

    def __init__(self, send):
        super().__init__()
        self.send = send

    def on_wire(self, z: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        return self.send(z, rng)


TOGETHER = {
    "none alone": lambda z, rng: z + 0.1 * drawn(z.shape, rng) if len(z) > 1 else z,
    "one for all": lambda z, rng: z + 0.3 * drawn(z.shape[1:], rng),
    "the first only": lambda z, rng: torch.cat([z[:1] + 0.3 * drawn(z[:1].shape, rng), z[1:]]),
    "more later on": lambda z, rng: z + 0.1 * torch.arange(1, len(z) + 1).view(-1, 1, 1, 1) * drawn(z.shape, rng),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_noise_that_depends_on_the_images_beside_is_flagged(name):
    """Means alone were compared, so that an image that is sent alone could have no noise at all."""
    found = reliability.of_model(model(Drawn(TOGETHER[name])), IMAGES)
    assert any("depends on the images beside it" in flag for flag in found)


def each(z: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """One number of N(0, 1) for each image."""
    return torch.randn((len(z), *[1] * (z.dim() - 1)), generator=rng)


ALONE_ALL = {
    "shift": lambda z, rng: z + 0.3 * each(z, rng),
    "strength": lambda z, rng: z + 0.1 * each(z, rng).exp() * drawn(z.shape, rng),
    "blackout": lambda z, rng: z * (torch.rand((len(z), 1, 1, 1), generator=rng) > 0.05),
    "gain": lambda z, rng: z * (1 + 0.3 * each(z, rng)),
}


@pytest.mark.parametrize("name", ALONE_ALL)
def test_noise_that_an_images_entries_have_in_common_is_no_dependence(name):
    found = reliability.of_model(model(Drawn(ALONE_ALL[name])), IMAGES)
    assert not [flag for flag in found if "beside it" in flag]


@pytest.mark.parametrize("coupled", COUPLED)
@pytest.mark.parametrize("sigma", [1.0, 20.0])
def test_strong_noise_hides_no_dependence_either(coupled, sigma):
    for parts in ([COUPLED[coupled](), Gaussian(sigma)], [Gaussian(sigma), COUPLED[coupled]()]):
        found = reliability.of_model(model(*parts), IMAGES)
        assert any("depends on the images beside it" in flag for flag in found)


# Near-duplicates


def plain(value: int, side: int) -> torch.Tensor:
    return torch.full((1, 3, side, side), value, dtype=torch.uint8)


@pytest.mark.parametrize("side", [4, 8, 11, 32])
@pytest.mark.parametrize("level", [0, 128, 250])
def test_shades_up_to_two_grey_levels_are_alike(side, level):
    others = [plain(level + step, side) for step in range(5)]
    assert [bool(reliability.alike(plain(level, side), one)) for one in others] == [True, True, True, False, False]


@pytest.mark.parametrize("side", [8, 16])
def test_it_is_the_root_mean_square_that_counts(side):
    """One pixel may differ by 2√n grey levels of n; by one more it is another image."""
    numbers = 3 * side * side
    limit = int(2 * numbers**0.5)
    for change, expected in ((limit, True), (limit + 1, False)):
        other = plain(100, side)
        other[0, 0, 0, 0] += change
        assert bool(reliability.alike(plain(100, side), other)) is expected


@pytest.mark.parametrize("side", [8, 12, 16])
def test_alike_is_what_all_pairs_say(side):
    """Against every difference in float64, with pairs on both sides of the limit, among more images than one part."""
    base = torch.randint(60, 190, (40, 3, side, side), generator=rng())
    scale = torch.linspace(0, 4, 40).view(-1, 1, 1, 1)
    moved = base + (scale * torch.randn(base.shape, generator=rng(1))).round().long()
    others = torch.cat([torch.randint(256, (4090, 3, side, side), generator=rng(2)), moved]).to(torch.uint8)
    found = reliability.alike(base.to(torch.uint8), others)
    error = (base.double() - moved.double()).square().mean((1, 2, 3)).sqrt()
    assert found.tolist() == (error <= 2).tolist()
    assert 5 < int(found.sum()) < 35


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("sigma", [0.005, 0.05])
def test_what_a_codec_rounds_is_no_noise_that_fails_to_be_drawn(bits, sigma):
    """It is the same at every look, as it is told: the wire was declared another one than was attacked."""
    made, x = model(Gaussian(sigma)), to_float(IMAGES.images)
    stage = Codec(cast("Any", f"uint{bits}"))
    with torch.no_grad():
        stage.set_grid(fit(made.features(x), bits))
        made.defense = Stack(Gaussian(sigma), stage)
        assert reliability._other_noise(made, x) == []
