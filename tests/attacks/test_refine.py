"""Calibrated refinement: against closed forms, its model of errors, its optimizer, and what it chooses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.fft
import scipy.optimize
import torch
from torch import Tensor

import toy
from splitveil import metrics
from splitveil.attacks import _start
from splitveil.attacks._cosine import CosineModel
from splitveil.attacks._lbfgs import Lbfgs
from splitveil.attacks.base import Attack, Victim
from splitveil.attacks.refine import LEAST_NOISE, RefineAttack
from splitveil.attacks.residual import ResidualAttack
from splitveil.data import Access, Split, to_float
from splitveil.defenses.base import Defense
from splitveil.errors import UserError
from splitveil.model import SplitModel
from toy import rng

ALL = frozenset(Access)


def fitted(model: SplitModel, images: Split, **settings) -> RefineAttack:
    attack = RefineAttack(**settings)
    attack.fit(Victim(model, ALL), images, rng())
    return attack


# The whole attack


@pytest.mark.parametrize(("m", "sigma"), [(24, 0.03), (64, 0.1)])
def test_from_the_mean_image_it_is_the_posterior_mean(m, sigma):
    model, weight = toy.model(m, sigma)
    attack = fitted(model, toy.images(2000, 1), steps=40, start="mean", draws=64)
    truth = toy.pixels(toy.images(200, 2))
    wire = Victim(model, ALL).query(truth, rng(3))
    found, expected = attack.reconstruct(wire), toy.posterior_mean(weight, wire, sigma)
    assert attack.chosen == 1  # what theory gives
    assert float((found - expected).square().mean()) < 0.02 * toy.mmse(weight, sigma)
    assert float(metrics.mse(found, truth).mean()) == pytest.approx(toy.mmse(weight, sigma), rel=0.05)


@pytest.mark.parametrize(("start", "weight"), [("mean", 1.0), ("linear", 1.0), ("linear", 0.01)])
def test_it_finds_the_minimum_of_its_objective(start, weight):
    """x = x₀ + (WᵀW/σ² + weight · BΛ⁻¹Bᵀ)⁻¹ Wᵀ(e − Wx₀)/σ², with the least σ² as the wire has no noise."""
    model, w = toy.model(24, 0.0)
    attack = fitted(model, toy.images(300, 1), steps=120, start=start, weight=weight)
    wire = Victim(model, ALL).query(toy.pixels(toy.images(20, 2)), rng())
    start_image = attack._starts(wire).double()
    basis = attack.errors.image(torch.eye(toy.D).view(-1, 3, toy.SIDE, toy.SIDE)).flatten(1).double()  # √Λ Bᵀ
    sigma2 = LEAST_NOISE * attack.box.scale
    seen = w.double() @ basis.T
    left = wire.double() - start_image.flatten(1) @ w.double().T
    u = torch.linalg.solve(seen.T @ seen / sigma2 + weight * torch.eye(toy.D), seen.T @ left.T / sigma2)
    expected = start_image + (u.T @ basis).view_as(start_image)
    assert float(expected.min()) > 0
    assert float(expected.max()) < 1
    torch.testing.assert_close(attack.reconstruct(wire).double(), expected, atol=2e-3, rtol=0)


def test_a_start_that_cannot_be_improved_is_left_alone():
    """The linear attack's answer is the MMSE estimate here, and has used all that the wire says."""
    model, _ = toy.model(64, 0.1)
    truth = toy.pixels(toy.images(150, 2))
    wire = Victim(model, ALL).query(truth, rng(3))
    found = {}
    for weight in (None, 1.0):
        attack = fitted(model, toy.images(2000, 1), steps=20, start="linear", weight=weight)
        found[weight] = float(metrics.mse(attack.reconstruct(wire), truth).mean())
        start = float(metrics.mse(attack._starts(wire), truth).mean())
        assert len(attack.curve()) == (2 if weight is None else 1)
    assert found[None] < 1.01 * start < 1.05 * start < found[1.0]


def test_the_start_never_sees_the_images_that_calibrate_it():
    class Spy(Attack):
        def fit(self, victim, images, rng, runtime=None):
            self.seen = images.images

        def reconstruct(self, wire, y=None):
            return torch.full((len(wire), 3, toy.SIDE, toy.SIDE), 0.5)

    images, spy = toy.images(100, 1), Spy()
    attack = RefineAttack(steps=1)
    attack._first = spy
    attack.fit(Victim(toy.model(24, 0.1)[0], ALL), images, rng())
    known = {bytes(image.numpy()) for image in spy.seen}
    held = torch.stack([image for image in images.images if bytes(image.numpy()) not in known])
    assert len(held) == 10
    expected = CosineModel.fit(0.5 - held / 255)
    torch.testing.assert_close(attack.errors.deviation, expected.deviation)


def test_from_the_residual_attack_it_is_calibrated_on_the_images_that_this_holds_out(monkeypatch):
    seen: list[Split] = []

    class Spy(ResidualAttack):
        def _learn(self, victim, held, own, rng, runtime):
            seen.append(own)
            super()._learn(victim, held, own, rng, runtime)

    monkeypatch.setattr(_start, "ResidualAttack", lambda: Spy(epochs=2, channels=16))
    model, images = toy.model(48, 0.1, (12, 2, 2))[0], toy.images(400, 1)
    attack, truth = fitted(model, images, steps=20, start="residual"), toy.pixels(toy.images(100, 2))
    known = {bytes(image.numpy()) for image in seen[0].images}
    held = torch.stack([image for image in images.images if bytes(image.numpy()) not in known])
    assert len(held) == 40
    wire = Victim(model, ALL).query(to_float(held), rng())
    expected = CosineModel.fit(attack._starts(wire) - to_float(held))
    torch.testing.assert_close(attack.errors.deviation, expected.deviation, rtol=0.5, atol=1e-3)  # other noise
    wire = Victim(model, ALL).query(truth, rng(3))
    start, found = (float(metrics.mse(x, truth).mean()) for x in (attack._starts(wire), attack.reconstruct(wire)))
    assert found < 1.02 * start


def test_images_do_not_depend_on_their_neighbors():
    model, _ = toy.model(24, 0.0)
    attack = fitted(model, toy.images(50, 1), steps=20, start="linear")
    wire = Victim(model, ALL).query(toy.pixels(toy.images(6, 2)), rng())
    torch.testing.assert_close(attack.reconstruct(wire[2:3])[0], attack.reconstruct(wire)[2], atol=1e-4, rtol=0)


class Rounded(Defense):
    """No derivative at all."""

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        return (z * 10).round() / 10


class Largest(Defense):
    """A derivative for the numbers that are sent."""

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        return torch.where(z.abs() > 0.2, z, 0.0)


@pytest.mark.parametrize("defense", [Rounded(), Largest()])
def test_a_wire_without_noise_or_gradient(defense):
    plain, _ = toy.model(40, 0.0)
    model = SplitModel(plain.encoder, plain.tail, defense=defense)
    truth = toy.pixels(toy.images(50, 2))
    wire = Victim(model, ALL).query(truth, rng())
    attack = fitted(model, toy.images(300, 1), steps=40, start="mean")
    before, after = (metrics.mse(x, truth) for x in (attack._starts(wire), attack.reconstruct(wire)))
    assert float(after.mean()) < 0.6 * float(before.mean())


@pytest.mark.parametrize("bad", [{"steps": 0}, {"draws": 0}, {"tuning": 0}, {"weight": -1.0}])
def test_bad_settings(bad):
    ((key, value),) = bad.items()
    with pytest.raises(UserError, match=f"refine: {key} is {value}; expected "):
        RefineAttack(**bad)


def test_it_needs_three_images():
    with pytest.raises(UserError, match="refine: the attacker has 2 images; expected at least 3"):
        fitted(toy.model(8, 0.1)[0], toy.images(2, 0))


# The model of errors


def test_coefficients_are_scipys_cosine_transform_of_the_principal_colors():
    x = torch.rand(5, 3, 6, 6, generator=rng())
    model = CosineModel.fit(x)
    rotated = np.einsum("bchw,cd->bdhw", x.numpy(), model.colors.numpy())
    expected = scipy.fft.dctn(rotated, axes=(2, 3), norm="ortho")
    torch.testing.assert_close(model.coefficients(x), torch.from_numpy(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.image(model.coefficients(x) / model.deviation), x, atol=1e-5, rtol=0)


def test_the_variances_and_colors_of_gaussian_errors_are_found():
    colors = torch.linalg.qr(torch.randn(3, 3, generator=rng(1)))[0]
    scale = torch.tensor([0.01, 0.03, 0.1])[:, None, None] / (1 + torch.arange(8.0) + torch.arange(8.0)[:, None])
    made = replace(CosineModel.fit(torch.rand(3, 3, 8, 8)), colors=colors, deviation=scale)
    found = CosineModel.fit(made.image(torch.randn(4000, 3, 8, 8, generator=rng(2))))
    torch.testing.assert_close((found.colors.T @ colors).abs(), torch.eye(3), atol=0.02, rtol=0)
    torch.testing.assert_close(found.deviation, scale, atol=0, rtol=0.06)


def test_few_images_share_their_variances():
    """Three images say little about one coefficient; those of the same frequency are asked too."""
    scale = 0.1 / (1 + torch.arange(16.0) + torch.arange(16.0)[:, None]).expand(3, -1, -1)
    made = replace(CosineModel.fit(torch.rand(3, 3, 16, 16)), colors=torch.eye(3), deviation=scale)
    deviation = CosineModel.fit(made.image(torch.randn(3, 3, 16, 16, generator=rng()))).deviation
    assert float((deviation / scale).log().square().mean()) < 0.1
    assert bool((CosineModel.fit(torch.zeros(2, 3, 16, 16)).deviation > 0).all())


# The optimizer


def rosenbrock(x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = (100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()).sum(1)
        return value.detach(), torch.autograd.grad(value.sum(), x)[0]


def test_the_minimum_of_each_row_is_found_in_about_scipys_evaluations():
    start = torch.randn(6, 4, generator=rng(), dtype=torch.float64)
    search, counts = Lbfgs(start), torch.zeros(6)
    for _ in range(300):
        counts += search.value > 1e-8
        search.step(rosenbrock)
    for row, count in zip(start, counts, strict=True):
        asked = scipy.optimize.minimize(
            scipy.optimize.rosen, row.numpy(), jac=scipy.optimize.rosen_der, method="L-BFGS-B", options={"gtol": 1e-4}
        )
        assert float(count) < 2.5 * asked.nfev
    assert float(search.value.max()) < 1e-8  # none of these rows leads to the other, local minimum


def test_a_row_does_not_depend_on_the_others_and_never_gets_worse():
    start = torch.randn(5, 4, generator=rng())
    together, alone = Lbfgs(start), Lbfgs(start[3:4])
    before = together.value
    for _ in range(25):
        together.step(rosenbrock)
        alone.step(rosenbrock)
        assert bool((together.value <= before).all())
        before = together.value
    torch.testing.assert_close(together.x[3:4], alone.x)


def test_it_goes_on_from_a_checkpoint():
    start = torch.randn(3, 4, generator=rng())
    whole, first, second = Lbfgs(start), Lbfgs(start), Lbfgs(torch.zeros(3, 4))
    for i in range(20):
        whole.step(rosenbrock)
        if i < 9:
            first.step(rosenbrock)
    second.load_state_dict(first.state_dict())
    for _ in range(11):
        second.step(rosenbrock)
    assert torch.equal(second.x, whole.x)


def test_a_value_that_is_no_number_is_not_taken():
    def edge(x: Tensor) -> tuple[Tensor, Tensor]:
        """x − log x: nothing below zero."""
        return (x - x.log()).sum(1), 1 - 1 / x

    search = Lbfgs(torch.full((1, 1), 30.0, dtype=torch.float64))
    for _ in range(40):
        search.step(edge)
    assert float(search.x) == pytest.approx(1, abs=1e-3)
