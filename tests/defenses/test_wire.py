"""Defenses that act on the wire: rates, scales and guarantees against independent computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from splitveil.defenses.cloak import Cloak
from splitveil.defenses.dropout import Dropout
from splitveil.defenses.laplace import Laplace
from splitveil.defenses.local_dp import LocalDP, gaussian_delta, gaussian_sigma
from splitveil.defenses.pca import PCA, principal_components
from splitveil.defenses.shredder import Shredder
from splitveil.defenses.sparse_coding import SparseCoding, lca, unit
from splitveil.defenses.topk import TopK
from splitveil.errors import UserError
from splitveil.model import SplitModel
from splitveil.registry import Registry
from wires import rng, with_wire


def test_dropout_erases_at_its_rate_and_keeps_the_mean():
    wire = Dropout(0.3).on_wire(torch.full((200_000,), 2.0), rng())
    assert (wire == 0).float().mean().item() == pytest.approx(0.3, abs=0.005)
    assert wire[wire != 0].unique().item() == pytest.approx(2 / 0.7)
    assert wire.mean().item() == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.75])
def test_dropout_without_the_factor_leaves_what_it_keeps(ratio):
    """As published: E[z_wire] = (1 − p) z; the mask is that of the rescaled form with the same seed."""
    z = torch.rand(200_000, generator=rng(1)) + 0.5
    wire, scaled = Dropout(ratio, rescale=False).on_wire(z, rng()), Dropout(ratio).on_wire(z, rng())
    assert torch.equal(wire[wire != 0], z[wire != 0])
    torch.testing.assert_close(wire, scaled * (1 - ratio))
    assert (wire / z).mean().item() == pytest.approx(1 - ratio, abs=0.005)


def test_dropout_acts_in_evaluation_too():
    assert (Dropout(0.5).eval().on_wire(torch.ones(1, 100), rng()) == 0).any()


@given(
    st.integers(1, 4),
    st.integers(1, 30),
    st.floats(0.01, 1),
    st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=50)
def test_topk_keeps_exactly_the_largest_of_each_image(images, dimensions, ratio, seed):
    z = torch.randn(images, dimensions, generator=rng(seed))
    wire = TopK(ratio).on_wire(z, rng())
    k = max(1, round(ratio * dimensions))
    for row, sent in zip(z, wire, strict=True):
        largest = np.argsort(-row.abs().numpy(), kind="stable")[:k]
        expected = torch.zeros(dimensions)
        expected[largest] = row[largest]
        assert torch.equal(sent, expected)


def test_topk_keeps_k_of_equal_entries_and_does_not_mix_images():
    wire = TopK(0.25).on_wire(torch.cat([torch.ones(1, 8), 100 * torch.ones(1, 8)]), rng())
    assert (wire != 0).sum(1).tolist() == [2, 2]


def test_topk_released_ranks_raw_values_of_the_batch():
    wire = TopK(0.5, scope="released").on_wire(torch.tensor([[-9.0, 1.0], [2.0, 3.0]]), rng())
    assert wire.tolist() == [[0, 0], [2, 3]]


def test_laplace_has_its_distribution():
    from scipy import stats

    noise = Laplace(0.5).on_wire(torch.zeros(20_000), rng()).numpy()
    assert stats.kstest(noise, stats.laplace(scale=0.5).cdf).pvalue > 0.01
    assert Laplace(0.5).noise_variance() == 0  # no Gaussian: CEM's bound must not count it


@pytest.mark.parametrize(
    ("arguments", "dimensions", "scale"),
    [
        ({"epsilon": 2.0}, 512, 0.5),
        ({"epsilon": 2.0, "per": "image"}, 512, 256.0),
        ({"epsilon": 4.0, "low": -1.0, "high": 3.0}, 10, 1.0),
        ({"epsilon": 4.0, "per": "image", "norm": 3.0}, 10, 1.5),
    ],
)
def test_local_dp_scale_of_laplace_noise(arguments, dimensions, scale):
    assert LocalDP(**arguments).noise_scale(dimensions) == pytest.approx(scale)


def _empirical_epsilon(defense: LocalDP, first: float, second: float, queries: int = 400_000) -> float:
    """Largest log ratio of the histograms of what two features look like, over bins with many hits."""
    seen = [defense.on_wire(torch.full((queries, 1), v), rng(k)).numpy() for k, v in enumerate((first, second))]
    edges = np.linspace(-3, 4, 29)
    one, two = (np.histogram(s, edges)[0] for s in seen)
    enough = (one > 2000) & (two > 2000)
    return float(np.abs(np.log(one[enough] / two[enough])).max())


def test_local_dp_epsilon_is_true_and_tight_even_outside_the_range():
    assert _empirical_epsilon(LocalDP(1.0), 0.0, 1.0) == pytest.approx(1.0, abs=0.08)
    assert _empirical_epsilon(LocalDP(1.0), -50.0, 50.0) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
def test_gaussian_sigma_meets_delta_by_integration(epsilon):
    from scipy import integrate, stats

    sigma, delta = gaussian_sigma(1.0, epsilon, 1e-3), 1e-3
    privacy = lambda t: max(  # noqa: E731 (the hockey-stick integrand)
        0.0, stats.norm.pdf(t, 1, sigma) - math.exp(epsilon) * stats.norm.pdf(t, 0, sigma)
    )
    start = epsilon * sigma**2 + 0.5  # where the integrand becomes positive
    found, _ = integrate.quad(privacy, start, start + 40 * sigma, limit=500)
    assert found == pytest.approx(delta, rel=1e-4)
    assert gaussian_delta(1 / sigma, epsilon) == pytest.approx(delta, rel=1e-6)


def test_local_dp_gaussian_per_image_uses_the_length_of_the_range():
    defense = LocalDP(1.0, mechanism="gaussian", per="image")
    defense.install(with_wire())
    assert defense.noise_variance() == pytest.approx(gaussian_sigma(math.sqrt(36), 1.0, 1e-5) ** 2)


def test_local_dp_norm_clips_the_whole_feature():
    defense = LocalDP(1e6, mechanism="gaussian", per="image", norm=2.0)
    wire = defense.on_wire(torch.full((1, 100), 7.0), rng())
    assert wire.norm().item() == pytest.approx(2.0, abs=0.05)
    short = torch.full((1, 4), 0.1)
    assert torch.allclose(defense.on_wire(short, rng()), short, atol=0.05)


@pytest.mark.parametrize("dimensions", [12, 1100])
def test_principal_components_span_scikit_learns(dimensions):
    from sklearn.decomposition import PCA as Oracle

    scale = torch.cat([torch.tensor([9.0, 7.0, 5.0]), torch.full((dimensions - 3,), 0.05)])
    z = torch.randn(200, dimensions, generator=rng()) * scale + 4
    basis = principal_components(z, 3, rng(1)).double().numpy()
    oracle = Oracle(3, svd_solver="full").fit(z.double().numpy()).components_
    assert np.allclose(basis @ basis.T, np.asarray(oracle).T @ oracle, atol=1e-4)


def test_pca_projects_and_loads():
    from splitveil.defenses.base import Features

    z = torch.randn(50, 6, generator=rng()) * torch.tensor([5.0, 4, 3, 0.1, 0.1, 0.1])
    defense = PCA(3)
    assert torch.equal(defense.on_wire(z, rng()), z)
    defense.refit(0, Features(z, torch.zeros(50, dtype=torch.long), 1, rng()))
    wire = defense.on_wire(z, rng())
    assert torch.linalg.matrix_rank(wire - wire.mean(0), atol=1e-3) == 3
    assert torch.allclose(defense.on_wire(wire, rng()), wire, atol=1e-5)
    fresh = PCA(3)
    assert fresh.basis is None
    fresh.load_state_dict(defense.state_dict())
    assert torch.equal(fresh.on_wire(z, rng()), wire)


def test_lca_converges_to_scikit_learns_lasso():
    from sklearn.decomposition import sparse_encode

    atoms = unit(torch.randn(12, 8, 1, 1, generator=rng(), dtype=torch.float64))
    z = torch.randn(5, 8, generator=rng(1), dtype=torch.float64)
    code = lca(z[:, :, None, None], atoms, 0.3, 3000).flatten(1).numpy()
    oracle = sparse_encode(z.numpy(), atoms.flatten(1).numpy(), algorithm="lasso_cd", alpha=0.3, max_iter=100_000)
    assert np.allclose(code, oracle, atol=1e-4)
    assert (code == 0).any()


def test_convolutional_lca_meets_the_optimality_conditions():
    from torch.nn.functional import conv2d, conv_transpose2d

    atoms = unit(torch.randn(6, 3, 3, 3, generator=rng(), dtype=torch.float64))
    z = torch.randn(2, 3, 5, 5, generator=rng(1), dtype=torch.float64)
    code = lca(z, atoms, 0.4, 4000)
    slope = conv2d(z - conv_transpose2d(code, atoms, padding=1), atoms, padding=1)
    used = code != 0
    assert 0 < used.double().mean() < 1
    assert torch.allclose(slope[used], 0.4 * code[used].sign(), atol=1e-5)
    assert slope.abs().max() <= 0.4 + 1e-5


@pytest.mark.parametrize("arguments", [{}, {"form": "dense"}, {"wire": "code"}, {"form": "dense", "wire": "code"}])
def test_sparse_coding_keeps_the_shape_and_teaches_the_dictionary(arguments):
    defense = SparseCoding(0.01, **arguments)
    defense.install(with_wire())
    z = torch.rand(2, 4, 3, 3, generator=rng()).requires_grad_()
    wire = defense.on_wire(z, rng())
    wire.square().sum().backward()
    assert wire.shape == z.shape
    assert z.grad is not None
    assert z.grad.abs().sum() > 0
    assert defense.dictionary.grad is not None
    assert defense.dictionary.grad.abs().sum() > 0


def test_shredder_draws_from_its_collection():
    defense = Shredder(1.0, size=3)
    defense.install(with_wire())
    wire = defense.on_wire(torch.zeros(64, 4, 3, 3), rng())
    assert len({tuple(row.tolist()) for row in wire.flatten(1)}) == 3
    loss = defense.loss(None)  # type: ignore[arg-type] (it looks at no step)
    assert loss is not None
    loss.backward()
    assert defense.collection.grad is not None
    assert torch.equal(defense.collection.grad.sign(), -defense.collection.detach().sign())


def test_cloak_noise_has_its_learned_deviation_and_grows():
    defense = Cloak(1.0, low=0.1, high=0.9)
    defense.install(with_wire((1, 1, 2)))
    with torch.no_grad():
        defense.rho.copy_(torch.tensor([[[0.0, 20.0]]]))
    wire = defense.on_wire(torch.zeros(40_000, 1, 1, 2), rng())
    assert torch.allclose(wire.std(0).flatten(), torch.tensor([0.5, 0.9]), rtol=0.02)
    loss = defense.loss(None)  # type: ignore[arg-type]
    assert loss is not None
    loss.backward()
    assert defense.rho.grad is not None
    assert (defense.rho.grad.flatten()[0] < 0).item()  # descent raises rho


BAD = [
    ("dropout", {"ratio": 1.0}),
    ("topk", {"ratio": 0.0}),
    ("laplace", {"scale": -1.0}),
    ("local_dp", {"epsilon": 0.0}),
    ("local_dp", {"low": 1.0, "high": 0.0}),
    ("local_dp", {"norm": 1.0}),
    ("local_dp", {"delta": 0.0}),
    ("nopeek", {"weight": -1.0}),
    ("hsic", {"bandwidth": 0.0}),
    ("hsic", {"weight": -1.0}),
    ("hsic", {"form": "linear"}),
    ("vib", {"weight": math.nan}),
    ("shredder", {"size": 0}),
    ("shredder", {"weight": -1.0}),
    ("cloak", {"low": 0.0}),
    ("cloak", {"weight": -1.0}),
    ("pca", {"components": 0}),
    ("sparse_coding", {"kernel": 2}),
    ("sparse_coding", {"threshold": -1.0}),
    ("bottleneck", {"channels": 0}),
    ("patrol", {"epoch": 0}),
    ("patrol", {"ratio": 1.0}),
    ("adversarial", {"weight": -1.0}),
    ("adversarial", {"steps": 0}),
    ("adversarial", {"share": 0.0}),
    ("adversarial", {"lr": 0.0}),
    ("adversarial_noise", {"size": -1.0}),
]


@pytest.mark.parametrize(("name", "arguments"), BAD, ids=lambda v: str(v))
def test_values_out_of_range_are_named_in_one_line(name, arguments):
    with pytest.raises(UserError) as caught:
        Registry("defenses").get(name)(**arguments)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message
    assert "expected" in message
    for key in arguments:
        assert key in message


def test_a_model_without_shapes_is_explained():
    model = SplitModel(nn.Conv2d(3, 4, 3), nn.Flatten())
    with pytest.raises(UserError, match=r"cloak must know the model's wire_shape; give the model an example"):
        Cloak().install(model)


def test_a_code_that_does_not_fit_the_wire_is_refused():
    with pytest.raises(UserError, match="code of 7 atoms does not fit a wire of 4"):
        SparseCoding(atoms=7, wire="code").install(with_wire())
