"""Noise that a projection makes correlated between entries: measured in its directions, and weighed there."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

import toy
from splitveil.attacks._compared import views
from splitveil.attacks._directions import whitened
from splitveil.attacks._white_box import WhiteBox
from splitveil.attacks.base import Victim
from splitveil.attacks.rmle import RmleAttack
from splitveil.config import Spec
from splitveil.data import Access
from splitveil.defenses._codec_choice import fit
from splitveil.defenses._directions import Directions
from splitveil.defenses._law import law_of
from splitveil.defenses._looks import combined
from splitveil.defenses.base import Defense, Stack
from splitveil.defenses.codec import Codec
from splitveil.defenses.pca import PCA
from splitveil.model import SplitModel
from toy import rng

ALL = frozenset(Access)
M, K = 96, 24


def projected(*before: str, bits: int = 0, behind: tuple[str, ...] = ()) -> tuple[SplitModel, torch.Tensor]:
    """The linear network behind noise, a projection on random directions, other parts and a codec; and W."""
    model, weight = toy.model(M, 0.0, (M // 4, 2, 2))
    model.wire_shape = (M // 4, 2, 2)
    pca = PCA(K)
    pca.basis = torch.linalg.qr(torch.randn(M, K, generator=rng(7)))[0]
    pca.mean = torch.randn(M, generator=rng(8)) / 10
    parts: list[Defense] = [*made(*before), pca, *made(*behind)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Stack(*parts).install(model)
    for part in parts:
        if hasattr(part, "rho"):
            part.rho.data.copy_(torch.linspace(-3, 3, M).view_as(part.rho))  # type: ignore[operator, union-attr]
        if hasattr(part, "log_sigma"):
            part.log_sigma.weight.data.normal_(std=1.5, generator=rng(9))  # type: ignore[operator, union-attr]
    if bits:
        codec = Codec(cast("Any", f"uint{bits}"))
        z = model.features(toy.pixels(toy.images(2000, 5)))
        codec.set_grid(fit(Stack(*parts).on_wire(z, rng(5)).detach(), bits))
        parts.append(codec)
    model.defense = Stack(*parts)
    return model.eval().requires_grad_(False), weight


def made(*specs: str) -> list[Defense]:
    return [Spec.model_validate(spec).resolve("defenses").make("defenses") for spec in specs]


def posterior(attack: RmleAttack) -> float:
    """The l2 for which the attack's objective is the posterior, if its noise is as the attack believes."""
    box = attack.box
    return toy.D * box.noise / (box.variance.numel() * box.scale * toy.VARIANCE) * attack._typical[1]


@pytest.mark.parametrize("before", ["laplace:0.07", "cloak:low=0.02,high=0.3"])
def test_the_answer_is_the_posterior_mean(before):
    """Entry by entry, its error was well above the least."""
    model, weight = projected(before)
    victim, truth = Victim(model, ALL), toy.pixels(toy.images(300, 2))
    attack = RmleAttack(steps=250, tv=0.0, l2=1.0, start="grey", lr=0.02)
    attack.fit(victim, toy.images(500, 1), rng())
    attack.l2 = posterior(attack)
    error = float((attack.reconstruct(victim.query(truth, rng(3))) - truth).square().mean())
    noise, pca = cast("Stack", model.defense)
    told = torch.as_tensor(law_of(noise, torch.zeros(1, M // 4, 2, 2)).variance).expand(M // 4, 2, 2).flatten()
    basis = cast("PCA", pca).basis
    assert basis is not None
    white = torch.linalg.inv(torch.linalg.cholesky(basis.T @ (basis * told[:, None])))
    assert error < 1.02 * toy.mmse(white @ basis.T @ weight, 1.0)


STACKS = [
    (("laplace:0.07",), 0, ()),
    (("cloak:low=0.02,high=0.3",), 0, ()),
    (("vib:0.001",), 0, ()),
    (("dropout:0.3",), 0, ()),
    (("gaussian:0.1",), 2, ()),
    (("laplace:0.07",), 4, ()),
    (("gaussian:0.1",), 0, ("cloak:low=0.02,high=0.3",)),
    (("gaussian:0.05",), 0, ("vib:0.001",)),
]


@pytest.mark.parametrize(("before", "bits", "behind"), STACKS)
def test_each_number_has_noise_of_variance_one(before, bits, behind):
    model, _ = projected(*before, bits=bits, behind=behind)
    victim, x = Victim(model, ALL), toy.pixels(toy.images(3000, 2))
    box = WhiteBox(victim, toy.images(500, 1), 4, rng())
    first, second = (box.target(victim.query(x, rng(seed))) for seed in (3, 4))
    assert first.shape[1] == K
    torch.testing.assert_close(torch.cov((first - second).T) / 2, torch.eye(K), atol=0.3, rtol=0)
    expected = box.wire(x[:50], rng(5), box.modes[0], 200)
    torch.testing.assert_close(first[:50].mean(), expected.mean(), atol=0.15, rtol=0)


@pytest.mark.parametrize("observed", [1, 4])
def test_several_looks_at_what_was_laplace_noise_are_averaged(observed):
    """Behind a projection each number has a sum of many: weighed as Laplace noise, looks at it told less."""
    model, _ = projected("laplace:0.07")
    box = WhiteBox(Victim(model, ALL, observed, all_looks=True), toy.images(200, 1), 4, rng())
    assert box.noise == pytest.approx(1 / observed)
    law = law_of(model.defense, torch.zeros(1, M // 4, 2, 2))
    assert law.looks == "mean"
    assert law.of_several(4).directions is law.directions


def test_strong_and_weak_noise_behind_a_projection_are_told_apart():
    """The entries with the least noise tell the numbers best."""
    basis = torch.linalg.qr(torch.randn(40, 3, generator=rng()))[0]
    variance = torch.logspace(-4, 0, 40)
    numbers = torch.randn(5000, 3, generator=rng(1))
    wire = 2 + numbers @ basis.T + variance.sqrt() * torch.randn(5000, 40, generator=rng(2))
    plain = Directions(torch.full((40,), 2.0), basis, (40,))
    told = plain.with_noise(variance / 3).with_noise(variance * 2 / 3)
    error = float((told(wire) - numbers).square().mean())
    best = float(torch.linalg.inv(basis.T @ (basis / variance[:, None])).diagonal().mean())
    assert error == pytest.approx(best, rel=0.05)
    assert error < 0.1 * float((plain(wire) - numbers).square().mean())


def test_without_noise_nothing_is_weighed_by_it():
    plain = Directions(torch.zeros(4), torch.eye(4)[:, :2], (4,))
    wire = torch.randn(20, 4, generator=rng())
    assert whitened(plain, wire, lambda: wire) is None
    model, _ = projected(bits=2)
    assert law_of(model.defense, torch.zeros(1, M // 4, 2, 2)).directions is None


def test_nearest_tries_the_directions_too():
    model, _ = projected("cloak:low=0.02,high=0.3")
    victim = Victim(model, ALL)
    _, view, by_entry = views(victim, victim.observe(toy.images(100, 1)), rng())
    wire = victim.query(toy.pixels(toy.images(5, 2)), rng())
    values, there = view(wire)
    assert values.shape == (5, K)
    assert there is None
    assert by_entry(wire)[0].shape == (5, M)  # noise that depends on the image may leave these nearer


@pytest.mark.parametrize("images", [1, 2, 5])
def test_few_images_leave_no_direction_that_seems_to_have_no_noise(images):
    """Its number had noise of hundreds of times the variance that the attack took it for."""
    numbers, draw = torch.randn(images, 256, generator=rng()), rng(1)

    def look() -> torch.Tensor:
        return numbers + 0.3 * torch.randn(images, 256, generator=draw)

    found = whitened(lambda wire: wire, look(), look)
    assert found is not None
    noise = found(0.3 * torch.randn(4000, 256, generator=draw))
    variances = torch.linalg.eigvalsh(torch.cov(noise.T))
    assert float(variances[0]) > 0.2
    assert float(variances[-1]) < 4


def test_uneven_noise_behind_a_projection_is_solved_for_once(monkeypatch):
    """A search asks for the numbers at each of its steps."""
    told = Directions(torch.zeros(8), torch.eye(8)[:, :2], (8,)).with_noise(torch.linspace(1, 2, 8))
    wire = torch.randn(3, 8, generator=rng())
    first = told(wire)
    monkeypatch.setattr(torch.linalg, "solve", None)
    assert torch.equal(told(wire), first)


@pytest.mark.parametrize(("components", "looks"), [(M // 4, "mean"), (M - 6, "ranked")])
def test_laplace_noise_keeps_its_peak_where_a_projection_leaves_nearly_all_of_it(components, looks):
    """Each entry has mostly its own noise there; taken for a sum of many, several looks told less."""
    basis = torch.linalg.qr(torch.randn(M, components, generator=rng()))[0]
    pca = PCA(components)
    pca.mean, pca.basis = torch.zeros(M), basis
    stack = Stack(*made("laplace:0.1"), pca)
    clean = torch.randn(400, M, generator=rng(1)) @ basis @ basis.T
    several = torch.stack([stack.on_wire(clean, rng(seed)) for seed in range(2, 10)])
    law = law_of(stack, several.flatten(0, 1))
    found, plain = (float((one - clean).square().mean()) for one in (combined(several, law), several.mean(0)))
    assert law.looks == looks
    assert found < (0.85 if looks == "ranked" else 1.01) * plain
