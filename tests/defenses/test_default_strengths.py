"""A defense that is named without a strength must move the encoder, or a user concludes that its kind protects nothing.

Strengths differ in kind and are not compared with each other; asked is only that the task does not drown them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from networks import small
from splitveil import config, runs
from splitveil.data import load, to_float
from splitveil.defenses.base import Defense, Features, Step
from splitveil.model import SplitModel
from splitveil.registry import Registry

IMAGES = load("digits", train_size=200, test_size=10)
X, Y = to_float(IMAGES.train.images), IMAGES.train.labels
LR = config.parse({"data": "digits"}).lr
"""The highest rate of a training, at which the published schedule of `cem` gives least of λ."""
WITH_LOSS = [name for name in Registry("defenses").names() if Registry("defenses").get(name).loss is not Defense.loss]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(*defenses: str) -> SplitModel:
    settings = config.parse({"data": "digits", "defense": ("gaussian", *defenses), "epochs": 999}).resolve()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return runs.build_model(settings, IMAGES)


@pytest.fixture(scope="module")
def trained() -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights of an encoder and a tail that know their digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.zoo, "build", small)
        model = build().train()
    optimizer, generator = torch.optim.Adam(model.parameters(), 0.005), rng()
    hits = 0.0
    for _ in range(25):
        for index in torch.randperm(len(X), generator=generator).split(50):
            logits = model.tail(model.protect(model.features(X[index]), generator))
            optimizer.zero_grad()
            cross_entropy(logits, Y[index]).backward()
            optimizer.step()
            hits = float((logits.argmax(1) == Y[index]).float().mean())
    assert hits > 0.9
    return model.encoder.state_dict(), model.tail.state_dict()


def pulls(model: SplitModel) -> list[tuple[float, float]]:
    """Norms of the defense's gradient and the task's at z, after some steps in which only the defense learns.

    Where its loss does not depend on z, at what it has learned itself; [] where it learns nothing for the network.
    """
    stack: Any = model.train().defense
    generator = rng()
    proxies = stack.own_parameters()
    learned = [p for p in stack.parameters() if all(p is not own for own in proxies)]
    z = model.features(X).detach().flatten(1)
    if stack.wants_features:
        stack.refit(0, Features(z, Y, len(IMAGES.classes), generator, lambda *_: (z, Y)))
    for index in torch.randperm(len(X), generator=generator)[: 12 * 8].split(8):
        losses(model, index, generator)[1].backward()
    z, total, task = losses(model, torch.arange(100), generator)
    targets = [target for target in [z, *learned] if target.requires_grad]
    own = torch.autograd.grad(total, targets, retain_graph=True, allow_unused=True)
    of_task = torch.autograd.grad(task, targets, allow_unused=True)
    at = slice(1) if own[0] is not None else slice(1, None)
    return [(norm(a), norm(b)) for a, b in zip(own[at], of_task[at], strict=True)]


def losses(model: SplitModel, index: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """z, the defense's loss and the task's, as in a step of training."""
    stack: Any = model.defense
    x, y = X[index], Y[index]
    stack.before_step(x, y, model)
    z = model.features(x)
    wire = model.protect(z, generator)
    logits = model.tail(wire)
    of_defense = stack.loss(Step(x, y, z, wire, logits, generator, LR, 0.5, model))
    return z, of_defense, cross_entropy(logits, y)


def norm(gradient: torch.Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.norm())


def defended(trained: tuple[dict[str, Any], dict[str, Any]], spec: str, monkeypatch: pytest.MonkeyPatch) -> SplitModel:
    monkeypatch.setattr(runs.zoo, "build", small)
    model = build(spec)
    model.encoder.load_state_dict(trained[0])
    model.tail.load_state_dict(trained[1])
    return model


@pytest.mark.parametrize("name", WITH_LOSS)
def test_the_default_pulls_with_at_least_a_hundredth_of_the_task(trained, name, monkeypatch):
    found = pulls(defended(trained, name, monkeypatch))
    if not found:
        pytest.skip("its loss trains nothing but its own proxy")
    assert all(own >= 0.01 * task for own, task in found), f"{name}: {found}"


@pytest.mark.parametrize("spec", ["hsic:label_weight=0", "hsic:weight=0"])
def test_both_terms_of_hsic_pull(trained, spec, monkeypatch):
    ((own, task),) = pulls(defended(trained, spec, monkeypatch))
    assert own >= 0.01 * task


def test_the_plain_form_of_hsic_does_not_pull_which_is_why_it_is_no_default(trained, monkeypatch):
    ((own, task),) = pulls(defended(trained, "hsic:form=plain", monkeypatch))
    assert 0 < own < 0.001 * task
