"""The codec against numpy's own nearest values and packing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitveil.defenses._codec import Grid
from splitveil.defenses._codec_choice import choose, fit
from splitveil.defenses.codec import Codec
from splitveil.errors import UserError


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.sampled_from([2, 4, 8]), st.sampled_from([(3,), (2, 3, 3), (5, 2), (7,)]), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_nearest_values_of_the_grid_are_packed_into_bytes(bits, shape, seed):
    sent = 3 * normal(4, *shape, seed=seed)
    grid = fit(sent, bits)
    wire = grid.encode(sent)
    each, top = 8 // bits, 2**bits - 1
    assert wire.dtype == torch.uint8
    assert wire.shape == (4, -(-sent[0].numel() // each))
    assert grid.bits == 8 * wire.shape[1]
    channels = 1 if len(shape) == 2 else 0
    low, step = (np.broadcast_to(x.numpy(), shape) for x in (grid.low, grid.step))
    values = low[..., None] + step[..., None] * np.arange(top + 1)  # every value of every entry
    nearest = np.abs(sent.numpy()[..., None] - values).argmin(-1).reshape(4, -1)
    bit = (nearest[:, :, None] >> np.arange(bits)) & 1
    packed = np.packbits(bit.reshape(4, -1), axis=1, bitorder="little")
    assert np.array_equal(wire.numpy(), packed)
    decoded = np.take_along_axis(values.reshape(-1, top + 1), nearest.T, 1).T.reshape(sent.shape)
    assert np.allclose(grid.decode(wire).numpy(), decoded, atol=1e-5)
    assert grid.low.numel() == shape[channels]


@given(st.sampled_from([2, 4, 8]), st.sampled_from([(3,), (8, 3, 3), (5, 2), (7,)]), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_defense_reads_bit_for_bit_what_comes_out_of_the_bytes(bits, shape, seed):
    sent = 3 * normal(4, *shape, seed=seed)
    sent.view(-1)[:4] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])
    sent = sent.to(memory_format=torch.channels_last) if sent.dim() == 4 else sent
    grid = fit(sent.nan_to_num(0, 9, -9), bits)
    codec = Codec(f"uint{bits}")  # type: ignore[arg-type]
    codec.set_grid(grid)
    read, expected = codec.coded(sent), grid.decode(grid.encode(sent))
    assert read.view(torch.int32).equal(expected.view(torch.int32))  # the sign of zero too
    assert (read.dtype, read.stride()) == (expected.dtype, expected.stride())


def test_numbers_beyond_the_grid_and_no_numbers_stay_within_its_codes():
    grid = Grid((1,), 8, torch.zeros(1), torch.ones(1))
    strange = torch.tensor([[-1.0], [300.0], [float("inf")], [-float("inf")], [float("nan")], [2.5], [3.5]])
    assert grid.encode(strange).flatten().tolist() == [0, 255, 255, 0, 0, 2, 4]


def test_the_grid_lies_between_the_quantiles_of_each_channel():
    sent = normal(500, 2, 5, 5) * torch.tensor([1.0, 10.0])[:, None, None] + 3
    grid = fit(sent, 4)
    each = sent.movedim(1, 0).flatten(1).double().numpy()
    low, high = (np.quantile(each, share, axis=1, method="nearest") for share in (1e-4, 1 - 1e-4))
    assert np.allclose(grid.low.flatten(), low)
    assert np.allclose((grid.low + 15 * grid.step).flatten(), high, rtol=1e-5)


def test_a_channel_that_never_changes_is_sent_as_it_is():
    grid = fit(torch.full((20, 3), 0.7), 2)
    assert torch.equal(grid.decode(grid.encode(torch.full((2, 3), 0.7))), torch.full((2, 3), 0.7))


def test_auto_takes_four_bits_where_the_noise_hides_their_error():
    clean = torch.rand(2000, 8, generator=torch.Generator().manual_seed(1))
    for sigma, codec in ((0.1, "uint4"), (0.02, "uint8"), (0.0, "uint8")):
        coder, error = choose("auto", clean + sigma * normal(2000, 8), sigma)
        assert coder.codec == codec
        assert (error is None) == (sigma == 0)
    _, error = choose("uint4", clean, 1.0)
    assert error == pytest.approx(1 / 15 / 12**0.5, rel=0.02)  # a uniform error of one step's width


def test_floats_are_kept_and_float16_stays_finite():
    sent = normal(5, 2, 3) * 1e5
    coder, error = choose("float32", sent, 1.0)
    assert error == 0
    assert torch.equal(coder.decode(coder.encode(sent)), sent)
    coder, _ = choose("float16", sent, 1.0)
    assert coder.encode(sent).dtype == torch.float16
    assert coder.encode(sent).isfinite().all()
    assert (coder.bits, coder.length) == (96, 6)


def test_an_unknown_codec_is_refused():
    with pytest.raises(UserError, match=r"codec 'uint3'; expected one of: auto, uint8, uint4"):
        choose("uint3", normal(3, 2), 1.0)
