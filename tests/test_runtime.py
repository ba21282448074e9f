"""Budget, stopping and going on: of the loop itself, of every attack that is registered, and of the command."""

from __future__ import annotations

import inspect
import json
import math
from typing import Any

import pytest
import torch
from torch import nn

import toy
from evaluated import IMAGES
from splitveil import runtime as runtime_module
from splitveil.attacks.base import BATCH, Victim, seen
from splitveil.config import Spec
from splitveil.data import Access, Split, to_float
from splitveil.defenses.gaussian import Gaussian
from splitveil.errors import UserError
from splitveil.evaluation import evaluate, rehearsal, reliability
from splitveil.model import SplitModel
from splitveil.registry import Registry
from splitveil.runs import Run
from splitveil.runtime import Budget, Runtime
from toy import rng

SMALL = {"epochs": 2, "steps": 4, "restarts": 2, "looks": 1, "network": "custom", "batch_size": 8, "draws": 1}
SMALL |= {"tuning": 2, "samples": 2, "width": 8, "start": "linear", "patience": 4}
OTHERS = (
    "decoder:epochs=2,network=custom,batch_size=8",
    "decoder:steps=60,patience=8,network=custom,batch_size=8,lr=0.1",
    "gan:epochs=2,network=custom,width=8,batch_size=8",
    "refine:steps=4,start=decoder,start_steps=6,patience=4,network=custom,batch_size=8,draws=1,tuning=2",
)
"""Further ways of attacks that have several."""


class Stopped(Exception):
    """As a killed process: it comes at any moment."""


def stop_at(count: int):
    """A bar that ends the attack at its ``count``-th call."""
    calls = []

    def progress(*_: object) -> None:
        calls.append(1)
        if len(calls) == count:
            raise Stopped

    return progress


def small(name: str) -> Spec:
    if ":" in name:
        return Spec.model_validate(name)
    known = inspect.signature(Registry("attacks").get(name)).parameters
    return Spec(name=name, parameters={k: v for k, v in SMALL.items() if k in known})


# The loop


def count(runtime: Runtime, rounds: int, per_round: int = 1) -> dict[str, Any]:
    """A loop that adds up its steps and draws."""
    state: dict[str, Any] = {"sum": 0.0, "tensor": torch.zeros(2)}
    loop = runtime.loop("count", rounds, state, rng(), per_round=per_round)
    for i in loop:
        for step in loop.steps(range(per_round)) if per_round > 1 else [i]:
            state["sum"] += step + 1
            state["tensor"] += torch.rand(2, generator=loop.rng)
    return state


def test_a_budget_of_steps_ends_a_loop_in_the_middle_of_a_round():
    runtime = Runtime(budget=Budget(steps=5))
    assert count(runtime, 4, 3)["sum"] == 1 + 2 + 3 + 1 + 2
    assert runtime.cut == {"count": (5, 12)}
    assert count(Runtime(budget=Budget(steps=12)), 4, 3)["sum"] == 24


def test_a_budget_of_time_is_shared_and_leaves_one_step_to_each(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(runtime_module.time, "perf_counter", lambda: now[0])
    runtime, taken = Runtime(budget=Budget(seconds=10.0)), []
    for _ in runtime.each("abc"):
        loop = runtime.loop("steps", 100, {}, rng())
        for _ in loop:
            now[0] += 1.0
        taken.append(loop.done)
    assert taken == [4, 3, 3]  # 10/3 s, rounded up to a step; then halves of what is left
    now[0] += 100
    late = runtime.loop("late", 9, {}, rng())
    assert list(late) == [0]
    assert late.fraction == 1


def test_time_that_passed_before_a_stop_counts(tmp_path, monkeypatch):
    """Ten seconds, stopped after six: four steps of a second are left."""
    now = [0.0]
    monkeypatch.setattr(runtime_module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(runtime_module, "KEEP_EVERY", -1.0)

    def steps(until: float) -> int:
        loop = Runtime(budget=Budget(seconds=10.0), store=tmp_path).loop("x", 100, {}, rng())
        for _ in loop:
            now[0] += 1.0
            if now[0] >= until:
                raise Stopped
        return loop.done

    with pytest.raises(Stopped):
        steps(until=7.0)  # the seventh step was not kept
    now[0] = 1000.0  # what passes between the two does not count
    assert steps(until=math.inf) == 10


def test_the_rate_falls_to_its_floor_over_what_may_be_spent():
    parameter = nn.Parameter(torch.zeros(1))
    for budget in (None, Budget(steps=6)):
        optimizer, rates = torch.optim.Adam([parameter], 1.0), []
        loop = Runtime(budget=budget).loop("x", 12, {}, rng())
        for _ in loop:
            loop.anneal(optimizer, 1.0, 0.1)
            rates.append(optimizer.param_groups[0]["lr"])
        reference = torch.optim.Adam([parameter], 1.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(reference, len(rates), eta_min=0.1)
        for rate in rates:
            assert rate == pytest.approx(reference.param_groups[0]["lr"])
            reference.step()
            schedule.step()
    assert len(rates) == 6


@pytest.mark.parametrize("text", ["0", "-3", "0s", "1.5", "ten", "5d", ""])
def test_bad_budgets(text):
    with pytest.raises(UserError, match=f"the budget is '{text}'; expected more than 0: steps of an optimization"):
        Budget.parse(text)


def test_a_loop_that_forgets_its_steps_is_a_bug():
    with pytest.raises(RuntimeError, match="pass them through"):
        list(Runtime().loop("x", 2, {}, rng(), per_round=3))


def test_a_damaged_checkpoint_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime_module, "KEEP_EVERY", -1.0)
    whole = count(Runtime(store=tmp_path), 3)
    again = count(Runtime(store=tmp_path), 3)  # ended before: nothing is done again
    assert again["sum"] == whole["sum"] == 6
    assert torch.equal(again["tensor"], whole["tensor"])
    (tmp_path / "000.pt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"000\.pt is damaged .*; remove .* to begin the attack again"):
        count(Runtime(store=tmp_path), 3)


# Every attack


def pixels(n: int, seed: int) -> Split:
    return Split(
        torch.randint(256, (n, 3, 8, 8), generator=rng(seed), dtype=torch.uint8), torch.zeros(n, dtype=torch.long)
    )


def attack(name: str, runtime: Runtime) -> torch.Tensor:
    """Reconstructions of a few small images by an attack with small settings."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Conv2d(3, 12, 4, 4), nn.Sigmoid())
    victim = Victim(SplitModel(encoder, nn.Flatten(), defense=Gaussian(0.1)), frozenset(Access))
    generator, made = rng(7), small(name).resolve("attacks").make("attacks")
    made.fit(victim, pixels(33, 1), generator, runtime)
    return made.reconstruct(victim.query(to_float(pixels(5, 2).images), generator), torch.zeros(5, dtype=torch.long))


@pytest.mark.parametrize("name", [*Registry("attacks").names(), *OTHERS])
def test_every_attack_stopped_anywhere_ends_as_if_it_had_not_been(name, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime_module, "KEEP_EVERY", -1.0)
    calls: list[int] = []
    whole = attack(name, Runtime(lambda *_: calls.append(1)))
    for stop in {2, len(calls) // 2, len(calls) - 1} & set(range(1, len(calls))):
        store = tmp_path / str(stop)
        with pytest.raises(Stopped):
            attack(name, Runtime(stop_at(stop), store=store))
        assert torch.equal(attack(name, Runtime(store=store)), whole)


@pytest.mark.parametrize("name", [*Registry("attacks").names(), *OTHERS])
def test_every_attack_keeps_to_its_budget(name):
    runtime = Runtime(budget=Budget(steps=1))
    attack(name, runtime)
    assert all(loop.done == 1 for loop in runtime.loops)
    if "steps" in small(name).parameters or "epochs" in small(name).parameters:
        assert runtime.loops


# A run


@pytest.fixture
def run(evaluated_folder):
    return Run.open(evaluated_folder)


def test_a_stopped_attack_of_a_run_goes_on_and_cleans_up(run, monkeypatch):
    monkeypatch.setattr(runtime_module, "KEEP_EVERY", -1.0)
    spec = Spec.model_validate("decoder:epochs=3,network=custom,batch_size=32")
    whole = evaluate.attack_run(run, spec, IMAGES, label="whole")
    with pytest.raises(Stopped):
        evaluate.attack_run(run, spec, IMAGES, label="parts", progress=stop_at(7))
    left = run.path / "attacks" / "parts"
    assert (left / "partial" / "000.pt").is_file()
    assert not (left / "summary.json").exists()
    other = evaluate.attack_run(run, spec, IMAGES, label="parts", seed=1)  # another attack: not from these
    assert other["mse"] == evaluate.evaluate(run, spec, IMAGES, seed=1).summary["mse"]
    with pytest.raises(Stopped):
        evaluate.attack_run(run, spec, IMAGES, label="parts", progress=stop_at(7))
    again = evaluate.attack_run(run, spec, IMAGES, label="parts")
    assert again["mse"] == whole["mse"]
    assert again["curve"] == whole["curve"]
    assert not (left / "partial").exists()


def test_a_budget_is_written_down_and_flagged(run):
    spec = Spec.model_validate("decoder:epochs=3,network=custom,batch_size=32")
    summary = evaluate.attack_run(run, spec, IMAGES, label="short", budget=Budget(steps=5))
    assert summary["budget"] == {"steps": 5, "seconds": None, "cut": {"decoder": (5, 9)}}
    assert any(flag.startswith("the budget ended decoder after 5 of 9 steps") for flag in summary["flags"])
    assert json.loads((run.path / "attacks/short/summary.json").read_text())["budget"]["cut"] == {"decoder": [5, 9]}
    assert reliability.cut_short({}) == []


def test_a_dry_run_counts_the_steps_and_writes_nothing(run):
    before = sorted(run.path.rglob("*"))
    spec = Spec.model_validate("rmle:steps=7,restarts=3,start=mean,tv=0,l2=1")
    found = rehearsal.rehearse(run, spec, IMAGES, attacked=4)
    assert found["loops"] == [["rmle exact", 7]] * 3
    assert found["needs"] == ["query", "weights"]
    assert found["images"]["attacked"] == 4
    assert found["seconds"] > 0
    assert sorted(run.path.rglob("*")) == before


def test_estimates_scale_with_rounds_and_steps(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(runtime_module.time, "perf_counter", lambda: now[0])
    loop = Runtime(budget=Budget(steps=2)).loop("x", 5, {}, rng(), per_round=10)
    for _ in loop:
        for _ in loop.steps(range(10)):
            now[0] += 1.0
        now[0] += 3.0  # what each round costs besides its steps
    assert loop.full_seconds() == pytest.approx(5 * (10 * 1 + 3))


# Several wires of one image


def test_the_mean_of_several_wires_has_less_noise():
    model, _ = toy.model(48, 0.2)
    z = torch.zeros(BATCH, 48)
    assert float(seen(model, z, rng(), 4).std()) == pytest.approx(0.1, rel=0.03)
    assert torch.equal(seen(model, z, rng()), model.protect(z, rng()))
    with pytest.raises(UserError, match="observed is 0; expected at least 1"):
        Victim(model, frozenset(), 0)


def test_several_wires_help_as_much_as_less_noise():
    """Four looks at noise σ are worth one at σ/2, and the attack has learned from such means too."""
    truth = toy.images(400, 2)
    errors = {}
    for sigma, observed in ((0.2, 4), (0.1, 1), (0.2, 1)):
        model, _ = toy.model(48, sigma)
        victim, linear = Victim(model, frozenset({Access.QUERY}), observed), Registry("attacks").get("linear")()
        linear.fit(victim, toy.images(2000, 1), rng())
        found = linear.reconstruct(victim.query(toy.pixels(truth), rng(3)))
        errors[sigma, observed] = float((found - toy.pixels(truth)).square().mean())
    assert errors[0.2, 4] == pytest.approx(errors[0.1, 1], rel=0.03)
    assert errors[0.2, 4] < 0.9 * errors[0.2, 1]


@pytest.mark.parametrize("limit", [{"steps": 0}, {"steps": -1}, {"seconds": 0.0}, {"seconds": float("nan")}])
def test_a_budget_of_nothing_is_no_budget_without_a_limit(limit):
    with pytest.raises(UserError, match="expected more than 0, or None for no limit"):
        Budget(**limit)
