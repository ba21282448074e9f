"""The attacks where the answer is known, and the decoder's manners: what it chooses on, and when noise is drawn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import toy
from splitveil import metrics
from splitveil.attacks import decoder as decoder_module
from splitveil.attacks.base import Observations, Runtime, Victim
from splitveil.attacks.decoder import DecoderAttack
from splitveil.attacks.linear import LinearAttack
from splitveil.data import Access, load, to_float
from splitveil.defenses.base import Defense
from splitveil.defenses.gaussian import Gaussian
from splitveil.errors import AccessError, UserError
from splitveil.model import SplitModel
from splitveil.statistics import intervals
from toy import rng


@pytest.mark.parametrize(("m", "sigma"), [(24, 0.02), (48, 0.05), (96, 0.2)])
def test_the_linear_attack_reaches_the_mmse_and_goes_no_lower(m, sigma):
    model, weight = toy.model(m, sigma)
    mmse = toy.mmse(weight, sigma)
    assert mmse < 0.9 * toy.VARIANCE  # the wire says something
    victim, test = Victim(model, frozenset(Access)), toy.images(1500, 2)
    attack = LinearAttack(looks=2)
    attack.fit(victim, toy.images(6000, 3), rng())
    truth = to_float(test.images)
    interval = intervals.bootstrap_ci(metrics.mse(attack.reconstruct(victim.query(truth, rng(4))), truth))
    assert interval.mean == pytest.approx(mmse, rel=0.05)
    assert interval.hi > mmse  # nobody beats the MMSE


def test_the_linear_attack_without_signal_answers_the_mean():
    model, _ = toy.model(24, 50.0)
    victim, test = Victim(model, frozenset(Access)), toy.images(200, 2)
    attack = LinearAttack()
    attack.fit(victim, toy.images(400, 3), rng())
    images = attack.reconstruct(victim.query(to_float(test.images), rng()))
    assert float((images - toy.MEAN).abs().max()) < 0.05


def test_the_linear_attack_needs_five_images():
    model, _ = toy.model(8, 0.1)
    with pytest.raises(UserError, match="linear: the attacker has 4 images; expected at least 5"):
        LinearAttack().fit(Victim(model, frozenset(Access)), toy.images(4, 0), rng())
    with pytest.raises(UserError, match="linear: looks is 0"):
        LinearAttack(looks=0)


# The victim


def digits_victim(defense: Defense | None = None, grants: frozenset[Access] = frozenset(Access)) -> Victim:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4), nn.Sigmoid())
        return Victim(SplitModel(encoder, nn.Flatten(), defense=defense or Gaussian(0.1)), grants)


def test_what_is_not_granted_is_refused():
    nothing = digits_victim(grants=frozenset())
    split = load("digits", train_size=10).train
    for ask in (
        lambda: nothing.query(to_float(split.images), rng()),
        lambda: nothing.observe(split),
        lambda: nothing.white_box(),
        lambda: nothing.logits(torch.zeros(1, 4, 8, 8)),
    ):
        with pytest.raises(AccessError, match="the protocol grants nothing"):
            ask()
    query = digits_victim(grants=frozenset({Access.QUERY}))
    with pytest.raises(AccessError, match=r"needs weights, labels; the protocol grants query"):
        query.require(Access.QUERY, Access.WEIGHTS, Access.LABELS)
    assert query.query(to_float(split.images), rng()).shape == (10, 4, 8, 8)


@pytest.mark.parametrize("cached", [True, False])
def test_every_look_draws_the_noise_anew(monkeypatch, cached):
    from splitveil import victim

    monkeypatch.setattr(victim, "CACHE_BYTES", 2**30 if cached else 0)
    split = load("digits", train_size=300).train
    seen, generator = digits_victim().observe(split), rng()
    index = torch.tensor([3, 280, 3])
    first, second = seen.wire(index, generator), seen.wire(index, generator)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[2])
    assert torch.equal(seen.wire(index, rng(1)), seen.wire(index, rng(1)))
    direct = digits_victim().query(to_float(split.images[index]), rng(1))
    torch.testing.assert_close(seen.wire(index, rng(1)), direct, rtol=0, atol=1e-6)


# The decoder


class Spy(Defense):
    """Counts what crosses the wire, and with which noise."""

    def __init__(self):
        super().__init__()
        self.seen: list[Tensor] = []

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        noise = torch.randn(z.shape, generator=rng)
        self.seen.append(noise)
        return z + 0.1 * noise


def decoder_fit(monkeypatch, errors: list[float] | None = None):
    states: list[dict[str, Tensor]] = []
    modes: list[tuple[bool, bool]] = []
    real = DecoderAttack.error

    def spy(self, held_out: Observations, rng: torch.Generator) -> float:
        value = real(self, held_out, rng)
        modes.append((self.decoder.training, len(held_out) == 4))
        states.append({k: v.clone() for k, v in self.decoder.state_dict().items()})
        return errors[len(states) - 1] if errors else value

    monkeypatch.setattr(DecoderAttack, "error", spy)
    attack = DecoderAttack(epochs=3, network="conv_normN0C8", batch_size=16)
    defense = Spy()
    attack.fit(digits_victim(defense), load("digits", train_size=40).train, rng())
    return attack, states, modes, defense


@pytest.mark.parametrize(("errors", "best"), [([0.3, 0.1, 0.2], 1), ([0.3, 0.2, 0.1], 2), ([0.1, 0.1, 0.1], 0)])
def test_the_decoder_keeps_its_best_epoch(monkeypatch, errors, best):
    attack, states, modes, _ = decoder_fit(monkeypatch, errors=errors)
    kept = attack.decoder.state_dict()
    assert all(torch.equal(kept[k], states[best][k]) for k in kept)
    assert attack.curve() == errors
    assert modes == [(False, True)] * 3  # judged in evaluation mode, on a tenth of the attacker's own images


def test_the_decoder_sees_fresh_noise_in_every_batch(monkeypatch):
    _, _, _, defense = decoder_fit(monkeypatch)
    trained = [noise for noise in defense.seen if len(noise) == 16]
    assert len(trained) == 6  # 36 images: two batches of 16 and one of 4, in three epochs
    rows = torch.cat(trained).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows)
    # The judge's noise is the same in every epoch, so that epochs are compared on equal terms.
    tried = [noise for noise in defense.seen if len(noise) == 4]
    assert sum(torch.equal(a, b) for a in tried for b in tried) == len(tried) + 6


def test_reconstruction_is_in_evaluation_mode():
    victim, split = digits_victim(), load("digits", train_size=40).train
    attack = DecoderAttack(epochs=1, network="conv_normN0C8")
    attack.fit(victim, split, rng())
    attack.decoder.train()
    wire = victim.query(to_float(split.images), rng())
    together = attack.reconstruct(wire)
    before = {k: v.clone() for k, v in attack.decoder.state_dict().items()}
    torch.testing.assert_close(attack.reconstruct(wire[:1])[0], together[0], atol=1e-5, rtol=0)
    assert all(torch.equal(v, before[k]) for k, v in attack.decoder.state_dict().items())


def test_the_decoder_learns():
    images = load("digits")
    attack = DecoderAttack(epochs=6, network="conv_normN0C8", batch_size=32, lr=5e-3)
    victim = digits_victim(Gaussian(0.01))
    attack.fit(victim, images.train.subset(torch.arange(500)), rng())
    truth = to_float(images.test.images[:100])
    found = attack.reconstruct(victim.query(truth, rng()))
    mean = to_float(images.train.images[:500]).mean(0).expand_as(truth)
    assert float(metrics.mse(found, truth).mean()) < 0.6 * float(metrics.mse(mean, truth).mean())
    assert attack.curve()[-1] < attack.curve()[0]


def test_fitting_again_starts_again():
    victim, split = digits_victim(), load("digits", train_size=20).train
    attack = DecoderAttack(epochs=2, network="custom")
    attack.fit(victim, split, rng())
    first = attack.curve()
    attack.fit(victim, split, rng())
    assert attack.curve() == first


def test_progress_counts_the_steps():
    calls: list[tuple[int, int, float]] = []
    attack = DecoderAttack(epochs=2, network="custom", batch_size=8)
    attack.fit(digits_victim(), load("digits", train_size=20).train, rng(), Runtime(lambda *call: calls.append(call)))
    assert [done for done, _, _ in calls] == list(range(1, 7))
    assert {total for _, total, _ in calls} == {6}
    assert calls[-1][2] == attack.curve()[0]


def test_a_diverging_decoder_says_so(monkeypatch):
    with pytest.raises(UserError, match="decoder: the error is nan in every epoch; lower lr") as error:
        decoder_fit(monkeypatch, errors=[float("nan")] * 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch_size": 1}])
def test_bad_decoder_settings(bad):
    with pytest.raises(UserError, match=f"decoder: .*{next(iter(bad))} "):
        DecoderAttack(**bad)


def test_the_decoder_needs_three_images():
    with pytest.raises(UserError, match="decoder: the attacker has 2 images; expected at least 3"):
        DecoderAttack().fit(digits_victim(), load("digits", train_size=2).train, rng())


def test_held_out_images_are_not_trained_on(monkeypatch):
    parts = []
    real = Victim.observe

    def spy(self, split):
        parts.append(split)
        return real(self, split)

    monkeypatch.setattr(decoder_module.Victim, "observe", spy)
    split = load("digits", train_size=40).train
    DecoderAttack(epochs=1, network="custom").fit(digits_victim(), split, rng())
    held_out, train = parts
    assert len(held_out) == 4
    together = torch.cat([held_out.images, train.images]).flatten(1)
    assert torch.equal(together.unique(dim=0), split.images.flatten(1).unique(dim=0))
    assert len(together) == 40
