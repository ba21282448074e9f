"""The flag for parts of a defense that add the same to every wire, and tell nothing of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import toy
from splitveil.defenses._law import Law
from splitveil.defenses.base import Defense, Stack
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.shredder import Shredder
from splitveil.evaluation import reliability
from splitveil.model import SplitModel
from splitveil.registry import Registry

IMAGES, SHAPE = toy.images(40, 1), (8, 4, 4)
WORDS = "adds to the wire is the same for every image and at every look"


def flagged(*parts: Defense) -> int:
    plain, _ = toy.model(SHAPE[0] * 16, 0.0, SHAPE)
    made = SplitModel(plain.encoder, nn.Flatten(), defense=Stack(*parts), layout="channels_first")
    made.wire_shape, made.image_shape = tuple(SHAPE), (3, toy.SIDE, toy.SIDE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made.defense.install(made)  # type: ignore[union-attr, operator]
    return sum(WORDS in flag for flag in reliability.of_model(made.eval(), IMAGES))


def noise(shape: tuple[int, ...]) -> torch.Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(3))


class Kept(Defense):
    """Noise that was drawn once."""

    noise: torch.Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("noise", noise(SHAPE))

    def on_wire(self, z, rng):
        return z + self.noise


class Seeded(Defense):
    """Noise from a generator that is made anew at each call: in a batch, each row has its own."""

    def on_wire(self, z, rng):
        return z + noise(tuple(z.shape))


class Lifted(Defense):
    """One number, added everywhere."""

    def on_wire(self, z, rng):
        return z + 2


class Told(Kept):
    """The same, said."""

    def law(self, wire, before):
        return before.shifted(noise((1, *SHAPE)), wire)


class Fresh(Defense):
    """Noise that tells nothing, drawn for each image."""

    def on_wire(self, z, rng):
        return z + 0.3 * torch.randn(z.shape, generator=rng)


class Rounded(Defense):
    """Deterministic, and another thing for each image."""

    def on_wire(self, z, rng):
        return (z * 4).round() / 4


@pytest.mark.parametrize("part", [Kept, Seeded, Lifted])
def test_what_is_added_to_every_wire_alike_is_flagged(part):
    assert flagged(part()) == 1
    assert flagged(part(), Gaussian(0.5)) == 1  # whose noise hides it from looks at the whole wire
    assert flagged(Gaussian(0.5), part()) == 1
    assert flagged(part(), Fresh()) == 1


@pytest.mark.parametrize("part", [Told, Fresh, Rounded, lambda: Shredder(1.0, size=1)])
def test_honest_defenses_are_not(part):
    assert flagged(part()) == 0
    assert flagged(Gaussian(0.5), part()) == 0


@pytest.mark.parametrize("name", Registry("defenses").names())
def test_no_registered_defense_is(name):
    kind = Registry("defenses").get(name)
    if name == "patrol":  # which cannot be installed on a linear layer
        assert kind.on_wire is Defense.on_wire
        return
    assert flagged(*([Gaussian(0.1)] if name == "cem" else []), kind()) == 0


def test_a_wire_that_is_the_same_for_all_images_says_nothing():
    class Nothing(Defense):
        def on_wire(self, z, rng):
            return torch.zeros_like(z)

        def law(self, wire, before):
            return Law(None)

    assert flagged(Nothing(), Kept()) == 0
