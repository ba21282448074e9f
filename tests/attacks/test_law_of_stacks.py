"""What a stack tells of its wire, part by part: no part makes it forget what came before, or it says so."""

from __future__ import annotations

from dataclasses import fields
from itertools import product

import pytest
import torch

import toy
from splitveil.attacks._hidden import beside_mask
from splitveil.attacks._offsets import Unshifted
from splitveil.attacks._seen_through import seen_through
from splitveil.attacks._sight import Sight
from splitveil.attacks._substitute import imitated
from splitveil.attacks.base import Victim
from splitveil.attacks.linear import LinearAttack
from splitveil.config import Spec
from splitveil.data import Access
from splitveil.defenses._codec_choice import fit
from splitveil.defenses._law import Law, law_of
from splitveil.defenses.base import Stack
from splitveil.defenses.codec import Codec
from splitveil.defenses.vib import VIB
from splitveil.defenses.waterfill import Waterfill
from splitveil.evaluation import reliability
from splitveil.model import SplitModel

ALL = frozenset(Access)
M = 24
SHREDDER = "shredder:scale=0.5,size=5"
DROPOUT = "dropout:0.02"
RANDOM = [
    "gaussian:0.03",
    "laplace:0.02",
    "local_dp:epsilon=400,low=-10,high=10,mechanism=gaussian",
    "cloak:low=0.02,high=0.05",
    "vib:0.001",
    DROPOUT,
    SHREDDER,
]
NOTHING = [
    "topk:1.0",
    "topk:0.99",
    "topk:ratio=1.0,scope=released",
    "dropout:0",
    "gaussian:0",
    "laplace:0",
    "pca:3",  # never refitted
    "codec:float32",
    "shredder:scale=0",
]


def channel(*specs: str) -> SplitModel:
    """The linear network behind these defenses, each with weights from one seed."""
    model, _ = toy.model(M, 0.0, (12, 1, 2))
    model.wire_shape, model.image_shape = (12, 1, 2), (3, 4, 4)
    stack = Stack(*(Spec.model_validate(spec).resolve("defenses").make("defenses") for spec in specs))
    with torch.random.fork_rng():
        for part in stack:
            torch.manual_seed(0)
            part.install(model)
    model.defense = stack
    return model.eval()


def error_of(model: SplitModel, images: int = 1000) -> float:
    victim, attack, truth = Victim(model, ALL), LinearAttack(), toy.pixels(toy.images(300, 9))
    attack.fit(victim, toy.images(images, 1), toy.rng())
    return float((attack.reconstruct(victim.query(truth, toy.rng(5))) - truth).square().mean())


def same(one: Law, other: Law) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(Law)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def kinds(*specs: str) -> set[str]:
    return {spec.partition(":")[0] for spec in specs}


@pytest.mark.parametrize(
    ("part", "nothing"),
    [pair for pair in product([*RANDOM, "topk:0.5"], NOTHING) if len(kinds(*pair)) == 2 or "gaussian" in kinds(*pair)],
)
def test_a_part_that_does_nothing_changes_no_law(part, nothing):
    alone, x = channel(part), toy.pixels(toy.images(20, 0))
    wire = alone.encode(x, toy.rng())
    for specs in ((part, nothing), (nothing, part)):
        both = channel(*specs)
        assert same(law_of(both.defense, wire), law_of(alone.defense, wire)), specs
        if nothing != "shredder:scale=0":  # it draws which of its offsets, all zero, is added
            assert torch.equal(both.encode(x, toy.rng()), wire), specs


@pytest.mark.parametrize("part", [SHREDDER, DROPOUT])
def test_a_part_that_does_nothing_makes_no_wire_look_private(part):
    alone = error_of(channel(part))
    for specs in ((part, "topk:1.0"), ("topk:1.0", part)):
        assert error_of(channel(*specs)) == pytest.approx(alone, rel=1e-6)


@pytest.fixture(scope="module")
def alone() -> dict[str, float]:
    return {part: error_of(channel(part)) for part in RANDOM}


@pytest.mark.parametrize(
    "specs", [specs for specs in product(RANDOM, RANDOM) if SHREDDER in specs and len({*specs}) == 2]
)
def test_shredder_beside_another_part_hides_little_more_than_that_part_or_is_flagged(specs, alone):
    """Five offsets far apart can be told, so that the error is that of the other part."""
    model = channel(*specs)
    (other,) = {*specs} - {SHREDDER}
    flags = reliability.of_law(model, Victim(model, ALL), toy.images(4, 0))
    if specs[0] == SHREDDER and kinds(other) & {"local_dp", "vib"}:  # they clip the offsets, or depend on them
        assert len(flags) == 1
        assert "looks more private than it is" in flags[0]
    else:
        assert flags == []
        assert error_of(model) < 1.02 * alone[other]


CLIP = "local_dp:epsilon=20000,low=-10,high=10"


@pytest.mark.parametrize(
    "specs", [(CLIP,), ("vib:0.001",), ("vib:0.001", CLIP), (CLIP, "vib:0.001"), ("gaussian:0.001", CLIP)]
)
def test_hidden_entries_are_told_by_their_size_beneath_noise_of_every_kind(specs):
    """The clip of `local_dp`, and noise that depends on the image, made the mask unknown: the error was 26 % higher."""
    model = channel("dropout:0.5", *specs)
    for part in model.defense:  # type: ignore[union-attr]
        if isinstance(part, VIB):
            torch.nn.init.constant_(part.log_sigma.bias, -6.5)  # type: ignore[arg-type]
    assert error_of(model, 1500) < 1.03 * error_of(channel("dropout:0.5"), 1500)


def test_zeros_are_told_behind_a_shift_of_known_size():
    """Each then is plus or minus the size, to the last bit: without the mask the error was 18 % higher."""
    model = channel("dropout:0.5", "adversarial_noise:size=0.1,network=custom")
    x = toy.pixels(toy.images(50, 0))
    hidden = channel("dropout:0.5").encode(x, toy.rng()) == 0
    law = law_of(model.defense, model.encode(x, toy.rng()))
    assert law.visible is not None
    assert torch.equal(law.visible, ~hidden)
    told = error_of(model, 1500)
    model.defense.parts[1].law = lambda wire, before: before.silent()  # type: ignore[union-attr, operator]
    assert told < 0.87 * error_of(model, 1500)


@pytest.mark.parametrize("specs", [(SHREDDER, "topk:0.9"), ("topk:0.9", SHREDDER)])
def test_offsets_are_told_where_small_entries_are_hidden(specs):
    """The entries that are hidden after the offset was added are not the feature's smallest: a little is lost."""
    assert error_of(channel(*specs)) < 1.07 * error_of(channel("topk:0.9"))


def test_hiding_keeps_the_offsets_and_scales_them():
    model = channel(SHREDDER, "gaussian:0.03", "dropout:0.5")
    wire = model.encode(toy.pixels(toy.images(4, 0)), toy.rng())
    law, collection = law_of(model.defense, wire), next(iter(model.defense)).collection  # type: ignore[call-overload]
    assert law.offsets is not None
    assert law.visible is not None
    assert torch.equal(law.offsets, 2 * collection.detach())
    assert law.beside == pytest.approx(4 * 0.03**2)
    assert torch.equal(law.visible, wire != 0)
    assert law.reduced is None


def test_what_was_hidden_before_an_offset_is_told_of_each_wire_alone():
    model = channel("dropout:0.3", SHREDDER)
    x = toy.pixels(toy.images(30, 0))
    wire = model.encode(x, toy.rng())
    law, clean = law_of(model.defense, wire), model.features(x)
    assert law.offsets is not None
    assert law.kept is not None
    assert law.possible is not None
    sure = law.possible.sum(1) == 1
    assert bool(sure.all())  # with 24 entries, a third hidden, some of each wire are
    rest = wire - law.offsets[law.possible.int().argmax(1)]
    assert torch.equal(law.kept, rest != 0)
    assert torch.allclose(rest, clean * law.kept / 0.7, atol=1e-5)
    for row in range(3):
        one = law_of(model.defense, wire[row : row + 1])
        assert one.kept is not None
        assert torch.equal(one.kept[0], law.kept[row])


@pytest.mark.parametrize("specs", [(SHREDDER, "dropout:0.3"), ("dropout:0.3", SHREDDER)])
def test_an_answer_does_not_depend_on_the_other_wires(specs):
    victim = Victim(channel(*specs), ALL)
    sight = seen_through(victim, victim.observe(toy.images(300, 1)), toy.rng())
    assert isinstance(sight, Unshifted)
    assert sight.imputes
    wire = victim.query(toy.pixels(toy.images(12, 9)), toy.rng(5))
    alone = torch.cat([sight(one) for one in wire.split(1)])
    assert sight(wire).shape == (12, 24, 1, 2)
    assert torch.allclose(sight(wire), alone, atol=1e-5)
    assert sight(wire[:0]).shape == (0, 24, 1, 2)


def test_more_than_can_be_imputed_is_left_to_the_mask(monkeypatch):
    """It was: of wide wires of which much is hidden, each would have a large system of equations of its own."""
    monkeypatch.setattr("splitveil.attacks._offsets_learned.MOST_HIDDEN", 2)
    sights = []
    for specs in ((SHREDDER, "dropout:0.3"), ("dropout:0.3", SHREDDER)):
        victim = Victim(channel(*specs), ALL)
        sights.append(seen_through(victim, victim.observe(toy.images(300, 1)), toy.rng()))
    assert isinstance(sights[0], Sight)
    assert isinstance(sights[1], Unshifted)
    assert not sights[1].imputes


def with_codec(*specs: str, bits: int = 8) -> SplitModel:
    model = channel(*specs)
    codec = Codec(f"uint{bits}")  # type: ignore[arg-type]
    codec.set_grid(fit(model.encode(toy.pixels(toy.images(500, 2)), toy.rng(1)).detach(), bits))
    model.defense = Stack(*model.defense, codec)  # type: ignore[misc]
    return model


def test_offsets_behind_a_mask_are_told_through_a_codec():
    assert error_of(with_codec(SHREDDER, DROPOUT)) < 1.05 * error_of(channel(DROPOUT))


@pytest.mark.parametrize(
    "model",
    [
        with_codec("dropout:0.3", SHREDDER),
        channel("dropout:0.3", SHREDDER, "codec:float16"),
        channel("dropout:0.3", SHREDDER, "gaussian:0.01"),
        channel(SHREDDER, "dropout:0.3", "gaussian:0.01"),
    ],
    ids=["uint8", "float16", "noise", "noise behind the mask"],
)
def test_what_no_attack_can_tell_any_more_is_flagged(model):
    assert len(reliability.of_law(model, Victim(model, ALL), toy.images(4, 0))) == 1


def test_offsets_that_were_averaged_are_flagged():
    model = channel(SHREDDER)
    assert reliability.of_law(model, Victim(model, ALL), toy.images(4, 0)) == []
    (flag,) = reliability.of_law(model, Victim(model, ALL, observed=3), toy.images(4, 0))
    assert flag.endswith("looks more private than it is; attack one wire of each image")


@pytest.mark.parametrize("observed", [1, 3])
def test_the_advice_of_the_flag_can_be_followed(observed):
    """Nothing can be put behind water-filled noise: the flag said that shredder should be, and raised itself again."""

    def advice(model: SplitModel) -> str:
        (flag,) = reliability.of_law(model, Victim(model, ALL, observed=observed), toy.images(4, 0))
        return flag.split("than it is; ")[1]

    hardened, before = channel(SHREDDER), channel(SHREDDER, "vib:0.001")
    noise = Waterfill()
    noise.center, noise.matrix, noise.estimate = torch.zeros(M), 10 * torch.eye(M), torch.eye(M) / 10
    hardened.defense = Stack(*hardened.defense, noise)  # type: ignore[misc]
    looks = ", and attack one wire of each image" * (observed > 1)
    without = "train a network without shredder and harden that, as water-filled noise comes behind everything else"
    assert advice(hardened) == without + looks
    assert advice(before) == "put shredder behind the other defenses, and attack without a codec" + looks
    hardened.defense = Stack(noise)
    followed = channel("vib:0.001", SHREDDER)
    for model in (hardened, followed):
        assert reliability.of_law(model, Victim(model, ALL), toy.images(4, 0)) == []


def test_a_substitute_hides_entries_before_the_offset_is_added():
    model = channel("dropout:0.5", SHREDDER)
    wire = model.encode(toy.pixels(toy.images(6, 0)), toy.rng())
    law = law_of(model.defense, wire)
    assert law.offsets is not None
    assert law.kept is not None
    seen = imitated(torch.ones_like(wire), law, toy.rng(), torch.arange(6))
    rests = seen[:, None] - law.offsets
    hidden = [(rest.abs().amin(0) == 0).equal(~kept) for rest, kept in zip(rests, law.kept, strict=True)]
    assert all(hidden)
    assert imitated(torch.ones(9, 12, 1, 2), law, toy.rng()).shape == (9, 12, 1, 2)


def test_a_mask_goes_beside_maps_and_beside_tokens():
    there = torch.tensor([[True, False, True, True]])
    assert beside_mask(torch.zeros(1, 1, 2, 2), there).shape == (1, 2, 2, 2)
    assert beside_mask(torch.zeros(1, 2, 2), there).shape == (1, 2, 4)
