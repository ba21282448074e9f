"""Noise is drawn and added in float32, equally on every layout of memory."""

import pytest
import torch

from noisy_defenses import NOISY, SHAPE, build
from splitveil.errors import UserError
from splitveil.registry import Registry
from toy import rng


def test_the_list_names_every_defense_that_draws():
    drawing = set()
    for name in Registry("defenses").names():
        try:
            defense = build(name, **NOISY.get(name, {}))
        except (UserError, AttributeError):  # those that need a whole network draw nothing on the wire
            continue
        generator = rng()
        before = generator.get_state()
        defense.eval().on_wire(torch.rand(2, *SHAPE), generator)
        if not torch.equal(before, generator.get_state()):
            drawing.add(name)
    assert drawing == set(NOISY)


@pytest.mark.parametrize("name", NOISY)
def test_bfloat16_features_get_the_noise_of_float32(name):
    if name == "vib":
        pytest.skip("its convolution is float32 outside autocast")
    defense = build(name, **NOISY[name])
    z = torch.ones(512, *SHAPE) * 0.75
    wide = defense.on_wire(z, rng()) - z
    narrow = defense.on_wire(z.bfloat16(), rng()) - z
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, wide)


@pytest.mark.parametrize(("scale", "expected"), [(0.001, 2**0.5 * 0.001), (0.025, 2**0.5 * 0.025)])
def test_laplace_noise_on_bfloat16_features_has_its_deviation_and_tails(scale, expected):
    noise = build("laplace", scale=scale).on_wire(torch.ones(2000, *SHAPE).bfloat16(), rng()) - 1
    assert float(noise.std()) == pytest.approx(expected, rel=0.01)
    assert float(noise.abs().max()) > 8 * scale


def test_bfloat16_features_under_autocast():
    defense = build("vib")
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        wire = defense.on_wire(torch.ones(64, *SHAPE).bfloat16(), rng())
    assert wire.dtype == torch.float32
    assert len(wire.unique()) > 1000


@pytest.mark.parametrize("name", NOISY)
def test_the_layout_of_memory_does_not_change_the_noise(name):
    defense = build(name, **NOISY[name]).eval()
    z = torch.rand(3, *SHAPE, generator=rng(1))
    with torch.no_grad():
        plain, last = (
            defense.on_wire(z.contiguous(memory_format=layout), rng())
            for layout in (torch.contiguous_format, torch.channels_last)
        )
    torch.testing.assert_close(plain, last)
