"""The linear attack's regression against the dense solve, and how it obeys a budget."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import toy
from splitveil.attacks._ridge import JITTER, Ridge, Rows
from splitveil.attacks.base import Victim
from splitveil.attacks.latent import LatentAttack
from splitveil.attacks.linear import LinearAttack
from splitveil.data import Access, Split, to_float
from splitveil.defenses.gaussian import Gaussian
from splitveil.model import SplitModel
from splitveil.runtime import Budget, Runtime
from toy import rng


def dense(z, x, ridge):
    """The primal system with a column of ones, whose penalty is zero."""
    z = torch.cat([z.double(), torch.ones(len(z), 1).double()], 1)
    penalty = torch.full((z.shape[1],), ridge + JITTER, dtype=torch.float64)
    penalty[-1] = 0
    found = torch.linalg.solve(z.T @ z + penalty.diag(), z.T @ x.double())
    return found[:-1], found[-1]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(2, 40), st.integers(1, 40), st.sampled_from([0.0, 3.0, -5.0]), st.sampled_from([1e-2, 1.0, 1e4]))
@pytest.mark.parametrize("dual", [True, False])
def test_both_spaces_give_the_dense_solution(dual, rows, columns, offset, ridge):
    draw = torch.Generator().manual_seed(rows * 100 + columns)
    z = torch.randn(rows, columns, generator=draw) + offset
    x, new = torch.rand(rows, 7, generator=draw), torch.randn(5, columns, generator=draw) + offset
    gathered = Rows(dual)
    for part in zip(z.split(9), x.split(9), strict=True):
        gathered.add(*part)
    fitted, (weights, constant) = Ridge(gathered), dense(z, x, ridge)
    expected = new.double() @ weights + constant
    assert torch.allclose(fitted.predict(fitted.project(new), ridge), expected, rtol=0, atol=1e-9)
    assert torch.allclose(fitted.weights(ridge)[0], weights, rtol=0, atol=1e-9)
    assert torch.allclose(fitted.weights(ridge)[1], constant, rtol=0, atol=1e-7)


@pytest.mark.parametrize("factor", [1e-5, 1e-2, 1e3, 1e5])
def test_the_scale_of_a_wire_changes_no_answer(factor):
    """Fewer images than entries, so that the penalty matters."""

    mixing = torch.randn(192, 192, generator=rng(3))
    images = Split(torch.randint(256, (45, 3, 8, 8), generator=rng(4), dtype=torch.uint8), torch.zeros(45).long())

    def answers(scale: float) -> torch.Tensor:
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(192, 192, bias=False))
        encoder[1].weight.data = scale * mixing
        model = SplitModel(encoder, nn.Identity(), defense=Gaussian(2 * scale))
        victim, attack = Victim(model, frozenset({Access.QUERY})), LinearAttack()
        attack.fit(victim, images.subset(torch.arange(40)), rng())
        return attack.reconstruct(victim.query(to_float(images.images[40:]), rng(1)))

    torch.testing.assert_close(answers(factor), answers(1.0), rtol=0, atol=2e-3)


def test_no_matrix_of_the_wire_is_made_where_the_images_are_few(monkeypatch):
    sizes, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: (sizes.append(len(matrix)), eigh(matrix))[1])
    model, _ = toy.model(96, 0.1)
    LinearAttack(looks=2).fit(Victim(model, frozenset(Access)), toy.images(20, 3), rng())
    assert sizes == [32, 40]  # two looks at 16 of 20 images, then at all
    sizes.clear()
    LinearAttack(looks=2).fit(Victim(model, frozenset(Access)), toy.images(60, 3), rng())
    assert sizes == [96, 96]


def test_every_part_is_a_step_of_the_budget():
    model, _ = toy.model(24, 0.1)
    victim, own, runtime = Victim(model, frozenset(Access)), toy.images(2000, 3), Runtime(budget=Budget(steps=1))
    attack = LinearAttack()
    attack.fit(victim, own, rng(), runtime)
    assert runtime.cut == {"looks": (1, 7), "ridges": (1, 13), "looks at the others": (1, 2)}
    assert torch.isfinite(attack.reconstruct(victim.query(to_float(own.images[:4]), rng()))).all()


@pytest.mark.parametrize(("offset", "spread"), [(100.0, 0.01), (-300.0, 0.05)])
def test_the_sampled_latent_is_the_nearest_whatever_offset_wires_share(offset, spread, monkeypatch):
    attack = LatentAttack(samples=200, size=4)
    draw = torch.Generator().manual_seed(1)
    wires = offset + spread * torch.randn(200, 64, generator=draw)
    box = SimpleNamespace(wire=lambda images, rng: wires, comparable=lambda wire: (wire, None))
    monkeypatch.setattr(attack, "box", box, raising=False)
    monkeypatch.setattr(attack, "generator", lambda latent: latent, raising=False)
    latents = torch.randn(200, 4, generator=rng(5))
    found = attack._sampled(wires[:40] + 0.1 * spread, rng(5))
    nearest = ((wires[:40] + 0.1 * spread).double()[:, None] - wires.double()).square().sum(2).argmin(1)
    assert torch.equal(found, latents[nearest])


def test_the_sampled_latent_is_the_nearest_of_what_both_show(monkeypatch):
    """Entries that no draw has shown were no numbers, of which the first was then the nearest of all."""
    attack, draw = LatentAttack(samples=200, size=4), torch.Generator().manual_seed(1)
    whole = 3 + torch.randn(200, 64, generator=draw)
    wires = torch.where(torch.rand(200, 64, generator=draw) < 0.05, torch.nan, whole)
    visible = torch.rand(40, 64, generator=draw) < 0.7
    box = SimpleNamespace(wire=lambda images, rng: wires, comparable=lambda wire: (wire, visible))
    monkeypatch.setattr(attack, "box", box, raising=False)
    monkeypatch.setattr(attack, "generator", lambda latent: latent, raising=False)
    latents = torch.randn(200, 4, generator=rng(5))
    found = attack._sampled((whole[:40] + 0.1) * visible, rng(5))
    assert float((found == latents[:40]).all(1).float().mean()) > 0.95


@pytest.mark.parametrize("dual", [True, False])
def test_the_constant_is_not_shrunk(dual):
    """However large the ridge, what is answered then is the mean of the images, also for wires far from zero."""
    generator = torch.Generator().manual_seed(0)
    z, x = 5 + torch.randn(20, 4, generator=generator), 0.9 + 0.01 * torch.randn(20, 3, generator=generator)
    weights, constant = Ridge(Rows(dual).add(z, x)).weights(1e12)
    torch.testing.assert_close(
        (z.double() @ weights + constant)[:2], x.double().mean(0).expand(2, 3), atol=1e-6, rtol=0
    )
