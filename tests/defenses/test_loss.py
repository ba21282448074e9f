"""Penalties on the feature against naive formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from splitveil.defenses.base import Step
from splitveil.defenses.hsic import HSIC, gaussian_kernel, hsic, normalized_hsic
from splitveil.defenses.nopeek import NoPeek, distance_correlation
from splitveil.defenses.vib import VIB, gaussian_kl
from wires import rng, with_wire


def make_step(z: torch.Tensor, x: torch.Tensor | None = None, classes: int = 3) -> Step:
    count = len(z)
    x = torch.rand(count, 3, 12, 12, generator=rng(5)) if x is None else x
    y = torch.arange(count) % classes
    return Step(x, y, z, z, torch.zeros(count, classes), rng(), 0.1, 0.0, None)


def naive_distance_correlation(x: np.ndarray, z: np.ndarray) -> float:
    def centered(v):
        d = np.array([[np.linalg.norm(a - b) for b in v] for a in v])
        h = np.eye(len(v)) - 1 / len(v)
        return h @ d @ h

    a, b = centered(x), centered(z)
    return float(np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())))


@pytest.mark.parametrize("seed", range(3))
def test_distance_correlation_is_the_naive_formula(seed):
    x = torch.randn(9, 7, generator=rng(seed), dtype=torch.float64)
    z = torch.randn(9, 4, generator=rng(seed + 10), dtype=torch.float64) + x[:, :4]
    found = distance_correlation(x, z).item()
    assert found == pytest.approx(naive_distance_correlation(x.numpy(), z.numpy()), rel=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_distance_correlation_of_squared_distances_is_the_root_of_the_rv_coefficient(seed):
    """Doubly centered squared distances are −2 times the Gram matrix of centered rows (Robert and Escoufier 1976)."""
    x, z = (torch.randn(12, k, generator=rng(seed), dtype=torch.float64) + 3 for k in (4, 7))
    z[:, :2] += x[:, :2]
    u, v = x - x.mean(0), z - z.mean(0)
    norm = torch.linalg.matrix_norm
    rv = norm(u.T @ v) ** 2 / (norm(u.T @ u) * norm(v.T @ v))
    assert distance_correlation(x, z, squared=True).item() == pytest.approx(rv.sqrt().item(), rel=1e-10)
    assert torch.autograd.gradcheck(lambda t: distance_correlation(x, t, True), (z.requires_grad_(),))


@pytest.mark.parametrize("squared", [False, True])
def test_nopeek_may_see_images_as_the_network_does(squared):
    model: Any = with_wire()
    model.mean[:], model.std[:] = torch.tensor([0.5, 0.4, 0.1]), torch.tensor([0.3, 0.2, 0.05])
    x, z = torch.rand(8, 3, 12, 12, generator=rng(1)), torch.rand(8, 4, 3, 3, generator=rng(2))
    step = Step(x, torch.zeros(8).long(), z, z, torch.zeros(8, 3), rng(), 0.1, 0.0, model)
    seen = (x - model.mean[:, None, None]) / model.std[:, None, None]
    found, pixels = (NoPeek(0.7, squared=squared, normalized=n).loss(step) for n in (True, False))
    assert found is not None
    assert pixels is not None
    expected = 0.7 * distance_correlation(seen.flatten(1), z.flatten(1), squared)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    assert abs(float(found - pixels)) > 1e-4


def test_distance_correlation_of_a_constant_is_zero_with_a_finite_gradient():
    z = torch.ones(5, 4, requires_grad=True)
    value = distance_correlation(torch.randn(5, 3, generator=rng()), z)
    value.backward()
    assert value.item() == 0
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_distance_correlation_gradient_is_that_of_finite_differences():
    x = torch.randn(6, 5, generator=rng(), dtype=torch.float64)
    z = torch.randn(6, 3, generator=rng(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: distance_correlation(x, t), (z,))


def test_equal_images_in_a_batch_give_finite_gradients():
    z = torch.randn(3, 4, generator=rng())[[0, 0, 1, 2]].requires_grad_()
    NoPeek(1.0).loss(make_step(z)).backward()  # type: ignore[union-attr]
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_nopeek_is_weighted_and_its_log_form_is_the_log():
    z = torch.randn(6, 4, generator=rng())
    plain, log = NoPeek(2.0).loss(make_step(z)), NoPeek(2.0, form="log").loss(make_step(z))
    assert plain is not None
    assert log is not None
    assert log.item() == pytest.approx(2 * np.log(plain.item() / 2), rel=1e-5)


def test_hsic_is_the_naive_trace():
    x = torch.randn(8, 5, generator=rng(), dtype=torch.float64)
    z = torch.randn(8, 3, generator=rng(1), dtype=torch.float64)
    k, l = gaussian_kernel(x, 2.0), gaussian_kernel(z, 2.0)  # noqa: E741
    h = np.eye(8) - 1 / 8
    naive = np.trace(k.numpy() @ h @ l.numpy() @ h) / 49
    assert hsic(k, l).item() == pytest.approx(naive, rel=1e-10)
    assert k[0, 1].item() == pytest.approx(np.exp(-((x[0] - x[1]) ** 2).sum().item() / (2 * 4 * 5)), rel=1e-10)


def published_hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """The formula of the published code: centered from one side, the inverse written out."""
    count = len(k)
    h, ridge = np.eye(count) - 1 / count, 1e-5 * count * np.eye(count)
    of_k, of_l = k @ h, l @ h
    return float(np.trace(of_k @ np.linalg.inv(of_k + ridge) @ of_l @ np.linalg.inv(of_l + ridge)))


@pytest.mark.parametrize(("count", "bandwidth"), [(8, 0.5), (33, 5.0), (128, 5.0)])
def test_normalized_hsic_is_the_published_formula(count, bandwidth):
    x = torch.rand(count, 40, generator=rng(), dtype=torch.float64)
    z = torch.rand(count, 12, generator=rng(1), dtype=torch.float64) + x[:, :12]
    labels = torch.nn.functional.one_hot(torch.arange(count) % 3).double()
    k, l = gaussian_kernel(x, bandwidth), gaussian_kernel(z, bandwidth)  # noqa: E741
    for a, b in ((k, l), (l, labels @ labels.T)):
        expected = published_hsic(a.numpy(), b.numpy())
        assert normalized_hsic(a, b).item() == pytest.approx(expected, rel=1e-8)
        assert normalized_hsic(a.float(), b.float()).item() == pytest.approx(expected, rel=2e-3)


def test_normalized_hsic_counts_the_common_directions():
    """Kernels of rank r that share a range count r, whatever their scale; those at right angles count nothing."""
    h = np.eye(30) - 1 / 30
    axes = torch.from_numpy(np.linalg.qr(h @ np.random.default_rng(0).normal(size=(30, 6)))[0])
    first, second = axes[:, :3] @ axes[:, :3].T, axes[:, 3:] @ axes[:, 3:].T
    assert normalized_hsic(40 * first, 7 * first).item() == pytest.approx(3, rel=1e-3)
    assert normalized_hsic(40 * first, first + second).item() == pytest.approx(3, rel=1e-3)
    assert normalized_hsic(first, second).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("form", ["normalized", "plain"])
def test_hsic_gradient_is_that_of_finite_differences(form):
    x, z = (torch.rand(7, 5, generator=rng(k), dtype=torch.float64) for k in (0, 1))
    measure = {"normalized": normalized_hsic, "plain": hsic}[form]
    found = lambda t: measure(gaussian_kernel(x, 1.0), gaussian_kernel(t, 1.0))  # noqa: E731
    assert torch.autograd.gradcheck(found, (z.requires_grad_(),))


def test_equal_images_in_a_batch_give_hsic_finite_gradients():
    z = torch.zeros(6, 4, requires_grad=True)
    x = torch.zeros(6, 3, 12, 12)
    HSIC().loss(make_step(z, x)).backward()  # type: ignore[union-attr]
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("form", ["normalized", "plain"])
def test_bido_lowers_dependence_on_the_image_and_raises_that_on_the_label(form):
    z = torch.randn(9, 4, generator=rng(), requires_grad=True)
    step = make_step(z)
    image, label = HSIC(1.0, 0.0, form=form).loss(step), HSIC(0.0, 1.0, form=form).loss(step)
    both = HSIC(2.0, 3.0, form=form).loss(step)
    assert image is not None
    assert label is not None
    assert both is not None
    assert image.item() > 0 > label.item()
    assert both.item() == pytest.approx(2 * image.item() + 3 * label.item(), rel=1e-5)


def test_gaussian_kl_is_torchs():
    draw = [torch.randn(50, generator=rng(k), dtype=torch.float64) for k in range(4)]
    normal = torch.distributions.Normal
    oracle = torch.distributions.kl_divergence(normal(draw[0], draw[1].exp()), normal(draw[2], draw[3].exp()))
    assert torch.allclose(gaussian_kl(*draw), oracle)


def test_vib_pays_the_kl_of_its_own_noise_in_nats_per_image():
    defense = VIB(0.5)
    defense.install(with_wire())
    z = torch.rand(4, 4, 3, 3, generator=rng(), requires_grad=True)
    wire = defense.on_wire(z, rng())
    loss = defense.loss(make_step(z))
    assert loss is not None
    sigma = np.exp(-3.0)
    kl = 0.5 * (sigma**2 + z.detach().square() - 1 + 6).flatten(1).sum(1).mean()
    assert loss.item() == pytest.approx(0.5 * kl.item(), rel=1e-5)
    assert defense.leakage() == pytest.approx(kl.item(), rel=1e-5)
    assert (wire - z).std().item() == pytest.approx(sigma, rel=0.2)
    assert defense.loss(make_step(z)) is None  # each forward pass pays once


def test_a_second_look_at_the_wire_does_not_cost_vib_its_gradient():
    defense = VIB(0.5)
    defense.install(with_wire())
    z = torch.rand(4, 4, 3, 3, generator=rng(), requires_grad=True)
    defense.on_wire(z, rng())
    with torch.no_grad():  # as the further steps of `adversarial` do
        defense.on_wire(z[:2], rng())
    loss = defense.loss(make_step(z))
    assert loss is not None
    loss.backward()
    assert z.grad is not None
    assert (z.grad != 0).all()
