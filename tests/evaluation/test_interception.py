"""One wire of each image for all attacks, and the attacker who chooses without the truth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from splitveil.attacks.base import Victim
from splitveil.data import Access, Split
from splitveil.evaluation import evaluate, stage, suites
from splitveil.evaluation.interception import Interception, hold_out, wire_distance
from splitveil.model import SplitModel
from splitveil.runs import Run
from splitveil.statistics.best_attacker import DISTANCE, PER_IMAGE, best_attacker
from training_helpers import IMAGES
from training_helpers import fit as train

ALL = frozenset(Access)


class Noise(torch.nn.Module):
    def __init__(self, sigma: float):
        super().__init__()
        self.sigma = sigma

    def on_wire(self, z, rng):
        return z + self.sigma * torch.randn(z.shape, generator=rng)


def tap(sigma: float = 0.3, seed: int = 0, protocol: str = "inference_time", observed: int = 1) -> Interception:
    model = SplitModel(torch.nn.Identity(), torch.nn.Identity(), defense=Noise(sigma))
    return Interception(Victim(model, ALL, observed), seed, protocol)


def some(count: int = 8) -> torch.Tensor:
    return torch.randint(256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_an_image_has_the_same_wire_in_any_batch_and_order():
    images = some()
    together = tap().wires(images)
    apart = torch.cat([tap().wires(images[i : i + 1]) for i in range(len(images))])
    assert torch.equal(together, apart)
    assert torch.equal(tap().wires(images.flip(0)), together.flip(0))


@pytest.mark.parametrize("other", [{"seed": 1}, {"protocol": "train_time"}])
def test_another_run_or_protocol_has_other_noise(other):
    assert not torch.equal(tap().wires(some()), tap(**other).wires(some()))


def test_noise_differs_between_images_and_has_its_size():
    noise = (tap().wires(some(64)) - some(64) / 255).flatten(1)
    assert float(noise.std()) == pytest.approx(0.3, rel=0.03)
    assert float(noise.corrcoef().fill_diagonal_(0).abs().max()) < 0.4


def test_the_first_of_several_looks_is_the_single_look():
    one, two = tap().wires(some()), tap(observed=2).wires(some())
    assert float((2 * two - one - some() / 255).std()) == pytest.approx(0.3, rel=0.1)


def test_defenses_of_one_seed_share_their_noise():
    """What makes two runs comparable in pairs."""
    small, large = (tap(sigma).wires(some()) - some() / 255 for sigma in (0.1, 0.2))
    assert torch.allclose(2 * small, large, atol=1e-6)


def test_judges_are_few_disjoint_and_the_same_for_all_attacks():
    images = Split(some(400), torch.zeros(400, dtype=torch.long))
    held, own = hold_out(images, 3)
    assert (len(held), len(own)) == (32, 368)
    seen = {image.numpy().tobytes() for image in held.images}
    assert not seen & {image.numpy().tobytes() for image in own.images}
    assert held.digest() == hold_out(images, 3)[0].digest() != hold_out(images, 4)[0].digest()
    assert [len(part) for part in hold_out(images.subset(torch.arange(19)), 0)] == [0, 19]


def test_the_distance_of_the_truth_is_one_and_that_of_another_image_more():
    one, images = tap(), some(64)
    wires, rng = one.wires(images), torch.Generator().manual_seed(0)
    truth = wire_distance(one.victim, images / 255, wires, rng)
    # The mean over 8 draws has an eighth of the noise's variance.
    assert float(truth.mean()) == pytest.approx(1 + 1 / 8, rel=0.05)
    assert bool((wire_distance(one.victim, images.flip(0) / 255, wires, rng) > truth).all())


def test_copies_of_an_attack_have_the_worst_case_of_one(tmp_path, small, monkeypatch):
    train(tmp_path, defense=("gaussian:0.4",))
    run = Run.open(tmp_path)
    copies = {f"linear{i}": spec for i, spec in enumerate(suites.specs(*["linear:looks=1"] * 4))}
    monkeypatch.setattr(suites, "named", lambda name: dict(copies))
    found = suites.run_suite(run, "copies", IMAGES, protocol_name="train_time")
    alone = evaluate.attack_run(run, copies["linear0"], IMAGES, protocol_name="train_time")
    assert found["worst_case"]["mse"] == found["best_attacker"]["mse"] == alone["mse"]


def columns(**values: list[float]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_the_best_attack_is_chosen_on_held_out_images_only():
    held = {"a": columns(mse=[0.2, 0.3]), "b": columns(mse=[0.1, 0.2])}
    attacked = {"a": columns(mse=[0.0, 0.0]), "b": columns(mse=[1.0, 1.0])}
    best = best_attacker(held, attacked)
    assert best is not None
    assert (best.name, best.chosen) == ("b", ["b", "b"])
    assert best.held_out == pytest.approx({"a": 0.25, "b": 0.15})


def test_an_attack_that_was_not_judged_leaves_no_best():
    assert best_attacker({"a": columns(mse=[])}, {"a": columns(mse=[0.1])}) is None
    assert best_attacker({"a": columns(mse=[0.1])}, {"a": columns(mse=[0.1]), "b": columns(mse=[0.1])}) is None


def test_the_choice_per_image_follows_the_wire_where_it_tells():
    """Each attack is right on half of the images, and its wire says on which."""
    generator = torch.Generator().manual_seed(0)

    def found(count: int) -> dict[str, dict[str, torch.Tensor]]:
        good = torch.rand(count, generator=generator) < 0.5
        return {
            name: {"mse": torch.where(hit, 0.01, 0.1), DISTANCE: torch.where(hit, 1.0, 5.0)}
            for name, hit in (("a", good), ("b", ~good))
        }

    held, attacked = found(32), found(100)
    best = best_attacker(held, attacked)
    assert best is not None
    assert best.name == PER_IMAGE
    assert best.held_out[PER_IMAGE] == pytest.approx(0.01)
    assert all(attacked[name]["mse"][i] < 0.05 for i, name in enumerate(best.chosen))


def test_a_distance_that_tells_nothing_is_not_followed():
    generator = torch.Generator().manual_seed(0)

    def noise(n: int, level: float) -> dict[str, torch.Tensor]:
        return {"mse": level + 0.01 * torch.rand(n, generator=generator), DISTANCE: torch.rand(n, generator=generator)}

    best = best_attacker({"a": noise(32, 0.1), "b": noise(32, 0.2)}, {"a": noise(9, 0.1), "b": noise(9, 0.2)})
    assert best is not None
    assert set(best.chosen) == {"a"}


def test_without_the_weights_no_distance_is_seen(tmp_path, small, monkeypatch):
    train(tmp_path, defense=("gaussian:0.1",))
    real = stage.protocol
    monkeypatch.setattr(stage, "protocol", lambda *a, **o: replace(real(*a, **o), grants=frozenset({Access.QUERY})))
    (spec,) = suites.specs("linear:looks=1")
    outcome = evaluate.evaluate(Run.open(tmp_path), spec, IMAGES)
    assert DISTANCE not in outcome.values
    assert set(outcome.held_out) == {"mse"}


def test_the_distance_is_that_of_the_one_wire_that_several_make():
    several = tap(0.3, observed=4)
    images = some(200)
    distance = wire_distance(several.victim, images / 255, several.wires(images), torch.Generator().manual_seed(0))
    # The mean of the answer's own draws has an eighth of the noise.
    assert float(distance.mean()) == pytest.approx(1 + 1 / 8, rel=0.1)
