"""Water-filled noise: the closed form against optimizers and simulations, and what is told of it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from splitveil.attacks._white_box import WhiteBox
from splitveil.bounds.base import Channel
from splitveil.bounds.fisher import FisherBound
from splitveil.data import Access, Split
from splitveil.defenses._law import Law, law_of
from splitveil.defenses._waterfilling import Directions, Statistics, roots, wire_matrix
from splitveil.defenses.base import Stack
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.waterfill import Waterfill, estimate_matrix
from splitveil.errors import UserError
from splitveil.hardening.gathering import linear_error
from splitveil.model import SplitModel
from splitveil.victim import Victim
from training_helpers import fit

D, P = 12, 20


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def statistics(tasks: int = 3) -> Statistics:
    """Images of P values, features of D of which the task uses ``tasks`` combinations."""
    pixels = normal(P, P, seed=1)
    covariance_x = pixels @ pixels.T / P
    weights = normal(D, P, seed=2)
    used = normal(D, tasks, seed=3)
    covariance = weights @ covariance_x @ weights.T
    return Statistics(
        normal(D), covariance, used @ used.T, covariance_x @ weights.T, float(covariance_x.diagonal().sum())
    )


def solved(mu: float = 0.01, sigma: float = 0.1, known: Statistics | None = None) -> Waterfill:
    known = known or statistics()
    made = Waterfill(mu, sigma)
    made._solve(known, Directions.of(known))
    return made


def test_the_closed_form_is_the_optimum_of_an_optimizer():
    directions, mu = Directions.of(statistics(D)), 0.01
    found = directions.noise(mu)

    def cost(noise: Tensor) -> Tensor:
        return (directions.explained / (1 + noise)).sum() + mu * (directions.fisher * noise).sum()

    free = torch.zeros(D, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([free], lr=0.5, max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = cost(free.square())
        value.backward()
        return value

    with torch.no_grad():
        free.fill_(0.5)
    optimizer.step(closure)  # type: ignore[arg-type]
    assert float(cost(found)) == pytest.approx(float(cost(free.detach().square())), rel=1e-5)
    assert bool((found > 0).any())
    assert bool((found == 0).any())


def test_the_directions_are_uncorrelated_and_the_task_sorts_them():
    known = statistics()
    found = Directions.of(known)
    torch.testing.assert_close(found.shapes @ found.shapes.T, known.covariance)
    _, inverse = roots(known.covariance)
    u = inverse @ found.shapes
    sorted_by = u.T @ roots(known.covariance)[0] @ known.fisher @ roots(known.covariance)[0] @ u
    torch.testing.assert_close(sorted_by.diagonal()[-3:], found.fisher[-3:])
    assert float(found.fisher[:-3].max()) < 1e-6 * float(found.fisher[-1])  # the task uses three
    total = (known.pixels @ torch.linalg.solve(known.covariance, known.pixels.T)).diagonal().sum() / known.variance
    assert float(found.explained.sum()) == pytest.approx(float(total))


@pytest.mark.parametrize("mu", [10.0, 0.01])
def test_the_matrix_carries_the_noise_that_was_computed(mu):
    known = statistics()
    directions = Directions.of(known)
    matrix = wire_matrix(known.covariance, directions, mu, 0.1, 0.0)
    noise = (directions.shapes * directions.noise(mu)) @ directions.shapes.T + 0.01 * torch.eye(D, dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.inv(matrix.T @ matrix), noise)
    signal = matrix @ known.covariance @ matrix.T
    torch.testing.assert_close(signal, signal.diagonal().diag(), atol=1e-8, rtol=1e-8)
    assert bool((signal.diagonal().diff() <= 0).all())
    fewer = wire_matrix(known.covariance, directions, mu, 0.1, 0.999 * float(signal[4, 4]))
    torch.testing.assert_close(fewer, matrix[:5])
    assert len(wire_matrix(known.covariance, directions, mu, 0.1, math.inf)) == 1


def test_less_price_is_more_noise_and_no_noise_is_left_where_the_price_is_high():
    known = statistics()
    directions = Directions.of(known)
    errors = [
        linear_error(known, wire_matrix(known.covariance, directions, mu, 1e-4, 0.0), P) for mu in (1e9, 1, 0.1, 1e-3)
    ]
    assert errors == sorted(errors)
    without = known.pixels @ torch.linalg.solve(known.covariance, known.pixels.T)
    assert errors[0] == pytest.approx((known.variance - float(without.diagonal().sum())) / P, rel=1e-3)
    losses = [directions.loss(mu) for mu in (1e9, 1, 0.1, 1e-3)]
    assert losses == sorted(losses)
    assert losses[0] == 0


@pytest.mark.parametrize("sigma", [1e-9, 1e-7, 1e-5])
def test_a_floor_far_below_the_strongest_noise_is_kept_in_every_direction(sigma):
    """Their sum is not positive definite in float64."""
    known = statistics()
    directions = Directions.of(known)
    needed = torch.arange(D) >= D - 3
    stronger = dataclasses.replace(directions, fisher=torch.where(needed, 1e3, 1e-18).double())
    assert float(stronger.noise(1.0).max()) == pytest.approx(1e6)
    assert stronger.noise(1.0)[needed].eq(0).all()
    matrix = wire_matrix(known.covariance, stronger, 1.0, sigma, 1e-3)
    assert len(matrix) >= 3
    assert matrix.isfinite().all()
    assert estimate_matrix(known.covariance, matrix).isfinite().all()


def test_values_that_are_all_but_constant_are_shown_as_their_mean():
    """Noise of which float32 cannot tell the variance would be told as none, and a flag would say so."""
    known = statistics()
    faint = torch.ones(D, dtype=torch.float64)
    faint[0] = 1e-24
    known = dataclasses.replace(
        known,
        mean=known.mean * faint,
        covariance=known.covariance * faint.outer(faint),
        pixels=known.pixels * faint,
    )
    made = solved(0.1, 0.1, known)
    z = made._have("center").repeat(50, 1)
    looks = [made.on_wire(z, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    told = torch.as_tensor(made.law(looks[0], Law()).variance)
    assert not (looks[0] != looks[1]).any(0)[told == 0].any()
    assert int((told == 0).sum()) == 1


@pytest.mark.parametrize("worth", [0.0, 1e-12, 1.0])
def test_what_the_task_does_not_need_at_all_drowns_in_noise_and_the_rest_does_not(worth):
    """Without a limit the noise on it is so large that its matrix is no longer positive definite in float64."""
    known = statistics(1)
    known = dataclasses.replace(known, fisher=worth * known.fisher)
    directions = Directions.of(known)
    made = solved(1e-12, 1e-3, known)
    matrix, estimate = made._have("matrix"), made._have("estimate")
    assert matrix.isfinite().all()
    assert estimate.isfinite().all()
    assert directions.noise(1e-12).max() <= 1e6
    if worth == 1.0:  # the one combination that the task uses is sent, hardly disturbed, and nothing else is
        (row,) = matrix.double()
        _, kept = torch.linalg.eigh(known.fisher)
        assert abs(float(row @ kept[:, -1])) / row.norm() > 0.999


def test_the_linear_attackers_error_is_that_of_a_regression_on_simulated_wires():
    known = statistics()
    matrix = wire_matrix(known.covariance, Directions.of(known), 0.05, 0.1, 1e-3)
    root, count = normal(P, P, seed=1) / P**0.5, 40_000
    x = normal(count, P, seed=5) @ root.T
    wire = x @ normal(D, P, seed=2).T @ matrix.T + normal(count, len(matrix), seed=6)
    answer = wire @ torch.linalg.lstsq(wire, x).solution
    assert float((answer - x).square().mean()) == pytest.approx(linear_error(known, matrix, P), rel=0.02)


def test_what_reaches_the_tail_is_the_best_linear_estimate_of_the_feature():
    known, defense = statistics(), solved()
    root, count = roots(known.covariance)[0], 40_000
    z = (normal(count, D, seed=7) @ root + known.mean).float()
    shown = defense.on_wire(z, rng(1))
    error, sent = (shown - z).double(), defense._sent_of(shown).double()
    correlation = torch.corrcoef(torch.cat([error, sent], 1).T)[:D, D:]
    assert float(correlation.abs().max()) < 0.03  # nothing of what was sent is left in the error
    matrix = defense.matrix.double()  # type: ignore[union-attr]
    expected = estimate_matrix(known.covariance, matrix) @ matrix @ known.covariance
    torch.testing.assert_close(torch.cov(shown.double().T), expected, atol=0.1, rtol=0.05)


def test_the_numbers_that_were_sent_come_back_from_what_reaches_the_tail():
    defense, z = solved(), normal(30, D, seed=4).float()
    shown = defense.on_wire(z, rng(1))
    noise = torch.randn(30, len(defense.matrix), generator=rng(1))  # type: ignore[arg-type]
    torch.testing.assert_close(defense._sent_of(shown), defense._sent(z) + noise, atol=1e-3, rtol=1e-3)


def model_with(*defenses: nn.Module, features: int = D) -> SplitModel:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(48, features), nn.Unflatten(1, (features, 1, 1)))
    tail = nn.Sequential(nn.Flatten(), nn.Linear(features, 2))
    about = {"layout": "channels_first", "example": torch.rand(1, 3, 4, 4)}
    return SplitModel(encoder, tail, defense=Stack(*defenses), **about).eval()  # type: ignore[arg-type]


def test_white_box_attacks_weigh_errors_by_the_likelihood_of_what_is_sent():
    defense = solved()
    model, images = (
        model_with(defense),
        Split(torch.randint(0, 256, (40, 3, 4, 4), generator=rng()).byte(), torch.zeros(40).long()),
    )
    victim = Victim(model, frozenset(Access))
    box = WhiteBox(victim, images, 4, rng())
    x = torch.rand(5, 3, 4, 4, generator=rng(2))
    wire = victim.query(torch.rand(5, 3, 4, 4, generator=rng(3)), rng(4))
    distance = box.feature_loss(x, box.target(wire), rng(), "exact")
    unit = box.target(wire).shape[1] * box.scale / (2 * box.noise)
    y, mean = defense._sent_of(wire), defense._sent(model.features(x))
    torch.testing.assert_close(unit * distance, (y - mean).square().sum(1) / 2, rtol=1e-3, atol=1e-3)
    assert box.modes == ("exact",)
    gradient = torch.autograd.grad(box.feature_loss(x.requires_grad_(), box.target(wire), rng(), "exact").sum(), x)[0]
    assert bool(gradient.any())


@pytest.mark.parametrize("all_looks", [False, True])
def test_several_looks_have_that_much_less_noise(all_looks):
    defense, x = solved(), torch.rand(4, 3, 4, 4, generator=rng(2))
    model = model_with(defense)
    images = Split(torch.randint(0, 256, (40, 3, 4, 4), generator=rng()).byte(), torch.zeros(40).long())
    victim = Victim(model, frozenset(Access), observed=4, all_looks=all_looks)
    box = WhiteBox(victim, images, 4, rng())
    assert box.noise == pytest.approx(0.25)
    many = victim.query(x.repeat(500, 1, 1, 1), rng())
    error = box.target(many) - defense._sent(model.features(x)).repeat(500, 1)
    assert float(error.var(0).mean()) == pytest.approx(0.25, rel=0.05)


def test_the_law_tells_the_noise_on_every_entry_and_nothing_after_other_noise():
    defense, z = solved(), normal(1, D, seed=4).float()
    shown = torch.cat([defense.on_wire(z, rng(seed)) for seed in range(4000)])
    law = law_of(defense, shown)
    torch.testing.assert_close(shown.var(0), torch.as_tensor(law.variance), rtol=0.15, atol=1e-4)
    assert law_of(Stack(Gaussian(0.1), solved()), shown).variance is None
    both = law_of(Stack(solved(), Gaussian(0.1)), shown)
    torch.testing.assert_close(torch.as_tensor(both.variance), torch.as_tensor(law.variance) + 0.01)
    assert both.reduced is None
    assert solved().law(shown, Law(None)).variance is None


def test_bounds_see_the_numbers_that_are_sent():
    defense = solved()
    model = model_with(defense)
    images = Split(torch.randint(0, 256, (60, 3, 4, 4), generator=rng()).byte(), torch.arange(60) % 2)
    channel = Channel.of(model, images, rng())
    law = channel.conditional("held_out")
    assert law.mean.shape == (24, len(defense.matrix))  # type: ignore[arg-type]
    assert bool((law.variance == 1).all())
    (found,) = FisherBound(directions=200).estimate(channel, rng())
    slope = defense.matrix @ model.encoder[1].weight  # type: ignore[operator, index]
    assert found.value == pytest.approx(48 / float(slope.square().sum()), rel=0.03)


def test_without_its_matrices_it_sends_the_feature_and_tells_that():
    defense, z = Waterfill(), torch.rand(3, 4, 2, 2)
    assert torch.equal(defense.on_wire(z, rng()), z)
    assert law_of(defense, z).exact
    mean, variance = defense.gaussian_law(z, torch.zeros_like(z))  # type: ignore[misc]
    assert torch.equal(mean, z)
    assert not variance.any()


def test_a_training_with_it_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(
        UserError, match="waterfill is put on a trained model: train without it, then `splitveil harden"
    ):
        fit(tmp_path / "run", defense=("waterfill:0.1",))
    assert not (tmp_path / "run").exists()


def test_directions_that_are_not_sent_save_bytes():
    made = solved(mu=1e-9)  # noise costs next to nothing: what the task does not use is drowned and not sent
    sent = made.matrix.shape[0]  # type: ignore[union-attr]
    assert sent < D
    model = SplitModel(nn.Flatten(), nn.Identity(), defense=[made], example=torch.rand(1, 3, 2, 2))
    assert model.numbers_sent == sent
    assert Stack(made, Gaussian(0.1)).numbers_sent((3, 2, 2)) == D  # noise on the estimate: all of it is sent
    assert Stack(Gaussian(0.1), made).numbers_sent((3, 2, 2)) == sent
    assert SplitModel(nn.Flatten(), nn.Identity(), example=torch.rand(1, 3, 2, 2)).numbers_sent == D
