"""What an attack learns of hidden entries and of offsets before its training, within its budget."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import toy
from splitveil import runtime as runtime_module
from splitveil.attacks._seen_through import seen_through
from splitveil.attacks.base import Victim
from splitveil.config import Spec
from splitveil.data import Access, Split
from splitveil.defenses.base import Stack
from splitveil.runtime import Budget, Runtime

ALL = frozenset(Access)
HIDING = {
    "hidden": ("dropout:0.5",),
    "covered": ("dropout:0.5", "gaussian:0.001"),
    "offsets": ("shredder:weight=1,size=4,scale=0.5",),
    "offsets over hidden": ("dropout:0.2", "shredder:weight=1,size=4,scale=0.5"),
}
SLOW = 0.25
"""Seconds that a look at a batch takes."""


def victim(*specs: str) -> Victim:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = toy.defended(*specs)
        model.defense.install(SimpleNamespace(wire_shape=(12, 2, 2), defense=model.defense))
    return Victim(model, ALL)


def decoder() -> Spec:
    return Spec.model_validate("decoder:epochs=2,network=dense_normN0C16,batch_size=64")


@pytest.mark.parametrize("specs", HIDING.values(), ids=HIDING)
def test_a_budget_of_steps_holds_each_pass(specs):
    """They were no loops, so that `--budget` and `--dry-run` waited for the whole of them."""
    box, runtime = victim(*specs), Runtime(budget=Budget(steps=1))
    sight = seen_through(box, box.observe(toy.images(600, 1)), toy.rng(), runtime=runtime)
    assert sight is not None
    assert runtime.loops
    assert all(loop.done == 1 for loop in runtime.loops)
    assert any("looks" in name and done < wanted for name, (done, wanted) in runtime.cut.items())


@pytest.mark.parametrize("specs", HIDING.values(), ids=HIDING)
@pytest.mark.parametrize("name", ["linear", "decoder"])
def test_a_budget_of_time_holds_the_whole_attack(name, specs, monkeypatch):
    """A look at a batch takes a quarter of a second here: all looks would take minutes."""
    now, send = [0.0], Stack.on_wire
    monkeypatch.setattr(runtime_module.time, "perf_counter", lambda: now[0])

    def slow(self, z, rng):
        now[0] += SLOW
        return send(self, z, rng)

    monkeypatch.setattr(Stack, "on_wire", slow)
    spec = decoder() if name == "decoder" else Spec.model_validate(name)
    made, runtime = spec.resolve("attacks").make("attacks"), Runtime(budget=Budget(seconds=15.0))
    made.fit(victim(*specs), toy.images(3000, 1), toy.rng(), runtime)
    # Each loop takes at least one step, which is 16 looks at most, and there are six such loops at most.
    assert now[0] < 15 + 6 * 16 * SLOW + 5
    assert runtime.cut


def test_what_a_budget_leaves_has_images_of_all_classes():
    """They are sorted by class here: the first batch would be black."""
    half = toy.images(1500, 1)
    dark = Split(torch.cat([half.images // 2, half.images]), torch.arange(2).repeat_interleave(1500))
    box = victim("dropout:0.5")
    sight = seen_through(box, box.observe(dark), toy.rng(), runtime=Runtime(budget=Budget(steps=1)))
    assert sight is not None
    assert float(sight.pixels.mean()) == pytest.approx(0.375, abs=0.03)


@pytest.mark.parametrize("specs", HIDING.values(), ids=HIDING)
def test_a_pass_that_is_stopped_goes_on(specs, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime_module, "KEEP_EVERY", -1.0)
    monkeypatch.setattr("splitveil.attacks._gathered.BATCH", 16)
    images, wire = toy.images(100, 1), victim(*specs).query(toy.pixels(toy.images(3, 2)), toy.rng(3))

    def answers(runtime: Runtime) -> torch.Tensor:
        made = decoder().resolve("attacks").make("attacks")
        made.fit(victim(*specs), images, toy.rng(), runtime)
        return made.reconstruct(wire)

    calls: list[int] = []
    whole = answers(Runtime(lambda *_: calls.append(1)))
    for stop in sorted({1, 2, len(calls) // 2, len(calls) - 1}):
        store, left = tmp_path / str(stop), [stop]

        def progress(*_, left=left):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            answers(Runtime(progress, store=store))
        assert torch.equal(answers(Runtime(store=store)), whole)
