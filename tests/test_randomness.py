"""Random streams: nothing of their description is cut off, and the wire's noise cannot be searched for."""

import itertools

import pytest
import torch
from torch import nn

from splitveil import randomness
from splitveil.defenses.gaussian import Gaussian
from splitveil.model import SplitModel
from splitveil.randomness import fresh_generator, seed_layers, stream


def first_numbers(rng):
    return tuple(torch.randint(2**62, (2,), generator=rng).tolist())


def test_twenty_thousand_descriptions_share_no_stream():
    seeds = [*range(20), 2**32, 2**32 + 1, 2**40, 2**63 - 1, 125]
    tuples = list(itertools.product(seeds, range(8), range(0, 125, 5), range(4)))
    assert len(tuples) == 20_000
    assert len({first_numbers(stream("cpu", *parts)) for parts in tuples}) == len(tuples)


@pytest.mark.parametrize(
    ("one", "other"), [((1,), (1 + 2**32,)), ((1, 2), (12,)), ((1, 23), (12, 3)), ((0, 1), (1, 0)), ((5,), (5, 0))]
)
def test_descriptions_that_look_alike_are_told_apart(one, other):
    assert first_numbers(stream("cpu", *one)) != first_numbers(stream("cpu", *other))


def test_numbers_are_those_of_a_fair_source():
    x = torch.randn(400_000, generator=stream("cpu", 3))
    assert abs(float(x.mean())) < 0.01
    assert abs(float(x.std()) - 1) < 0.01
    assert abs(float(x.pow(4).mean()) - 3) < 0.1


def test_fresh_noise_does_not_follow_from_a_seed():
    """Whoever tries the seeds around the one that the generator reports finds none that repeats the wire's noise."""
    model = SplitModel(nn.Identity(), nn.Flatten(), defense=Gaussian(1.0))
    rng = fresh_generator()
    reported = rng.initial_seed()
    noise = model.protect(torch.zeros(1, 512), rng).flatten()
    scores = []
    for seed in range(2**14):
        guess = torch.Generator().manual_seed((reported & ~(2**14 - 1)) + seed)
        scores.append(torch.randn(1, 512, generator=guess).flatten() @ noise / noise.norm())
    assert float(torch.stack(scores).abs().max()) < 7  # the true one scores about 22, a wrong one at most about 4


def test_fresh_generators_all_differ():
    assert len({first_numbers(fresh_generator()) for _ in range(2000)}) == 2000


def test_an_unknown_layout_of_the_state_is_refused(monkeypatch):
    monkeypatch.setattr(randomness, "STATE_BYTES", 16)
    with pytest.raises(RuntimeError, match="keeps a CPU generator's state"):
        fresh_generator()


def test_layers_follow_from_the_whole_generator():
    drawn = []
    for seed in (7, 7, 7 + 2**32):
        with torch.random.fork_rng():
            seed_layers(stream("cpu", seed))
            drawn.append(nn.Linear(4, 4).weight.detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_layers_leave_the_generator_where_it_was():
    rng = stream("cpu", 1)
    before = rng.get_state()
    with torch.random.fork_rng():
        seed_layers(rng)
    assert torch.equal(before, rng.get_state())
