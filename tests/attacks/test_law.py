"""What a defense tells of its wire, and attacks that use it, against the best attacker in closed form."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch

import toy
from splitveil import victim
from splitveil.attacks._seen_through import seen_through
from splitveil.attacks._sight import RIDGES, Sight
from splitveil.attacks._white_box import WhiteBox
from splitveil.attacks.base import Victim
from splitveil.attacks.decoder import DecoderAttack
from splitveil.attacks.linear import LinearAttack
from splitveil.attacks.refine import RefineAttack
from splitveil.config import Spec
from splitveil.data import Access
from splitveil.defenses._codec_choice import fit
from splitveil.defenses._law import Law, law_of
from splitveil.defenses._looks import combined, ranked_weights
from splitveil.defenses.base import Defense, Stack
from splitveil.defenses.cloak import Cloak
from splitveil.defenses.codec import Codec
from splitveil.defenses.dropout import Dropout
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.laplace import Laplace
from splitveil.defenses.shredder import Shredder
from splitveil.defenses.topk import TopK

ALL = frozenset(Access)
M = 48
NOISY = [
    "gaussian:0.05",
    "laplace:0.04",
    "local_dp:epsilon=400,low=-10,high=10",
    "local_dp:epsilon=400,low=-10,high=10,mechanism=laplace",
    "cloak:low=0.02,high=0.3",
]


def defended(*specs: str):
    """The linear network behind these defenses, and W."""
    model, weight = toy.model(M, 0.0, (12, 2, 2))
    stack = Stack(*(Spec.model_validate(spec).resolve("defenses").make("defenses") for spec in specs))
    model.defense = stack
    for part in stack:
        if hasattr(part, "rho"):
            continue
        if isinstance(part, Cloak):
            part.rho = torch.nn.Parameter(torch.linspace(-3, 3, M).view(12, 2, 2))
    return model, weight


def told(model, looks: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """The variance that the defense tells and the one of many looks at one image."""
    x = toy.pixels(toy.images(1, 0)).expand(looks, -1, -1, -1)
    wire = model.encode(x, toy.rng())
    law = law_of(model.defense, wire)
    assert law.variance is not None
    return torch.as_tensor(law.variance).expand(wire.shape[1:]), wire.var(0)


@pytest.mark.parametrize("spec", NOISY)
def test_the_variance_that_is_told_is_the_one_that_is_drawn(spec):
    said, drawn = told(defended(spec)[0], 4000)
    assert float((drawn / said - 1).abs().max()) < 0.25
    assert float((drawn / said).mean()) == pytest.approx(1, abs=0.03)


def test_noises_add_up_and_are_scaled_by_what_follows():
    model, _ = defended("gaussian:0.03", "laplace:0.02", "dropout:0.5")
    wire = model.encode(toy.pixels(toy.images(4, 0)), toy.rng())
    law = law_of(model.defense, wire)
    assert law.variance == pytest.approx(4 * (0.03**2 + 2 * 0.02**2))
    assert law.visible is not None
    assert torch.equal(law.visible, wire != 0)


def test_noise_after_a_mask_covers_it():
    model, _ = defended("dropout:0.5", "gaussian:0.01")
    law = law_of(model.defense, model.encode(toy.pixels(toy.images(4, 0)), toy.rng()))
    assert (law.visible, law.variance, law.looks) == (None, None, "mean")
    assert law.covered == pytest.approx(0.01**2)


class Rounded(Defense):
    def on_wire(self, z, rng):
        return z.round()


class Watching(Defense):
    def loss(self, step):
        return None


def test_a_defense_that_says_nothing_is_not_trusted_to_add_none():
    wire = torch.rand(2, 4)
    assert Stack(Watching()).law(wire, Law()) == Law()
    assert Stack(Rounded()).law(wire, Law()).variance is None
    assert law_of(None, wire) == Law()


@pytest.mark.parametrize(
    ("spec", "best"),
    [("gaussian:0.1", "mean"), ("laplace:0.1", "ranked"), ("dropout:ratio=0.5,rescale=false", "union")],
)
def test_several_looks_become_one_as_the_defense_says(spec, best):
    model, _ = defended(spec)
    x = toy.pixels(toy.images(500, 0))
    z, rng = model.features(x), toy.rng()
    looks = torch.stack([model.protect(z, rng) for _ in range(9)])
    law = law_of(model.defense, looks.flatten(0, 1))
    assert law.looks == best
    error = float((combined(looks, law) - z).square().mean())
    assert error < (1.05 if best == "mean" else 0.8) * float((looks.mean(0) - z).square().mean())
    assert torch.equal(Victim(model, ALL, 9).query(x, toy.rng()), combined(looks, law))


@pytest.mark.parametrize(
    ("looks", "said"), [(4, (0.419, 0.502, 0.424, 0.415, 0.419)), (8, (0.181, 0.250, 0.187, 0.180, 0.184))]
)
def test_ranked_looks_lose_little_of_what_laplace_noise_lets_through(looks, said):
    """What the docs say, against the best equivariant estimate: E[z | looks] under a flat prior, on a grid."""
    first, second = torch.empty(2, 40000, looks).exponential_(generator=toy.rng())
    drawn, grid = first - second, torch.linspace(-6, 6, 241)
    density = torch.stack([-(drawn[:, i, None] - grid).abs() for i in range(looks)]).sum(0).softmax(1)
    law, middle = Law().with_noise(2.0, "laplace"), drawn.sort(1).values[:, looks // 2 - 1 : looks // 2 + 1].mean(1)
    channels = torch.stack([drawn.mean(1), middle], 1)
    weights = torch.linalg.solve(torch.cov(channels.T), torch.ones(2))
    estimates = combined(drawn.T, law), drawn.mean(1), middle, density @ grid, channels @ weights / weights.sum()
    for estimate, value in zip(estimates, said, strict=True):
        assert float(estimate.square().mean()) == pytest.approx(value, rel=0.025)
    assert law.of_several(looks).variance == pytest.approx(said[0], rel=0.03)


def test_gaussian_noise_with_a_little_laplace_is_nearly_averaged():
    law = Law().with_noise(1.0).with_noise(0.1, "laplace")
    weights = law.weights(5)
    assert law.looks == "ranked"
    assert weights is not None
    assert float((weights - 0.2).abs().max()) < 0.03
    assert ranked_weights(5, 1.0).max() > 0.5


def test_many_looks_are_made_into_one_a_few_images_at_a_time(monkeypatch):
    model, _ = defended("dropout:0.5")
    x, sizes = toy.pixels(toy.images(10, 0)), []
    monkeypatch.setattr(victim, "LOOKS_BYTES", 4 * M * 8 * 3)
    protect = model.protect
    monkeypatch.setattr(model, "protect", lambda z, rng: sizes.append(len(z)) or protect(z, rng))
    assert Victim(model, ALL, 8).query(x, toy.rng()).shape == (10, 12, 2, 2)
    assert max(sizes) == 3


def test_an_attack_gets_all_looks_or_the_one_that_the_law_makes_of_them():
    model, _ = defended("laplace:0.1")
    victim, x = Victim(model, ALL, 3), toy.pixels(toy.images(5, 0))
    one, every = victim.of(LinearAttack()), victim.of(RefineAttack(start="mean"))
    assert one.query(x, toy.rng()).shape == (5, 12, 2, 2)
    looks = every.query(x, toy.rng())
    assert looks.shape == (5, 3, 12, 2, 2)
    assert every.observe(toy.images(5, 0)).wire(torch.arange(5), toy.rng()).shape == looks.shape
    assert torch.allclose(every.one_wire(looks), one.query(x, toy.rng()))
    told, each = one.law(looks[:, 0]).variance, every.law(looks[:, 0]).variance
    assert isinstance(told, float)
    assert isinstance(each, float)
    assert each == pytest.approx(2 * 0.1**2)
    assert told < each / 3
    assert victim.of(RefineAttack()).looks() == victim.looks() > 0


@pytest.mark.parametrize(("looks", "gain"), [(1, 0.8), (4, 0.8)])
def test_laplace_noise_is_weighed_by_its_likelihood(looks, gain):
    """Of many entries for each pixel: least absolute distances, up to twice as precise as the best linear attacker."""
    model, weight = toy.model(8 * M, 0.0, (96, 2, 2))
    model.defense = Stack(Laplace(0.04))
    attack, truth = RefineAttack(steps=60, weight=1.0, start="mean"), toy.pixels(toy.images(60, 9))
    victim = Victim(model, ALL, looks).of(attack)
    attack.fit(victim, toy.images(300, 1), toy.rng())
    found = attack.reconstruct(victim.query(truth, toy.rng(5)))
    told = Victim(model, ALL, looks).law(torch.zeros(1, 96, 2, 2)).variance
    best = toy.best_of_noise(weight, torch.as_tensor(told).expand(8 * M))
    assert float((found - truth).square().mean()) < gain * best


def test_looks_at_gaussian_noise_are_as_good_as_their_mean():
    model, weight = toy.model(M, 0.06, (12, 2, 2))
    model.defense = Stack(Gaussian(0.06))
    attack, truth = RefineAttack(steps=60, weight=1.0, start="mean"), toy.pixels(toy.images(200, 9))
    victim = Victim(model, ALL, 4).of(attack)
    attack.fit(victim, toy.images(400, 1), toy.rng())
    assert attack.box.target(victim.query(truth, toy.rng())).shape == (200, M)
    found = attack.reconstruct(victim.query(truth, toy.rng(5)))
    assert float((found - truth).square().mean()) < 1.04 * toy.best_of_noise(weight, torch.full((M,), 0.06**2 / 4))


def test_what_is_expected_of_hidden_entries_is_the_conditional_mean():
    model, weight = defended("dropout:ratio=0.5,rescale=false")
    victim, attacked = Victim(model, ALL), toy.pixels(toy.images(200, 9))
    sight = seen_through(victim, victim.observe(toy.images(6000, 1)), toy.rng())
    assert sight is not None
    wire, clean = victim.query(attacked, toy.rng(5)), model.features(attacked).flatten(1)
    full, mask = sight(wire).chunk(2, 1)
    assert torch.equal(mask.bool(), wire != 0)
    assert torch.equal(full[wire != 0], wire[wire != 0])
    covariance = toy.VARIANCE * (weight @ weight.T).double()
    mean = (weight @ torch.full((toy.D,), toy.MEAN)).double()
    errors = []
    for row, value in zip((wire != 0).flatten(1), clean.double(), strict=True):
        inner = covariance[row][:, row] + 1e-9 * torch.eye(int(row.sum())).double()
        errors.append(
            (mean + covariance[:, row] @ torch.linalg.solve(inner, value[row] - mean[row]) - value).square().mean()
        )
    ours = float((full.flatten(1) - clean).square().mean())
    assert ours < 1.05 * float(torch.stack(errors).mean())


class Curved(torch.nn.Module):
    """Features that no linear model of the image explains to the end."""

    def __init__(self, linear: torch.nn.Module):
        super().__init__()
        self.linear = linear

    def forward(self, x):
        z = self.linear(x)
        return z + 0.15 * torch.sin(300 * z)


def test_few_images_do_not_pass_for_many():
    """A covariance explains the images that it was made from, if they are few, without any ridge."""
    model, _ = defended("dropout:0.5")
    model.encoder = Curved(model.encoder)
    attack, victim, attacked = LinearAttack(looks=4), Victim(model, ALL), toy.pixels(toy.images(300, 9))
    attack.fit(victim, toy.images(60, 1), toy.rng())
    wire, truth = victim.query(attacked, toy.rng(5)), attacked.flatten(1)
    sight = attack._sight
    assert isinstance(sight, Sight)
    errors = {ridge: replace(sight, ridge=ridge)._squared_error(wire, truth) for ridge in RIDGES}
    assert errors[sight.ridge] < 1.05 * min(errors.values()) < 0.85 * errors[min(RIDGES)]
    assert sight.error == pytest.approx(errors[sight.ridge], rel=0.2)


def test_a_wire_that_hides_nothing_is_seen_as_it_is():
    model, _ = defended("gaussian:0.1")
    victim = Victim(model, ALL)
    assert seen_through(victim, victim.observe(toy.images(8, 0)), toy.rng()) is None


def test_entries_that_are_hidden_by_rule_are_not_imputed():
    model, _ = defended("topk:0.3")
    victim = Victim(model, ALL)
    sight = seen_through(victim, victim.observe(toy.images(64, 0)), toy.rng())
    assert sight is not None
    wire = victim.query(toy.pixels(toy.images(3, 0)), toy.rng())
    assert torch.equal(sight(wire), torch.cat([wire, (wire != 0).float()], 1))


def test_a_decoder_gets_the_mask_as_further_channels():
    model, _ = defended("dropout:0.5")
    victim, attack = Victim(model, ALL), DecoderAttack(epochs=1, network="dense_normN0C8")
    attack.fit(victim, toy.images(64, 1), toy.rng())
    wire = victim.query(toy.pixels(toy.images(3, 2)), toy.rng())
    assert attack._shown is not None
    assert attack._shown.sight is not None
    assert attack._shown.sight(wire).shape == (3, 24, 2, 2)
    assert attack.reconstruct(wire).shape == (3, 3, 4, 4)


def box_of(*specs: str) -> tuple[WhiteBox, Victim]:
    victim = Victim(defended(*specs)[0], ALL)
    return WhiteBox(victim, toy.images(500, 1), 4, toy.rng()), victim


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2])
def test_a_wire_of_few_images_has_a_scale(count):
    """Of one image the variance over images is no number, nor was then what the attack found."""
    box = WhiteBox(Victim(defended("gaussian:0.05")[0], ALL), toy.images(count, 1), 4, toy.rng())
    assert 0 < box.scale < 100


def test_precise_entries_count_for_more_in_the_distance_on_the_wire():
    """Of additive noise the expected distance of the truth is the noise's share of each entry, weighted to one."""
    box, victim = box_of("cloak:low=0.02,high=0.3")
    law = victim.law(victim.query(toy.pixels(toy.images(1, 0)), toy.rng()))
    assert isinstance(law.variance, torch.Tensor)
    assert torch.allclose(box.variance, law.variance.flatten())
    assert box.noise == pytest.approx(float(1 / (1 / box.variance).mean()), rel=1e-5)
    x = toy.pixels(toy.images(500, 3))
    wire = victim.query(x, toy.rng(4)).flatten(1)
    loss = float(box.feature_loss(x, wire, toy.rng(5), "exact", 400).mean())
    assert loss * box.scale / box.noise == pytest.approx(1, rel=0.03)


def test_hidden_entries_do_not_count_in_the_distance_on_the_wire():
    box, victim = box_of("dropout:0.5")
    x = toy.pixels(toy.images(50, 3))
    wire = victim.query(x, toy.rng(4)).flatten(1)
    assert box.hides
    assert float(box.feature_loss(x, wire, toy.rng(5), "exact", 64).max()) < 1e-10
    other = box.feature_loss(x.flip(0), wire, toy.rng(5), "exact", 64)
    assert float(other.min()) > 1e-3


def test_an_offset_of_a_known_collection_is_seen_through():
    """A decoder is given the feature itself, as the attacker finds its own images' features by several looks."""
    model, _ = toy.model(M, 0.0, (12, 2, 2))
    model.defense = shredder = Shredder(size=3, scale=0.3)
    model.wire_shape = (12, 2, 2)
    shredder.install(model)
    victim, x = Victim(model, ALL), toy.pixels(toy.images(100, 9))
    sight = seen_through(victim, victim.observe(toy.images(400, 1)), toy.rng())
    assert sight is not None
    wire, clean = victim.query(x, toy.rng(5)), model.features(x)
    assert float((wire - clean).abs().mean()) > 0.2
    assert float((sight(wire) - clean).abs().mean()) < 0.01
    few = [seen_through(victim, victim.observe(toy.images(count, 1)), toy.rng()) for count in (3, 6)]
    assert few[0] is None
    assert few[1] is None or bool(few[1](wire).isfinite().all())


@pytest.mark.parametrize("sigma", [0.02, 1.5])
def test_an_offset_is_told_through_weak_noise_and_not_through_strong(sigma):
    model, _ = toy.model(M, 0.0, (12, 2, 2))
    model.defense = Stack(Shredder(size=3, scale=0.3), Gaussian(sigma))
    model.wire_shape = (12, 2, 2)
    model.defense.install(model)
    victim, x = Victim(model, ALL), toy.pixels(toy.images(100, 9))
    sight = seen_through(victim, victim.observe(toy.images(400, 1)), toy.rng())
    assert (sight is not None) == (sigma < 1)
    if sight is not None:
        wire, clean = victim.query(x, toy.rng(5)), model.features(x)
        assert float((sight(wire) - clean).square().mean()) < 1.2 * sigma**2


def sent_by_codec(*specs: str, bits: int):
    """The linear network behind these defenses and a codec with the grid of its wire."""
    model, _ = defended(*specs)
    stack = cast("Stack", model.defense)
    codec = Codec(f"uint{bits}")  # type: ignore[arg-type]
    wire = model.encode(toy.pixels(toy.images(500, 2)), toy.rng(1))
    codec.set_grid(fit(wire.detach(), bits))
    model.defense = Stack(*stack, codec)
    return model


@pytest.mark.parametrize("noise", [[], ["gaussian:0.01"]])
def test_what_dropout_hides_is_told_through_a_codec(noise):
    """A zero that was rounded to the grid was no longer taken for hidden: errors were several times too high."""
    plain, coded = defended(*noise, "dropout:0.5")[0], sent_by_codec(*noise, "dropout:0.5", bits=8)
    x = toy.pixels(toy.images(50, 9))
    wire, sent = (model.encode(x, toy.rng(3)) for model in (plain, coded))
    law = law_of(coded.defense, sent)
    assert law.visible is not None
    assert not (law.visible & (wire == 0)).any()
    assert float((law.visible == (wire != 0)).float().mean()) > 0.95  # but for numbers as near to 0 as the steps
    assert torch.as_tensor(law.variance).max() > 0
    test, errors = toy.images(200, 5), []
    for model in (plain, coded):
        victim = Victim(model, frozenset({Access.QUERY}))
        attack = LinearAttack()
        attack.fit(victim, toy.images(2000, 1), toy.rng())
        answers = attack.reconstruct(victim.query(toy.pixels(test), toy.rng(4)))
        errors.append(float((answers - toy.pixels(test)).square().mean()))
    assert errors[1] < 1.1 * errors[0]


WEAK = [
    *(((Dropout(p),), True) for p in (0.01, 0.5, 0.98)),
    ((TopK(0.3),), False),
    *(((Gaussian(sigma), TopK(0.97)), False) for sigma in (0.01, 0.05)),
]


@pytest.mark.parametrize(("defense", "at_random"), WEAK)
def test_little_that_is_hidden_at_random_is_taken_into_account(defense, at_random):
    """Weak dropout looked more private than stronger dropout: its zeros were taken for what the wire says."""
    made, _ = toy.model(40, 0.0)
    made.defense = Stack(*defense)
    victim = Victim(made, frozenset(Access))
    assert WhiteBox(victim, toy.images(300, 1), 1, toy.rng()).hides == at_random


@pytest.mark.parametrize(("defense", "imputed"), [(Dropout(0.87), True), (Dropout(0.95), True), (TopK(0.1), False)])
def test_what_strong_dropout_hides_is_imputed_too(defense, imputed):
    """Sixteen looks do not show nine tenths of the wire together: it was taken for hidden by rule."""
    made, _ = toy.model(96, 0.0)
    made.defense = Stack(defense)
    victim = Victim(made, frozenset(Access))
    sight = seen_through(victim, victim.observe(toy.images(400, 1)), toy.rng())
    assert isinstance(sight, Sight)
    assert (sight.covariance is not None) == imputed
