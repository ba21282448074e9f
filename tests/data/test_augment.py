"""Augmentation against per-image references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from splitveil.data import augment, to_float
from splitveil.data._augment import warp, window


def pixels(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=seeded(seed))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def reference_crop(image: torch.Tensor, dy: int, dx: int, mirror: bool, padding: int) -> torch.Tensor:
    size = image.shape[-1]
    padded = F.pad(image, [padding] * 4)
    crop = padded[:, padding + dy : padding + dy + size, padding + dx : padding + dx + size]
    return crop.flip(-1) if mirror else crop


@given(size=st.integers(1, 9), padding=st.integers(0, 4), seed=st.integers(0, 99))
def test_window_equals_the_crop_of_each_image(size, padding, seed):
    images = pixels(5, size, seed)
    shift = torch.randint(-padding, padding + 1, (2, 5), generator=seeded(seed))
    mirror = torch.rand(5, generator=seeded(seed)) < 0.5
    expected = [
        reference_crop(images[i], int(shift[0, i]), int(shift[1, i]), bool(mirror[i]), padding) for i in range(5)
    ]
    assert torch.equal(window(images, shift, mirror, padding), torch.stack(expected))


def test_nothing_asked_is_the_identity():
    images = pixels(4, 8)
    assert torch.equal(augment(images, seeded(0)), to_float(images))


def test_flips_are_exact_and_half_of_the_images():
    images = pixels(400, 6)
    out = augment(images, seeded(1), flip=True)
    same = (out == to_float(images)).flatten(1).all(1)
    mirrored = (out == to_float(images.flip(-1))).flatten(1).all(1)
    assert torch.equal(same, ~mirrored)
    assert 160 < int(mirrored.sum()) < 240  # 4 standard deviations


def test_all_shifts_occur_and_differ_between_images():
    position = torch.zeros(600, 3, 9, 9, dtype=torch.uint8)
    position[:, :, 4, 4] = 255
    out = augment(position, seeded(2), crop_padding=2)
    where = out[:, 0].flatten(1).argmax(1)
    assert len(where.unique()) == 25
    assert out.flatten(1).sum(1).eq(3).all()


def test_angles_are_uniform_in_the_range_and_per_image():
    ramp = torch.arange(33).float().mul(5).round().to(torch.uint8).expand(400, 3, 33, 33)
    out = augment(ramp, seeded(3), rotate_degrees=15) * 255 / 5
    center = out[:, 0, 14:19, 14:19]
    slope_x = (center[:, :, -1] - center[:, :, 0]).mean(1) / 4
    slope_y = (center[:, -1] - center[:, 0]).mean(1) / 4
    angles = torch.rad2deg(torch.atan2(-slope_y, slope_x))
    assert angles.abs().max() <= 15.01
    assert angles.min() < -13
    assert angles.max() > 13
    assert angles.std() == pytest.approx(30 / 12**0.5, rel=0.1)


@pytest.mark.parametrize("degrees", [15.0, -7.5, 90.0, 33.0])
def test_rotation_equals_scipy(degrees):
    size = 16
    image = torch.zeros(1, 3, size, size)
    image[:, :, 4:12, 4:12] = torch.rand(1, 3, 8, 8, generator=seeded(0))
    out = warp(image, torch.zeros(2, 1), torch.zeros(1, dtype=torch.bool), torch.tensor([degrees]))
    expected = ndimage.rotate(image[0, 0].numpy(), degrees, reshape=False, order=1)
    assert np.abs(out[0, 0].numpy() - expected).max() < 1e-4


def test_quarter_turn_is_rot90_counter_clockwise():
    images = to_float(pixels(2, 7))
    out = warp(images, torch.zeros(2, 2), torch.zeros(2, dtype=torch.bool), torch.full((2,), 90.0))
    assert torch.allclose(out, images.rot90(1, (2, 3)), atol=1e-4)


@given(seed=st.integers(0, 99))
def test_warp_without_angle_equals_window(seed):
    images = pixels(4, 8, seed)
    shift = torch.randint(-3, 4, (2, 4), generator=seeded(seed))
    mirror = torch.rand(4, generator=seeded(seed)) < 0.5
    out = warp(to_float(images), shift, mirror, torch.zeros(4))
    assert torch.allclose(out, to_float(window(images, shift, mirror, 3)), atol=1e-5)


def test_warp_rotates_after_shift_and_flip():
    images = to_float(pixels(1, 8))
    shift, mirror, still = torch.tensor([[2], [-1]]), torch.tensor([True]), torch.zeros(2, 1)
    images[:, :, :3] = 0  # so that nothing leaves the window
    images[:, :, :, -3:] = 0
    together = warp(images, shift, mirror, torch.tensor([90.0]))
    moved = warp(images, shift, mirror, torch.tensor([0.0]))
    apart = warp(moved, still, torch.tensor([False]), torch.tensor([90.0]))
    assert torch.allclose(together, apart, atol=1e-4)


@given(side=st.integers(1, 24), seed=st.integers(0, 9))
def test_cutout_hides_a_square_around_a_pixel_and_nothing_else(side, seed):
    images = pixels(6, 8, seed)  # none is as gray as the square: 127.5
    found = augment(images, seeded(seed), cutout=side)
    hidden = (found == 0.5).all(1)
    assert torch.equal(found, torch.where(hidden[:, None], torch.tensor(0.5), to_float(images)))
    for square in hidden:
        rows, columns = square.any(1).nonzero().flatten(), square.any(0).nonzero().flatten()
        assert int(square.sum()) == len(rows) * len(columns)  # all of the rectangle that they span
        for place in (rows, columns):
            first, last = int(place[0]), int(place[-1])
            assert len(place) == last - first + 1
            assert len(place) == side or (len(place) < side and (first == 0 or last == 7))
            assert len(place) >= min(8, (side + 1) // 2)


def test_the_center_of_cutout_is_any_pixel():
    hidden = (augment(pixels(20_000, 4), seeded(1), cutout=1) == 0.5).all(1).float()
    torch.testing.assert_close(hidden.sum((1, 2)), torch.ones(20_000))
    torch.testing.assert_close(hidden.mean(0), torch.full((4, 4), 1 / 16), atol=0.01, rtol=0)


@given(
    seed=st.integers(0, 9),
    padding=st.integers(0, 4),
    flip=st.booleans(),
    degrees=st.sampled_from([0.0, 15.0]),
    cutout=st.integers(0, 9),
)
def test_same_seed_same_result_in_range_and_input_untouched(seed, padding, flip, degrees, cutout):
    images = pixels(3, 8, seed)
    before = images.clone()
    options = {"crop_padding": padding, "flip": flip, "rotate_degrees": degrees, "cutout": cutout}
    first, second = (augment(images, seeded(seed), **options) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(images, before)
    assert first.dtype == torch.float32
    assert first.min() >= 0
    assert first.max() <= 1 + 1e-6


def test_only_the_generator_is_drawn_from():
    state = torch.get_rng_state()
    augment(pixels(3, 8), seeded(0), crop_padding=2, flip=True, rotate_degrees=10, cutout=3)
    assert torch.equal(torch.get_rng_state(), state)
