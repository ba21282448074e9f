"""The linear answer with a learned correction: against closed forms, its moves, its network and its optimizer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

import splitveil as sv
import toy
from splitveil import metrics
from splitveil import runtime as runtime_module
from splitveil.attacks._averaged import Averaged
from splitveil.attacks._correction import Correction, beside, require_doubled
from splitveil.attacks._moved import Moves, may_be_mirrored
from splitveil.attacks._muon import Muon
from splitveil.attacks.base import Extent, Victim
from splitveil.attacks.linear import LinearAttack
from splitveil.attacks.residual import ResidualAttack
from splitveil.config import Spec
from splitveil.data import Access, Split, load
from splitveil.defenses.base import Stack
from splitveil.defenses.gaussian import Gaussian
from splitveil.errors import UserError, WireError
from splitveil.model import SplitModel
from splitveil.nn import fastconv
from splitveil.runtime import Budget, Runtime
from toy import rng
from waits import Waits

QUERIES = frozenset({Access.QUERY})
SMALL: dict[str, Any] = {"epochs": 2, "channels": 8, "batch_size": 16}


def two_levels(count: int, seed: int, side: int = 8) -> Split:
    """Pixels that are 64 or 191 with equal chance."""
    bits = torch.randint(2, (count, 3, side, side), generator=rng(seed))
    return Split((64 + 127 * bits).to(torch.uint8), torch.zeros(count, dtype=torch.long))


def unshuffled(sigma: float = 0.2) -> Victim:
    """The wire has all pixels, four of each color in an entry, and noise."""
    encoder = nn.Sequential(nn.PixelUnshuffle(2))
    return Victim(SplitModel(encoder, nn.Flatten(), defense=Gaussian(sigma), layout="channels_first"), QUERIES)


# The whole attack


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_the_scale_of_a_wire_protects_nothing(factor):
    """Such as a defense that multiplies its wire, which anybody can undo."""

    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return factor * nn.functional.pixel_unshuffle(x, 2)

    def answers(victim: Victim) -> Tensor:
        attack = ResidualAttack(**SMALL)
        attack.fit(victim, two_levels(60, seed=0), rng())
        wire = victim.query(two_levels(8, seed=1).images / 255, rng(1))
        return attack.reconstruct(wire)

    defense = Gaussian(0.2 * factor)
    other = Victim(SplitModel(Scaled(), nn.Flatten(), defense=defense, layout="channels_first"), QUERIES)
    torch.testing.assert_close(answers(other), answers(unshuffled(0.2)), rtol=0, atol=0.01)


def blocks(count: int, seed: int) -> Split:
    """Gray images of 4×4 blocks, each dark or bright with equal chance."""
    bits = torch.randint(2, (count, 1, 4, 4), generator=rng(seed)).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return Split((64 + 127 * bits).to(torch.uint8), torch.zeros(count, dtype=torch.long))


def test_where_the_best_answer_is_not_linear_it_comes_near_the_mmse():
    """Of blocks ±a with noise σ on their means: E[x | y] = a tanh(a y/σ²), and the MMSE is a² (1 − E tanh²)."""
    sigma, a = 0.2, 127 / 255 / 2
    draws = a + sigma * np.random.default_rng(0).standard_normal(10**6)
    mmse = a**2 * (1 - float((np.tanh(a * draws / sigma**2) ** 2).mean()))
    linear = a**2 * sigma**2 / (a**2 + sigma**2)
    images = blocks(1000, 1)
    model = SplitModel(nn.AvgPool2d(4), nn.Flatten(), defense=Gaussian(sigma), example=toy.pixels(images)[:1])
    victim, truth = Victim(model, QUERIES), toy.pixels(blocks(1000, 2))
    attack = ResidualAttack(epochs=6, channels=16, batch_size=16, shift=0.0)
    attack.fit(victim, images, rng())
    error = float(metrics.mse(attack.reconstruct(victim.query(truth, rng(3))), truth).mean())
    assert mmse < 0.8 * linear
    assert 0.97 * mmse < error < 1.1 * mmse


def test_entries_that_are_hidden_leave_it_no_worse_than_the_best_linear_attack():
    model, _ = toy.model(48, 0.0, (12, 2, 2))
    stack = (
        Spec.model_validate(text).resolve("defenses").make("defenses") for text in ("gaussian:0.03", "dropout:0.5")
    )
    model.defense = Stack(*stack)
    victim, truth = Victim(model, QUERIES), toy.pixels(toy.images(400, 2))
    wire, errors = victim.query(truth, rng(3)), []
    for attack in (ResidualAttack(epochs=2, channels=16), LinearAttack()):
        attack.fit(victim, toy.images(2000, 1), rng())
        errors.append(float(metrics.mse(attack.reconstruct(wire), truth).mean()))
    assert errors[0] < 1.03 * errors[1]


def test_it_answers_with_the_mean_weights_of_the_best_epoch(monkeypatch):
    victim, errors, weights = unshuffled(), iter([0.3, 0.1, 0.2]), []

    def error(self, *_: Any) -> float:
        weights.append(self.network.last.weight.detach().clone())
        return next(errors)

    monkeypatch.setattr(ResidualAttack, "_error", error)
    attack = ResidualAttack(epochs=3, channels=8, batch_size=16)
    attack.fit(victim, two_levels(60, 1), rng())
    assert attack.curve() == [0.3, 0.1, 0.2]
    assert torch.equal(attack.network.last.weight, weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_its_curve_is_the_error_of_its_answers_on_images_that_it_holds_out():
    victim, images = unshuffled(), two_levels(60, 1)
    attack = ResidualAttack(**SMALL)
    attack.fit(victim, images, rng())
    held = toy.pixels(images.subset(torch.randperm(60, generator=rng())[:6]))
    with torch.no_grad():
        answers = attack._answer(victim.query(held, rng()), attack.network)
    assert min(attack.curve()) == pytest.approx(float((answers - held).square().mean()), rel=1e-5)


def test_each_step_sends_moved_images(monkeypatch):
    sent: list[Tensor] = []
    real = Victim.query
    monkeypatch.setattr(Victim, "query", lambda self, x, rng: (sent.append(x.clone()), real(self, x, rng))[1])
    images, victim = two_levels(60, 1), unshuffled()
    ResidualAttack(**SMALL, shift=0.25, flip=True).fit(victim, images, rng())
    batches = [x for x in sent if len(x) == 16]
    own = {image.numpy().tobytes() for image in toy.pixels(images)}
    assert len(batches) == 2 * 3  # 54 images are left to learn from, and a batch is whole
    moved = [image.contiguous().numpy().tobytes() not in own for x in batches for image in x]
    assert np.mean(moved) > 0.9
    assert victim.looks() > 2


def test_a_step_waits_for_nothing(monkeypatch):
    mode, inside = Waits(), []
    step, move = Averaged.step, Moves.__call__

    def moving(self, *args):
        inside.append(mode.__enter__())
        return move(self, *args)

    def stepping(self, *args):
        step(self, *args)
        mode.__exit__(None, None, None)

    monkeypatch.setattr(Moves, "__call__", moving)
    monkeypatch.setattr(Averaged, "step", stepping)
    ResidualAttack(**SMALL, shift=0.25).fit(unshuffled(), two_levels(60, 1), rng())
    assert len(inside) == 6
    assert not mode.found


def test_a_limit_of_time_leaves_the_rate_its_rise_and_its_fall(monkeypatch):
    """Fifty seconds: ten for the linear answer, then forty steps of a second, of 1,401 that are planned."""
    now, parts = [0.0], []
    fit, step = LinearAttack.fit, Averaged.step

    def fitting(self, *args):
        fit(self, *args)
        now[0] += 10.0

    def stepping(self, *args):
        step(self, *args)
        parts.append(self._muon.param_groups[0]["lr"] / 0.02)
        now[0] += 1.0

    monkeypatch.setattr(runtime_module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(LinearAttack, "fit", fitting)
    monkeypatch.setattr(Averaged, "step", stepping)
    attack = ResidualAttack(epochs=467, channels=8, batch_size=16)
    attack.fit(unshuffled(), two_levels(60, 1), rng(), Runtime(budget=Budget(seconds=50.0)))
    assert len(parts) == 40
    assert parts[0] < 0.05
    assert max(parts) == max(parts[:4]) > 0.9
    assert parts[-1] < 0.05


def test_gray_and_oblong_images_and_an_odd_number_of_channels():
    x = torch.rand(40, 1, 12, 20, generator=rng())
    tail = nn.Sequential(nn.Flatten(), nn.Linear(75, 2))
    model = SplitModel(nn.Sequential(nn.Conv2d(1, 5, 4, 4)), tail, defense=Gaussian(0.05), example=x[:1])
    spec = Spec(name="residual", parameters={"epochs": 1, "channels": 7, "batch_size": 8})
    labels = torch.zeros(40, dtype=torch.long)
    found = sv.attack(model, spec, learn_from=(x[:30], labels[:30]), invert=(x[30:], labels[30:]), progress=False)
    assert found.images.shape == (10, 1, 12, 20)


def test_fast_convolutions_are_used_where_the_processor_needs_them(monkeypatch):
    monkeypatch.setattr(fastconv, "worth_it", lambda: True)
    attack = ResidualAttack(epochs=1, channels=64, batch_size=16)
    attack.fit(unshuffled(), two_levels(40, 1), rng())
    assert any(isinstance(part, fastconv.WinogradConv2d) for part in attack.network.modules())
    assert math.isfinite(attack.curve()[0])


def test_what_it_refuses():
    victim = unshuffled()
    with pytest.raises(UserError, match="residual: the attacker has 5 images; expected at least 6"):
        ResidualAttack().fit(victim, two_levels(5, 1), rng())
    with pytest.raises(UserError, match="residual: flip is 'maybe'; expected true or false"):
        ResidualAttack(flip="maybe")  # type: ignore[arg-type]
    ResidualAttack().check((8, 8, 8), 32)
    ResidualAttack().check((5, 4, 6), 4)
    for wire, size in (((8, 8, 8), 48), ((8, 12, 12), 48 + 1), ((8, 8, 8), 4), ((8, 64), 32)):
        with pytest.raises(WireError, match=r"residual: the wire is .* expected a feature map"):
            ResidualAttack().check(wire, size)


def test_a_training_that_diverges_says_so(monkeypatch):
    monkeypatch.setattr(ResidualAttack, "_error", lambda *_: math.nan)
    with pytest.raises(UserError, match=r"residual: the error is nan in every epoch; lower lr \(0.02\)"):
        ResidualAttack(**SMALL).fit(unshuffled(), two_levels(40, 1), rng())


def test_only_one_side_that_fits_is_not_enough():
    """Of oblong images only the shorter side is known at first; the memory is asked for before any work."""
    with pytest.raises(WireError, match=r"\(8, 3, 6\) for images of 12×22 pixels"):
        require_doubled((8, 3, 6), (12, 22))
    extent = Extent((8, 3, 6), (3, 12, 22), 50, 10, 10, True, 1000)
    ResidualAttack().check(extent.wire, 12)
    with pytest.raises(WireError, match="12×22"):
        ResidualAttack().memory(extent)


# Its moves


def test_moves_are_windows_of_the_mirrored_surroundings():
    x = torch.randint(256, (1, 3, 6, 9), generator=rng(), dtype=torch.uint8)
    wide = np.pad(x[0].numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
    windows = {wide[:, i : i + 6, j : j + 9].tobytes() for i in range(5) for j in range(5)}
    mirrored = {
        np.ascontiguousarray(wide[:, i : i + 6, j : j + 9][..., ::-1]).tobytes() for i in range(5) for j in range(5)
    }
    found = [one.contiguous().numpy().tobytes() for one in Moves(2, True)(x.expand(1000, -1, -1, -1), rng())]
    assert set(found) == windows | mirrored
    assert np.mean([one in mirrored for one in found]) == pytest.approx(0.5, abs=0.06)
    still = {one.contiguous().numpy().tobytes() for one in Moves(2, False)(x.expand(500, -1, -1, -1), rng())}
    assert still == windows


def test_a_shift_is_a_part_of_the_shorter_side_and_leaves_something():
    x = torch.zeros(4, 1, 32, 64, dtype=torch.uint8)
    assert Moves.of(x, 1 / 16, True) == Moves(2, True)
    assert Moves.of(x[..., :4, :4], 1 / 16, False) == Moves(0, False)
    assert Moves.of(x[..., :2], 1.0, False) == Moves(1, False)
    assert Moves(1, False)(x[..., :2], rng()).shape == (4, 1, 32, 2)


@pytest.mark.parametrize("count", [100, 1437])
def test_digits_are_not_mirrored_and_symmetric_pictures_are(count):
    digits = load("digits").train.images[torch.randperm(1437, generator=rng())[:count]]
    assert not may_be_mirrored(digits)
    mirrored = torch.rand(count, generator=rng()) < 0.5
    assert may_be_mirrored(torch.where(mirrored[:, None, None, None], digits.flip(-1), digits))
    assert may_be_mirrored(torch.full((count, 1, 4, 4), 7, dtype=torch.uint8))


def test_few_images_are_not_mirrored_as_chance_would_decide():
    digits = load("digits").train.images
    draws = [torch.randperm(len(digits), generator=rng(seed))[:10] for seed in range(20)]
    assert not any(may_be_mirrored(digits[draw]) for draw in draws)
    same = torch.full((40, 1, 4, 4), 7, dtype=torch.uint8)
    assert may_be_mirrored(same)
    assert not may_be_mirrored(same[:39])


# Its network


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("colors", [1, 3])
def test_a_correction_begins_as_the_answer(factor, colors):
    answer, wire = (
        torch.rand(2, colors, 3 * factor, 5 * factor, generator=rng()),
        torch.rand(2, 7, 3, 5, generator=rng()),
    )
    network = Correction((7, 3, 5), (colors, 3 * factor, 5 * factor), 9)
    seen = beside(answer, wire)
    assert seen.shape == (2, 7 + colors * factor**2, 3, 5)
    assert torch.equal(pixel_shuffle(seen[:, :-7], factor), answer)
    assert torch.equal(network(seen), answer)
    nn.init.ones_(network.last.weight)
    network(seen).square().sum().backward()
    unmoved = {name for name, weight in network.named_parameters() if not weight.grad.abs().sum()}  # type: ignore
    assert all("first" in name and "block" in name for name in unmoved)  # of blocks that begin as the identity
    assert len(network.finer) == max(0, int(math.log2(factor)) - 1)


# Its optimizer


@pytest.mark.parametrize("shape", [(16, 6), (6, 16)])
def test_muon_is_that_of_torch(shape):
    reference: Any = getattr(torch.optim, "Muon", None)
    if reference is None:
        pytest.skip("this version of torch has no Muon")
    ours, theirs = (nn.Parameter(torch.randn(shape, generator=rng())) for _ in range(2))
    first, second = Muon([ours], 0.1, torch.bfloat16), reference([theirs], lr=0.1, weight_decay=0.0)
    for step in range(5):
        ours.grad = torch.randn(shape, generator=rng(step))
        theirs.grad = ours.grad.clone()
        first.step()
        second.step()
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0)


def test_a_convolution_is_a_matrix_with_a_row_for_each_output():
    flat = nn.Parameter(torch.zeros(4, 18))
    kernel = nn.Parameter(torch.zeros(4, 2, 3, 3))
    flat.grad = torch.randn(4, 18, generator=rng())
    kernel.grad = flat.grad.view(4, 2, 3, 3)
    still = nn.Parameter(torch.ones(2, 2))
    Muon([flat, kernel, still], 0.1).step()
    assert torch.equal(kernel.flatten(1), flat)
    assert torch.equal(still, torch.ones(2, 2))
    assert torch.linalg.matrix_norm(flat.detach(), 2) < 0.13
