"""Known offsets beside noise whose strength differs by direction: told by the attacks, or flagged."""

from __future__ import annotations

import pytest
import torch

import toy
from splitveil.attacks.base import Victim
from splitveil.attacks.linear import LinearAttack
from splitveil.config import Spec
from splitveil.data import Access
from splitveil.defenses.base import Defense, Stack
from splitveil.defenses.cloak import Cloak
from splitveil.defenses.pca import PCA
from splitveil.evaluation import offsets, reliability
from splitveil.model import SplitModel

ALL = frozenset(Access)
M = 24
SHREDDER = "shredder:scale=0.5,size=5"
UNEVEN = "cloak:low=0.05,high=5"
STRONG = "gaussian:3"


def channel(*specs: str) -> SplitModel:
    """The linear network behind these defenses: half of the entries of ``cloak`` have all of its noise."""
    model, _ = toy.model(M, 0.0, (12, 1, 2))
    model.wire_shape, model.image_shape = (12, 1, 2), (3, 4, 4)
    parts: list[Defense] = [Spec.model_validate(spec).resolve("defenses").make("defenses") for spec in specs]
    with torch.random.fork_rng():
        for part in parts:
            torch.manual_seed(0)
            part.install(model)
            if isinstance(part, Cloak):
                part.rho.data.view(-1).copy_(torch.tensor([-9.0, 9.0]).repeat(M // 2))
            if isinstance(part, PCA):
                part.mean = torch.zeros(M)
                part.basis = torch.linalg.qr(torch.randn(M, part.components, generator=toy.rng(7)))[0]
    model.defense = Stack(*parts)
    return model.eval()


def error_of(model: SplitModel) -> float:
    victim, attack, truth = Victim(model, ALL), LinearAttack(), toy.pixels(toy.images(300, 9))
    attack.fit(victim, toy.images(1000, 1), toy.rng())
    return float((attack.reconstruct(victim.query(truth, toy.rng(5))) - truth).square().mean())


def flags(model: SplitModel) -> list[str]:
    return reliability.of_law(model, Victim(model, ALL), toy.images(4, 0))


@pytest.mark.parametrize("specs", [(UNEVEN, SHREDDER), (SHREDDER, UNEVEN)])
def test_offsets_are_told_by_the_entries_that_have_little_noise(specs):
    """The mean strength of the noise drowned them, so that nothing was seen through, and no flag said so."""
    assert error_of(channel(*specs)) < 1.03 * error_of(channel(UNEVEN))
    assert flags(channel(*specs)) == []


def test_offsets_that_correlated_noise_leaves_free_are_flagged():
    (flag,) = flags(channel(STRONG, "pca:8", SHREDDER))
    assert "make no use of all that can be told of the known collection" in flag
    assert flag.endswith(
        "attack a network without the part that adds it, as that part hides less than the attacks here show"
    )


def test_a_collection_that_is_too_large_to_be_tried_is_flagged(monkeypatch):
    assert flags(channel(SHREDDER, "gaussian:0.01")) == []
    monkeypatch.setattr(offsets, "MOST_ENTRIES", M - 1)
    assert len(flags(channel(SHREDDER, "gaussian:0.01"))) == 1
    assert flags(channel(SHREDDER, STRONG)) == []  # nobody can tell


@pytest.mark.parametrize(
    "specs",
    [
        (SHREDDER,),
        (STRONG, SHREDDER),  # drowned for everybody
        (SHREDDER, STRONG),
        *((f"gaussian:{sigma}", SHREDDER) for sigma in (0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)),
        ("gaussian:0.01", "pca:8", SHREDDER),  # the attacks tell it
        ("vib:0.001", SHREDDER),
        (SHREDDER, "dropout:0.3"),
    ],
)
def test_nothing_is_flagged_where_attacks_tell_the_offset_or_nobody_can(specs):
    assert flags(channel(*specs)) == []


def test_offsets_are_not_said_to_be_apart_by_chance():
    """The direction that is best on a few draws is not judged by the same draws."""
    drawn = torch.randn(256, 2000, generator=toy.rng())
    apart = offsets.apart(torch.randn(5, 2000, generator=toy.rng(1)) * 0.05, drawn)
    assert apart < 1.3 * 0.05 * 2000**0.5
