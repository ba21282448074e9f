"""Orthogonal steps: near the polar factor, bounded for every gradient, and those of torch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitveil.nn.orthogonal import orthogonal

SIZES = st.integers(1, 12)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (12, 12)])
def test_it_keeps_the_singular_vectors(shape):
    matrix = random(*shape).double()
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.T @ orthogonal(matrix) @ v.T
    assert float((turned - turned.diagonal().diag()).abs().max()) < 1e-6
    assert 0.6 < float(turned.diagonal().min()) <= float(turned.diagonal().max()) < 1.3


@given(SIZES, SIZES, SIZES, st.integers(0, 99))
def test_the_step_is_near_the_polar_factor_whatever_the_gradients_sizes(count, rows, columns, seed):
    least = min(rows, columns)
    left, _ = torch.linalg.qr(random(count, rows, least, seed=seed))
    right, _ = torch.linalg.qr(random(count, columns, least, seed=seed + 100))
    sizes = torch.logspace(0, -1, least).expand(count, least)  # one direction has a tenth of the gradient of another
    found = left.mT @ orthogonal(left @ torch.diag_embed(sizes) @ right.mT) @ right
    diagonal = found.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(found, torch.diag_embed(diagonal), atol=2e-3, rtol=0)
    assert (diagonal > 0.6).all()
    assert (diagonal < 1.3).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_gradients_of_few_directions_stay_bounded(rank, dtype):
    """Powers of a Gram matrix that was rounded to bf16 grew without limit: its zeros had become negative."""
    matrices = random(2, 256, rank) @ random(2, rank, 400, seed=1)
    found = torch.linalg.svdvals(orthogonal(matrices.to(dtype)).float())
    assert found.max() < 1.3
    assert (found[:, :rank] > 0.6).all()
    assert dtype == torch.bfloat16 or (found[:, rank:] < 1e-3).all()


@pytest.mark.parametrize("size", [1e-38, 1e-25, 1e-12, 1e-6, 1.0, 1e12])
def test_a_gradient_of_any_size_gives_a_finite_step(size):
    """Where a channel is dead its momentum fades until its squares are 0: its matrix became NaN."""
    found = orthogonal(size * random(3, 1, 9))
    assert found.isfinite().all()
    assert found.abs().max() < 1.3


def test_the_step_is_that_of_torch():
    torch_muon = pytest.importorskip("torch.optim._muon", reason="torch before 2.9 has no Muon")
    matrix = random(64, 96)
    coefficients = (torch_muon.DEFAULT_A, torch_muon.DEFAULT_B, torch_muon.DEFAULT_C)
    theirs = torch_muon._zeropower_via_newtonschulz(matrix, coefficients, 5, 1e-7).float()
    ours = orthogonal(matrix[None])[0]
    assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), 0) > 0.999
    assert float(ours.norm()) == pytest.approx(float(theirs.norm()), rel=0.02)


@pytest.mark.parametrize("shape", [(2, 96, 200), (64, 64)])
def test_products_of_small_matrices_give_what_products_of_wide_ones_do(monkeypatch, shape):
    matrices = random(*shape)
    short = orthogonal(matrices)
    monkeypatch.setattr("splitveil.nn.orthogonal._is_exact", lambda _: False)
    torch.testing.assert_close(short, orthogonal(matrices.double()).float(), atol=1e-5, rtol=1e-3)


def test_the_short_way_is_not_taken_where_products_may_be_rounded_to_less(monkeypatch):
    from splitveil.nn.orthogonal import _is_exact

    assert _is_exact(torch.ones(2, 2))
    assert not _is_exact(torch.ones(2, 2, dtype=torch.bfloat16))
    monkeypatch.setattr(torch.backends.mkldnn, "matmul", SimpleNamespace(fp32_precision="bf16"), raising=False)
    assert not _is_exact(torch.ones(2, 2))
    assert _is_exact(torch.ones(2, 2).double())
