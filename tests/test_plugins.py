"""What every plug-in owes, whichever file it comes from: a new file is covered without an edit here."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy

from networks import small
from splitveil import config, runs
from splitveil.attacks.base import Attack, Victim
from splitveil.bounds.base import Bound
from splitveil.config import Spec
from splitveil.data import Access, load, to_float
from splitveil.defenses.base import Defense, Features, Step
from splitveil.errors import AccessError, UserError
from splitveil.model import SplitModel
from splitveil.registry import KINDS, Registry
from splitveil.zoo import Parts, decoders

IMAGES = load("digits", train_size=40, test_size=10)
X, Y = to_float(IMAGES.train.images), IMAGES.train.labels
FIRST = {  # the command line relies on these
    "gaussian": "sigma", "cem": "weight", "dropout": "ratio", "topk": "ratio", "patrol": "epoch",
    "adversarial": "weight", "nopeek": "weight",
}  # fmt: skip
DEFENSES = Registry("defenses").names()
ATTACKS = Registry("attacks").names()
SMALL = {
    "epochs": 1, "start_epochs": 1, "steps": 2, "iterations": 2, "restarts": 1, "looks": 1, "network": "custom",
    "batch_size": 8, "width": 8, "size": 16, "draws": 2, "tuning": 3, "critic_steps": 2,
}  # fmt: skip
"""Settings that make an attack quick, by the names that attacks give them."""
SMALL_DEFENSE = {"iterations": 3, "tau": 2.0, "network": "custom"}
"""The same for defenses."""


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def build(monkeypatch):
    """From the names of defenses to a model with them, as a training builds it."""

    def make(*defenses: str, seed: int = 0) -> SplitModel:
        def seeded(*given: Any, **more: Any) -> Parts:
            parts = small(*given, **more)
            torch.manual_seed(seed)  # what the defenses draw when they are installed
            return parts

        monkeypatch.setattr(runs.zoo, "build", seeded)
        quick = [Spec.model_validate(text).resolve("defenses") for text in defenses]
        quick = [spec.model_copy(update={"parameters": spec.parameters | small_of(spec.parameters)}) for spec in quick]
        settings = config.parse({"data": "digits", "defense": quick, "epochs": 999}).resolve()
        try:
            with torch.random.fork_rng():
                return runs.build_model(settings, IMAGES)
        except UserError as error:
            if "pip install" in str(error):
                pytest.skip(str(error))
            raise

    return make


def small_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in SMALL_DEFENSE.items() if name in parameters}


def stacks() -> list[tuple[str, ...]]:
    alone = [("gaussian", "cem") if name == "cem" else (name,) for name in DEFENSES]
    with_cem = [("gaussian", "cem", name) for name in DEFENSES if name not in ("gaussian", "cem")]
    return alone + with_cem


def train_step(model: SplitModel, seed: int = 0) -> dict[str, torch.Tensor]:
    """One step and one refit, as the training loop does them; leaves the gradients."""
    stack: Any = model.defense
    generator = rng(seed)
    model.train()
    for parameter in model.parameters():
        parameter.grad = None
    stack.before_step(X, Y, model)
    z = model.features(X)
    wire = model.protect(z, generator)
    logits = model.tail(wire)
    losses = {"task": cross_entropy(logits, Y)}
    losses |= stack.losses(Step(X, Y, z, wire, logits, generator, 0.01, 0.5, model))
    torch.stack(list(losses.values())).sum().backward()
    if stack.wants_features:
        flat = z.detach().flatten(1)
        stack.refit(0, Features(flat, Y, len(IMAGES.classes), generator, lambda: (flat, Y)))
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_every_plugin_says_what_it_is(kind):
    described = Registry(kind).describe()
    assert described
    for name, line in described:
        assert 10 < len(line) <= 120, f"{kind}: {name}"  # `splitveil list` shows it whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_misspelt_name_is_answered_with_the_right_one(kind):
    found = Registry(kind)
    for name in found.names():
        with pytest.raises(UserError, match="did you mean '") as error:
            found.get(name + "x" if name + "x" not in found.names() else name + "xx")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("base", [Attack, Bound, Defense])
def test_a_plugin_without_settings_of_its_own_asks_for_none(base):
    assert not inspect.signature(type("Own", (base,), {})).parameters  # else the command line would want `args`


# Defenses


@pytest.mark.parametrize("name", DEFENSES)
def test_defense_is_made_of_its_name_alone(name):
    target = Registry("defenses").get(name)
    assert issubclass(target, Defense)
    resolved = Spec(name=name).resolve("defenses")
    assert isinstance(resolved.make("defenses"), target)
    # What a run's config.yaml says must be what it was trained with.
    written = config.dump(config.parse({"data": "digits", "defense": [resolved]}))
    assert config.parse(yaml.safe_load(written)).defense[0].resolve("defenses") == resolved
    first = next(iter(inspect.signature(target).parameters), None)
    assert first == FIRST.get(name, first)


@pytest.mark.parametrize("names", stacks(), ids="+".join)
def test_defense_trains_and_comes_back(build, tmp_path, names):
    model = build(*names)
    stack: Any = model.defense
    own = {id(p) for p in stack.own_parameters()}
    for seed in range(2):  # the second step has what the first refit left
        losses = train_step(model, seed)
        assert all(value.ndim == 0 and bool(value.isfinite()) for value in losses.values())
    trained = [p for p in model.encoder.parameters() if p.requires_grad and id(p) not in own and p.grad is not None]
    assert all(bool(p.grad.isfinite().all()) for p in trained)  # type: ignore[union-attr]
    model.eval()
    wire = model.encode(X, rng(7))
    assert wire.isfinite().all()
    assert len(wire) == len(X)
    assert torch.equal(wire, model.encode(X, rng(7)))  # all randomness is the generator's
    assert stack.noise_variance() >= 0
    leakage = stack.leakage()
    assert leakage is None or leakage >= 0
    runs.save_weights(model, tmp_path / "w.safetensors")
    again = build(*names, seed=1)  # what is not saved comes out otherwise
    runs.load_weights(again, tmp_path / "w.safetensors")
    assert torch.equal(again.eval().encode(X, rng(7)), wire)
    assert torch.equal(again(X, rng(7)), model(X, rng(7)))
    assert again.defense.leakage() == leakage  # type: ignore[union-attr, operator]
    elsewhere = build(*names).to("meta")  # a device that every machine has, as a GPU is one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is copied to it
        runs.load_weights(elsewhere, tmp_path / "w.safetensors")
    assert {value.device.type for value in elsewhere.state_dict().values() if torch.is_tensor(value)} == {"meta"}


@pytest.mark.parametrize("names", stacks(), ids="+".join)
def test_defense_ignores_the_global_generator(build, names):
    model = build(*names).eval()
    torch.manual_seed(1)
    first = model.encode(X, rng(3))
    torch.manual_seed(2)
    assert torch.equal(first, model.encode(X, rng(3)))


@pytest.mark.parametrize("names", stacks()[: len(DEFENSES)], ids="+".join)
def test_added_noise_has_at_least_the_variance_that_it_claims(build, names):
    model = build(*names).eval()
    claimed = model.defense.noise_variance()  # type: ignore[union-attr, operator]
    if not claimed:
        pytest.skip("adds no independent noise of its own")
    x = X[:1].expand(200, -1, -1, -1)
    measured = float(model.encode(x, rng(1)).detach().var(0).mean())
    assert measured >= 0.95 * claimed  # CEM's bound relies on it; more noise keeps the bound


# Attacks


def quick(name: str) -> Any:
    parameters = inspect.signature(Registry("attacks").get(name)).parameters
    return Spec(name=name, parameters={k: v for k, v in SMALL.items() if k in parameters}).make("attacks")


def victim(build, grants: frozenset[Access] = frozenset(Access)) -> Victim:
    return Victim(build("gaussian:0.05"), grants)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_made_of_its_name_alone(name):
    target = Registry("attacks").get(name)
    assert isinstance(Spec(name=name).make("attacks"), target)
    assert target.needs <= frozenset(Access)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_gives_images_and_repeats_itself(build, name):
    found = []
    for noise in (1, 2):
        torch.manual_seed(noise)  # must not matter
        attack, seen, generator = quick(name), victim(build), rng(5)
        attack.fit(seen, IMAGES.train, generator)
        wire = seen.query(to_float(IMAGES.test.images), generator)
        labels = IMAGES.test.labels if Access.LABELS in attack.needs else None
        images = attack.reconstruct(wire, labels)
        assert images.shape == IMAGES.test.images.shape
        assert images.dtype == torch.float32
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        assert all(value == value for value in attack.curve())
        found.append(images)
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_takes_several_looks_at_each_image(build, name):
    attack, generator = quick(name), rng(5)
    seen = Victim(build("laplace:0.05", "dropout:0.3"), frozenset(Access), 3).of(attack)
    few = IMAGES.test.subset(torch.arange(3))
    attack.fit(seen, IMAGES.train.subset(torch.arange(20)), generator)
    wire = seen.query(to_float(few.images), generator)
    assert wire.shape == ((3, 3, 8, 8, 8) if attack.all_looks else (3, 8, 8, 8))
    images = attack.reconstruct(wire, few.labels if Access.LABELS in attack.needs else None)
    assert images.shape == few.images.shape
    assert bool(images.isfinite().all())


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_leaves_the_victim_alone(build, name):
    seen = victim(build)
    before = copy.deepcopy(seen._model.state_dict())
    quick(name).fit(seen, IMAGES.train, rng())
    after = seen._model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if isinstance(before[k], torch.Tensor))
    assert not seen._model.training


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_without_access_is_refused(build, name):
    for missing in Registry("attacks").get(name).needs:
        with pytest.raises(AccessError, match=f"needs {missing.value}; the protocol grants") as error:
            quick(name).fit(victim(build, frozenset(Access) - {missing}), IMAGES.train, rng())
        assert "\n" not in str(error.value)


# Decoders, networks, data sets


@pytest.mark.parametrize("name", Registry("zoo.decoders").names())
@pytest.mark.parametrize(("shape", "size"), [((8, 8, 8), 32), ((8, 12, 12), 48), ((3, 5, 5), 17)])
def test_decoder_makes_images(name, shape, size):
    decoder = decoders.build(name.replace("NnCc", "N1C8"), feature_shape=shape, image_size=size)
    images = decoder(torch.rand(2, *shape, generator=rng()))
    assert images.shape == (2, 3, size, size)
    assert bool(((images >= 0) & (images <= 1)).all())
    images.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in decoder.parameters())


@pytest.mark.parametrize("name", Registry("zoo").names())
def test_network_builders_take_what_the_trainer_gives(name):
    parameters = inspect.signature(Registry("zoo").get(name)).parameters
    assert next(iter(parameters)) == "arch"
    assert {"cut", "classes", "image_size", "bottleneck"} <= set(parameters)


@pytest.mark.parametrize("name", Registry("data").names())
def test_loaders_take_what_the_command_line_gives(name):
    parameters = inspect.signature(Registry("data").get(name)).parameters
    assert next(iter(parameters)) == "root"
    assert {"download", "train_size", "test_size"} <= set(parameters)
