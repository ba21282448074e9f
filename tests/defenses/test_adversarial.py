"""The proxy: one pass gives both players the gradients of two; a resumed training goes on bit by bit."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from splitveil import config, runs
from splitveil.data import load
from splitveil.defenses.adversarial import Adversarial
from splitveil.defenses.adversarial_noise import AdversarialNoise
from splitveil.defenses.base import Step
from splitveil.errors import UserError
from splitveil.metrics import ssim
from splitveil.training.trainer import fit
from wires import rng, with_wire

NETWORK = "conv_normN0C16"


def prepared(cls, *arguments, **more):
    torch.manual_seed(0)
    if cls is Adversarial:
        more = {"share": 1.0} | more
    defense = cls(*arguments, network=NETWORK, **more)
    defense.install(with_wire())
    x = torch.rand(6, 3, 12, 12, generator=rng(1))
    z = torch.rand(6, 4, 3, 3, generator=rng(2)).requires_grad_()
    noise = 0.1 * torch.randn(z.shape, generator=rng(3))
    step = Step(x, torch.zeros(6).long(), z, z + noise, torch.zeros(6, 3), rng(4), 0.1, 0.0, with_wire())
    return defense, step


@pytest.mark.parametrize("objective", ["ssim", "mse"])
def test_one_pass_gives_the_gradients_of_two(objective):
    threshold = 0.0 if objective == "ssim" else 1.0
    defense, step = prepared(Adversarial, 0.7, objective=objective, threshold=threshold)
    reference = copy.deepcopy(defense.proxy.decoder)
    loss = defense.loss(step)
    loss.backward()

    def similarity(wire):
        seen = reference(wire)
        if objective == "mse":
            return -(seen - step.x).square().mean()
        return ssim(seen, step.x).mean()

    wire = step.wire.detach().requires_grad_()
    value = similarity(wire)
    assert value > (0 if objective == "ssim" else -1)
    (for_encoder,) = torch.autograd.grad(0.7 * value, wire)
    reference.zero_grad()
    (-similarity(step.wire.detach())).backward()
    assert step.z.grad is not None
    assert torch.allclose(step.z.grad, for_encoder, atol=1e-7)
    for ours, theirs in zip(defense.proxy.decoder.parameters(), reference.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)
    expected = 0.7 * (value - 0 if objective == "ssim" else value + 1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("cls", [Adversarial, AdversarialNoise])
@pytest.mark.parametrize("size", [12, 16, 8])
def test_the_published_similarity_surrounds_images_with_black(cls, size):
    """Published: a depthwise 11 × 11 convolution with padding 5, here written out. 8 pixels know no other."""
    torch.manual_seed(0)
    x, wire = torch.rand(6, 3, size, size, generator=rng(1)), torch.rand(6, 4, 3, 3, generator=rng(2))
    defense = cls(0.3, objective="ssim", network=NETWORK, padding="zero")
    defense.proxy.decoder = nn.Upsample(size)
    seen = wire[:, :3]
    taps = torch.exp(-(torch.arange(11.0) - 5).square() / (2 * 1.5**2))
    window = (taps[:, None] * taps / taps.sum() ** 2).expand(3, 1, 11, 11)

    def blur(image):
        return conv2d(image, window, padding=5, groups=3)

    y = nn.Upsample(size)(seen)
    a, b = blur(x), blur(y)
    va, vb, vab = blur(x * x) - a * a, blur(y * y) - b * b, blur(x * y) - a * b
    expected = ((2 * a * b + 1e-4) * (2 * vab + 9e-4)) / ((a * a + b * b + 1e-4) * (va + vb + 9e-4))
    assert defense.proxy.similarity(seen, x).item() == pytest.approx(expected.mean().item(), abs=1e-5)
    whole = cls(0.3, objective="ssim", network=NETWORK)
    whole.proxy.decoder = defense.proxy.decoder
    assert (whole.proxy.similarity(seen, x) == defense.proxy.similarity(seen, x)).item() == (size == 8)


@pytest.mark.parametrize("cls", [Adversarial, AdversarialNoise])
def test_another_padding_is_refused(cls):
    with pytest.raises(UserError, match="padding is 'same'; expected valid or zero"):
        cls(0.3, padding="same")  # pyright: ignore[reportArgumentType]


def test_the_encoder_lowers_and_the_proxy_raises_the_similarity():
    defense, step = prepared(Adversarial, 1.0, threshold=0.0)
    before = defense.proxy.similarity(step.wire, step.x).item()
    defense.loss(step).backward()
    assert step.z.grad is not None
    moved = step.wire - 1.0 * step.z.grad
    assert defense.proxy.similarity(moved, step.x).item() < before
    for _ in range(20):
        defense.proxy.learn()
        defense.loss(step).backward()
    assert defense.proxy.similarity(step.wire, step.x).item() > before


def test_below_the_threshold_only_the_proxy_learns():
    defense, step = prepared(Adversarial, 1.0, threshold=1.0)
    loss = defense.loss(step)
    loss.backward()
    assert loss.item() == 0
    assert step.z.grad is not None
    assert step.z.grad.abs().max() == 0
    assert all(p.grad is not None for p in defense.own_parameters())


def test_a_share_of_the_batch_is_all_that_the_proxy_sees():
    half, step = prepared(Adversarial, 1.0, threshold=0.0, share=0.5)
    half.loss(step).backward()
    assert step.z.grad is not None
    touched = step.z.grad.flatten(1).abs().sum(1) > 0
    assert touched.tolist() == [True] * 3 + [False] * 3
    assert half.proxy.similarity(step.wire[:3], step.x[:3]).item() == pytest.approx(half.loss(step).item())


def test_other_losses_pass_by_the_reversal():
    defense, step = prepared(Adversarial, 0.0)
    (step.wire.sum() + defense.loss(step)).backward()
    assert step.z.grad is not None
    assert torch.equal(step.z.grad, torch.ones_like(step.z))


def test_pretraining_spares_the_encoder_until_its_epochs_have_passed():
    defense, step = prepared(Adversarial, 1.0, threshold=0.0, pretrain=2)
    values = []
    for epoch in range(3):
        values.append(defense.loss(step).item())
        defense.restructure(epoch, None)
    assert values[:2] == [0, 0]
    assert values[2] > 0


def test_more_steps_train_the_proxy_more():
    once, step = prepared(Adversarial, 1.0)
    thrice, _ = prepared(Adversarial, 1.0, steps=3)
    for defense in (once, thrice):
        defense.loss(step).backward()
        defense.proxy.learn()
    steps = [next(iter(d.proxy.adam.state.values()))["step"].item() for d in (once, thrice)]
    assert steps == [1, 3]


def test_adversarial_noise_moves_the_reconstruction_towards_the_mean_image():
    defense, step = prepared(AdversarialNoise, 0.05)
    defense.eval()
    wire = defense.on_wire(step.z, rng())
    assert (wire - step.z).abs().flatten().detach().numpy() == pytest.approx(0.05, abs=1e-6)

    def distance(v):
        return (defense.proxy.decoder(v) - defense.mean_image).square().sum().item()

    assert distance(wire) < distance(step.z)
    alone = torch.cat([defense.on_wire(z[None], rng()) for z in step.z])
    assert torch.allclose(alone, wire, atol=1e-6)  # no image's wire depends on its neighbors
    with torch.no_grad():
        assert torch.equal(defense.on_wire(step.z, rng(9)), wire)


def test_adversarial_noise_trains_its_proxy_and_nothing_else():
    defense, step = prepared(AdversarialNoise, 0.05)
    loss = defense.loss(step)
    loss.backward()
    assert loss.item() == 0
    assert step.z.grad is None
    before = defense.proxy.similarity(step.wire, step.x).item()
    for _ in range(20):
        defense.before_step(step.x, step.y, None)
        defense.loss(step).backward()
    assert defense.proxy.similarity(step.wire, step.x).item() > before
    assert not torch.equal(defense.mean_image, torch.full_like(defense.mean_image, 0.5))


@pytest.mark.parametrize("name", ["adversarial", "adversarial_noise"])
def test_a_resumed_training_is_the_same_bit_by_bit(name, tmp_path: Path, small):
    images = load("digits", train_size=30, test_size=20)
    values = {
        "data": "digits",
        "arch": "resnet20_sgm",
        "cut": 1,
        "bottleneck": 2,
        "epochs": 2,
        "batch_size": 10,
    }
    values |= {"train_size": 30, "test_size": 20, "defense": ["gaussian:0.1", {name: {"network": NETWORK}}]}
    settings = config.parse(values)
    fit(settings, images, tmp_path / "whole")

    def stop(epoch: int, done: int, record: dict) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(settings, images, tmp_path / "parts", progress=stop)
    fit(settings, images, tmp_path / "parts", resume=True)
    whole, parts = (torch.load(tmp_path / n / "checkpoint" / "last.pt", weights_only=True) for n in ("whole", "parts"))
    for key, value in whole["model"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, parts["model"][key]), key
    x = images.test.images[:4].float() / 255
    wires = [runs.Run.open(tmp_path / n).model(images).encode(x, rng()) for n in ("whole", "parts")]
    assert torch.equal(*wires)
