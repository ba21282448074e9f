"""Decoders of wires that are no maps lose nothing of them on the way in."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from splitveil.zoo import decoders
from splitveil.zoo.decoders.entry import LARGEST, Vector, to_maps


@pytest.mark.parametrize("extra", [0, 1, 5])  # none, a class token, a class token and four registers
def test_tokens_are_laid_out_as_vision_transformers_number_them(extra):
    maps = torch.randn(2, 6, 8, 8)
    tokens = torch.cat([torch.randn(2, extra, 6), maps.flatten(2).transpose(1, 2)], 1)
    torch.testing.assert_close(to_maps((64 + extra, 6), 15)(tokens), maps)


@pytest.mark.parametrize(
    "shape", [(4, 192), (5, 192), (197, 768), (64, 6), (1, 10), (50, 768), (140, 8), (3, 64), (10,), (512,)]
)
@pytest.mark.parametrize("size", [16, 32, 50, 224])
def test_no_entrance_is_narrower_than_the_wire(shape, size):
    with torch.device("meta"):
        entrance = to_maps(shape, size)
        maps = entrance(torch.zeros(2, *shape))
    assert maps.shape == (2, *entrance.shape)
    assert maps[0].numel() >= 0.8 * math.prod(shape)  # class and register tokens are only mixed in
    assert max(entrance.shape[1:]) <= max(size, math.isqrt(shape[0]) + 1)


def test_tokens_that_fill_no_square_all_have_a_place():
    tokens = torch.randn(2, 6, 5)
    maps = to_maps((6, 5), 3)(tokens)
    torch.testing.assert_close(maps.flatten(2)[:, :, :6], tokens.transpose(1, 2))
    assert maps.shape == (2, 5, 3, 3)


@pytest.mark.parametrize("numbers", [10, 4096, 25_088, 1_000_000])
def test_a_long_vector_is_spread_less(numbers):
    with torch.device("meta"):
        assert Vector(numbers, 224).dense.weight.numel() <= max(LARGEST, 8 * numbers)


def patches(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, 16, 16) -> (B, 4, 192): the pixels of four patches under a rotation, so that nothing is lost."""
    rows = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(len(images), 4, 192)
    return rows @ nn.init.orthogonal_(torch.empty(192, 192), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("flat", [False, True])
def test_a_decoder_sees_all_of_tokens_and_vectors(flat):
    """A convolution to 16 channels on the grid of the tokens kept a twelfth of them: hardly better than the mean."""
    rng = torch.Generator().manual_seed(0)
    x = nn.functional.interpolate(torch.rand(512, 3, 8, 8, generator=rng), size=16, mode="bilinear")
    z = patches(x).flatten(1) if flat else patches(x)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = decoders.build("conv_normN1C16", feature_shape=tuple(z.shape[1:]), image_size=16)
    optimizer = torch.optim.Adam(decoder.parameters(), 3e-3)
    for index in (torch.randint(384, (64,), generator=rng) for _ in range(150)):
        optimizer.zero_grad()
        nn.functional.mse_loss(decoder(z[index]), x[index]).backward()
        optimizer.step()
    with torch.no_grad():
        error = float((decoder.eval()(z[384:]) - x[384:]).square().mean())
    assert error < (0.6 if flat else 0.2) * float(x.var(0).mean())
