"""The decoder without a fixed length: when its rate is cut, when it ends, what it reaches; shared trainings."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

import toy
from splitveil.attacks import _rounding
from splitveil.attacks._plateau import CUT, Plateau
from splitveil.attacks.base import Attack, Runtime, Victim
from splitveil.attacks.decoder import DecoderAttack
from splitveil.config import Spec
from splitveil.data import Access
from splitveil.errors import UserError
from splitveil.runtime import Budget
from splitveil.zoo import decoders
from toy import rng

ALL = frozenset(Access)
SMALL: dict[str, Any] = {"network": "dense_normN0C16", "batch_size": 64, "lr": 1e-2}


def victim(sigma: float = 0.05) -> Victim:
    return Victim(toy.model(48, sigma, (12, 2, 2))[0], ALL)


def read(errors: list[float], steps: int = 100, patience: int = 4) -> tuple[list[float], list[float], Runtime]:
    """Rates of the steps, the weight in the end, and the work of a training whose held-out errors are these."""
    net, rates = nn.Linear(1, 1), []
    optimizer = torch.optim.SGD(net.parameters(), 1.0)
    plateau, runtime, told = Plateau(steps, patience, 1.0), Runtime(), iter(errors)
    state: dict[str, Any] = {"net": net, "optimizer": optimizer}
    loop, weights = plateau.loop(runtime, "net", state, rng()), []
    for number in loop:
        for _ in plateau.batches(loop, 10, 2):
            rates.append(optimizer.param_groups[0]["lr"])
        weights.append(float(net.weight.detach()))
        net.weight.data.fill_(number)
        plateau.read(loop, net, next(told))
    return rates, weights, runtime


def test_the_rate_is_cut_where_the_error_stalls_and_the_best_weights_go_on():
    rates, weights, runtime = read([5.0, 4.0, 3.0, 3.1, 3.2, 3.3, 3.1, 2.0, 2.1, 2.1, 2.1, 2.1, 1.999, 1.999, 2.0, 2.0])
    steps = [b / a for a, b in itertools.pairwise(rates)]
    assert [i + 1 for i, step in enumerate(steps) if step < 0.5] == [7, 12]
    assert min(steps) == pytest.approx(CUT, rel=0.1)
    assert weights[7] == 2  # where the error was 3.0
    assert runtime.loops[0].done == 16  # 1.999 against 2.0 is not what a cut must bring
    assert not runtime.cut


@pytest.mark.parametrize(("budget", "taken"), [(None, 40), (Budget(steps=20), 20)])
def test_an_error_that_falls_takes_all_steps_and_ends_at_the_floor_of_a_cosine(budget, taken):
    net, rates = nn.Linear(1, 1), []
    state: dict[str, Any] = {"net": net, "optimizer": torch.optim.SGD(net.parameters(), 1.0)}
    plateau, runtime = Plateau(40, 8, 1.0), Runtime(budget=budget)
    loop = plateau.loop(runtime, "net", state, rng())
    for number in loop:
        for _ in plateau.batches(loop, 10, 4):
            rates.append(state["optimizer"].param_groups[0]["lr"])
        plateau.read(loop, net, 0.9**number)
    assert rates == pytest.approx([1e-5 + (1 - 1e-5) * (1 + math.cos(math.pi * k / taken)) / 2 for k in range(taken)])
    assert runtime.cut == ({"net": (20, 40)} if budget else {})


def test_every_image_is_drawn_before_one_is_drawn_again():
    net = nn.Linear(1, 1)
    state: dict[str, Any] = {"net": net, "optimizer": torch.optim.SGD(net.parameters(), 1.0)}
    plateau = Plateau(20, 40, 1.0)
    loop = plateau.loop(Runtime(), "net", state, rng())
    rounds = []
    for _ in loop:
        rounds.append(torch.cat(list(plateau.batches(loop, 7, 3))))
        plateau.read(loop, net, 1.0)
    assert [len(one) for one in rounds] == [30, 30]
    for one in rounds:
        for part in one[:28].split(7):
            assert sorted(part.tolist()) == list(range(7))
    assert not torch.equal(*rounds)


@pytest.mark.usefixtures("affine_decoder")
def test_it_ends_by_itself_no_worse_than_the_fixed_recipe_of_as_many_steps():
    images, settings = toy.images(400, 1), {"network": "affine", "batch_size": 64, "lr": 2e-2}
    attack, runtime = DecoderAttack(steps=10000, patience=40, **settings), Runtime()
    attack.fit(victim(), images, rng(), runtime)
    taken = runtime.loops[0].done
    assert 80 < taken < 3000
    assert not runtime.cut
    fixed = DecoderAttack(epochs=math.ceil(taken / math.ceil(360 / 64)), **settings)
    fixed.fit(victim(), images, rng())
    assert min(attack.curve()) < 1.05 * min(fixed.curve())


def test_a_training_that_diverges_says_so(monkeypatch):
    monkeypatch.setattr(DecoderAttack, "error", lambda *_: math.nan)
    with pytest.raises(UserError, match=r"decoder: the error is nan in every epoch; lower lr \(0.01\)"):
        DecoderAttack(steps=100, patience=8, **SMALL).fit(victim(), toy.images(50, 1), rng())


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_a_step_is_computed_in_bf16_where_the_hardware_is_and_everything_else_in_fp32(monkeypatch, precision, dtype):
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    class Watched(nn.Conv2d):
        def forward(self, x):
            found = super().forward(x)
            seen[self.training].add(found.dtype)
            return found

    built = decoders.build
    monkeypatch.setattr(decoders, "build", lambda *a, **k: nn.Sequential(built(*a, **k), Watched(3, 3, 1)))
    monkeypatch.setattr(_rounding, "precision", lambda *_: precision)
    attack, seen_by = DecoderAttack(epochs=2, **SMALL), victim()
    attack.fit(seen_by, toy.images(200, 1), rng())
    found = attack.reconstruct(seen_by.query(toy.pixels(toy.images(5, 2)), rng()))
    assert seen == {True: {dtype}, False: {torch.float32}}
    assert found.dtype == torch.float32
    assert {weight.dtype for weight in attack.decoder.parameters()} == {torch.float32}


def test_a_wire_with_a_large_offset_is_not_rounded_away(monkeypatch):
    monkeypatch.setattr(_rounding, "precision", lambda *_: "bf16-mixed")
    wire = torch.randn(100, 4, 2, 2, generator=rng())
    assert _rounding.in_bf16(wire)
    assert _rounding.in_bf16(1e6 * wire.relu())
    assert not _rounding.in_bf16(wire + 1000)
    one = wire.clone()
    one[:, 0, 0, 0] += 100  # a single entry
    assert not _rounding.in_bf16(one)


def test_a_resumed_training_computes_as_it_began(tmp_path, monkeypatch):
    """The wires of the first step decide once: those of a later step may lie on the other side of the limit."""
    from splitveil import runtime as work_room

    monkeypatch.setattr(work_room, "KEEP_EVERY", -1.0)
    monkeypatch.setattr(_rounding, "precision", lambda *_: "bf16-mixed")

    def fit(runtime: Runtime) -> DecoderAttack:
        attack = DecoderAttack(epochs=3, **SMALL)
        attack.fit(victim(), toy.images(200, 1), rng(), runtime)
        return attack

    def stop(done: int, planned: int, error: float) -> None:
        if done == 4:  # in the second of three epochs of three steps
            raise KeyboardInterrupt

    whole = fit(Runtime()).decoder.state_dict()
    with pytest.raises(KeyboardInterrupt):
        fit(Runtime(stop, store=tmp_path))
    monkeypatch.setattr(_rounding, "LOST", -1.0)
    runtime = Runtime(store=tmp_path)
    resumed = fit(runtime).decoder.state_dict()
    assert runtime.loops[0].state["precision"] == "bf16"
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_resumed_training_goes_on_counting_the_looks(tmp_path, monkeypatch):
    """It was flagged for one look at each image, though it had had one in each epoch."""
    from splitveil import runtime as work_room

    monkeypatch.setattr(work_room, "KEEP_EVERY", -1.0)

    def looks(runtime: Runtime) -> float:
        seen = victim()
        runtime.tally = seen.tally
        DecoderAttack(epochs=3, **SMALL).fit(seen, toy.images(200, 1), rng(), runtime)
        return seen.looks()

    def stop(done: int, planned: int, error: float) -> None:
        if done == 7:
            raise KeyboardInterrupt

    whole = looks(Runtime())
    with pytest.raises(KeyboardInterrupt):
        looks(Runtime(stop, store=tmp_path))
    assert looks(Runtime(store=tmp_path)) == whole >= 3


# Shared trainings

OPEN = "network=dense_normN0C16,batch_size=64"
SAME = {
    "decoder": f"decoder:steps=60,patience=40,{OPEN}",
    "refine": f"refine:steps=3,start=decoder,start_steps=60,patience=40,draws=1,tuning=4,{OPEN}",
    "gan": f"gan:steps=8,critic_steps=1,warm_steps=60,patience=40,width=4,{OPEN}",
}


def made(
    text: str, runtime: Runtime, images: int = 1, seed: int = 0, sigma: float = 0.05
) -> tuple[Attack, torch.Tensor]:
    attack: Attack = Spec.model_validate(text).resolve("attacks").make("attacks")
    seen, generator = victim(sigma), rng(seed)
    attack.fit(seen, toy.images(200, images), generator, runtime)
    found = attack.reconstruct(seen.query(toy.pixels(toy.images(5, 2)), generator))
    return attack, torch.cat([found.flatten(), torch.tensor([seen.looks()])])


@pytest.mark.parametrize("order", [("decoder", "refine", "gan"), ("gan", "refine", "decoder")])
def test_one_training_serves_all_attacks_and_gives_what_each_would_have_had(order):
    fits: dict[str, Any] = {}
    for name in order:
        alone, shared = Runtime(), Runtime(fits=fits)
        expected, found = made(SAME[name], alone)[1], made(SAME[name], shared)[1]
        assert torch.equal(found, expected)
        assert bool(shared.shared_seconds) == (name != order[0])
        assert [loop.name for loop in shared.loops] == [loop.name for loop in alone.loops]
    assert len(fits) == 1


@pytest.mark.parametrize(
    "other", [{"images": 3}, {"seed": 1}, {"sigma": 0.06}, {"text": SAME["decoder"].replace("steps=60", "steps=61")}]
)
def test_another_training_is_not_shared(other):
    fits: dict[str, Any] = {}
    made(SAME["decoder"], Runtime(fits=fits))
    runtime = Runtime(fits=fits)
    made(**{"text": SAME["decoder"], "runtime": runtime, **other})
    assert len(fits) == 2
    assert not runtime.shared_seconds


def test_what_a_budget_may_end_is_not_shared():
    fits: dict[str, Any] = {}
    made(SAME["decoder"], Runtime(fits=fits, budget=Budget(steps=30)))
    assert not fits


def test_a_stopped_attack_goes_on_where_the_shared_training_is_gone(tmp_path, monkeypatch):
    """Checkpoints are numbered as if every training had been made here."""
    from splitveil import runtime as work_room

    monkeypatch.setattr(work_room, "KEEP_EVERY", -1.0)
    fits: dict[str, Any] = {}
    made(SAME["decoder"], Runtime(fits=fits))
    expected = made(SAME["refine"], Runtime())[1]

    def stop(done: int, planned: int, error: float) -> None:
        if planned == 3 and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(SAME["refine"], Runtime(stop, store=tmp_path, fits=fits))
    assert (tmp_path / "001.pt").is_file()
    assert torch.equal(made(SAME["refine"], Runtime(store=tmp_path))[1], expected)
