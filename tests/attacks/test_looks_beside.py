"""Several looks at Laplace noise that has another part of the defense beside it."""

from __future__ import annotations

import pytest
import torch

import toy
from splitveil.attacks._white_box import WhiteBox
from splitveil.attacks.base import Victim
from splitveil.attacks.refine import RefineAttack
from splitveil.data import Access
from splitveil.defenses._law import Law, law_of
from splitveil.defenses._looks import combined
from splitveil.defenses.base import Defense, Stack
from splitveil.defenses.dropout import Dropout
from splitveil.defenses.laplace import Laplace

ALL = frozenset(Access)
LOOKS = 8


class Rounded(Defense):
    """Draws nothing, and tells nothing."""

    def on_wire(self, z, rng):
        return (z * 16).round() / 16


class Fresh(Defense):
    """Gaussian noise that tells nothing."""

    def __init__(self, sigma: float):
        super().__init__()
        self.sigma = sigma

    def on_wire(self, z, rng):
        return z + self.sigma * torch.randn(z.shape, generator=rng)


def errors(*parts: Defense) -> tuple[float, float]:
    """Return the squared error of one wire made of several, and of their mean, or the mean of what they show."""
    z, rng, stack = torch.rand(200, 60, generator=toy.rng(1)) + 1, toy.rng(), Stack(*parts)
    looks = torch.stack([stack.on_wire(z, rng) for _ in range(LOOKS)])
    law = law_of(stack, looks.flatten(0, 1))
    shown = looks != 0
    there = shown.any(0)
    plain = (looks * shown).sum(0) / shown.sum(0).clamp(min=1)
    truth = parts[0].on_wire(z, rng) if isinstance(parts[0], Rounded) else z
    return tuple(float((found - truth)[there].square().mean()) for found in (combined(looks, law), plain))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("parts", "gain"),
    [
        ((Laplace(0.1), Dropout(0.3, rescale=False)), 0.85),
        ((Rounded(), Laplace(0.1)), 0.8),  # what told nothing before it made the kind of noise forgotten
        ((Laplace(0.1), Fresh(0.02)), 0.82),
        ((Fresh(0.02), Laplace(0.1)), 0.82),
        ((Laplace(0.02), Fresh(0.3)), 1.02),  # all of it was taken for Laplace noise
        ((Fresh(0.3), Laplace(0.02)), 1.02),
    ],
)
def test_looks_are_weighed_by_the_part_of_the_noise_that_is_laplace(parts, gain):
    found, plain = errors(*parts)
    assert found < gain * plain


def test_a_few_entries_with_much_noise_say_nothing_of_the_others():
    """The mean variance of the noise was that of a tenth of the entries, and Laplace noise seemed faint beside it."""
    clean, rng = torch.rand(100, 60, generator=toy.rng(1)), toy.rng()
    strength = torch.where(torch.arange(60) % 10 == 0, 2.0, 0.0)
    looks = torch.stack([Laplace(0.1).on_wire(clean, rng) for _ in range(LOOKS)])
    looks = looks + strength * torch.randn(looks.shape, generator=rng)
    law = Law(None).with_noise(0.02, "laplace")
    found, plain = ((one - clean)[:, strength == 0].square().mean() for one in (combined(looks, law), looks.mean(0)))
    assert found < 0.85 * plain


def test_one_look_that_shows_an_entry_is_taken_as_it_is_and_none_is_zero():
    law = Law().with_noise(1.0, "laplace")
    looks = torch.tensor([[[3.0, 0.0, 1.0]], [[0.0, 0.0, 2.0]], [[0.0, 0.0, 9.0]]])
    found = combined(looks, law.hiding(looks.flatten(0, 1) != 0))
    assert found[0, :2].tolist() == [3.0, 0.0]
    assert float(found[0, 2]) == pytest.approx(float(combined(looks[:, :, 2:], law)))


@pytest.mark.parametrize(("observed", "count"), [(1, 100), (6, 40)])  # of six looks the gain is larger
def test_a_search_takes_the_likelihood_of_laplace_noise_beside_a_mask(observed, count):
    """By squares its error was that much above the one of least absolute distances."""
    model, _ = toy.model(192, 0.0, (48, 2, 2))
    model.defense = Stack(Laplace(0.04), Dropout(0.2))
    attack, truth = RefineAttack(steps=60, weight=1.0, start="mean"), toy.pixels(toy.images(count, 9))
    victim = Victim(model.eval().requires_grad_(False), ALL, observed).of(attack)
    attack.fit(victim, toy.images(300, 1), toy.rng())
    wire = victim.query(truth, toy.rng(5))
    found = float((attack.reconstruct(wire) - truth).square().mean())
    assert attack.box._peak > 0
    attack.box._peak = 0.0
    assert found < 0.92 * float((attack.reconstruct(wire) - truth).square().mean())


@pytest.mark.parametrize(("strong", "peaked"), [(0.01, True), (0.3, False)])
def test_the_likelihood_is_that_of_the_noise_that_was_measured(strong, peaked):
    model, _ = toy.model(48, 0.0, (12, 2, 2))
    model.defense = Stack(Fresh(strong), Laplace(0.04))
    box = WhiteBox(Victim(model.eval(), ALL, 3, all_looks=True), toy.images(100, 1), 4, toy.rng())
    assert (box._peak > 0) == peaked
    assert box._together == (not peaked)


def test_a_wire_of_several_looks_hardly_depends_on_the_others():
    """How much of the noise is Laplace noise is measured where nobody tells it: each wire alone is sent so."""
    stack, z = Stack(Fresh(0.02), Laplace(0.1)), torch.rand(40, 480, generator=toy.rng(1))
    looks = torch.stack([stack.on_wire(z, toy.rng(i)) for i in range(LOOKS)])
    law = law_of(stack, looks.flatten(0, 1))
    together = combined(looks, law)
    alone = torch.cat([combined(looks[:, i : i + 1], law) for i in range(len(z))])
    assert float((alone - together).square().mean()) < 0.01 * float((together - z).square().mean())
