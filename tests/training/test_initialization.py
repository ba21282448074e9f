"""Initial weights with which every layer answers with unit variance, and dropout that is left out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import splitveil as sv
from splitveil import zoo
from splitveil.defenses.dropout import Dropout
from splitveil.defenses.gaussian import Gaussian
from splitveil.model import SplitModel
from splitveil.training.initialization import LAYERS, scale_to_unit_variance
from splitveil.training.trainer import Trainer
from training_helpers import IMAGES, settings


def pixels(count: int = 64, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def scaled(model: SplitModel, x: torch.Tensor) -> SplitModel:
    scale_to_unit_variance(model, x, torch.Generator().manual_seed(0))
    return model


def of_the_zoo(arch: str, **more) -> SplitModel:
    parts = zoo.build(arch, classes=10, image_size=32, bottleneck=zoo.Bottleneck(8), **more)
    return SplitModel(parts.encoder, parts.tail, defense=[Gaussian(0.025)], example=pixels(1))


def weight_of(layer: nn.Module) -> torch.Tensor:
    return layer.get_parameter("weight").detach().clone()


def answers(model: SplitModel, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each layer answers in training, without dropout."""
    found: dict[str, torch.Tensor] = {}

    def hook(name: str):
        def look(_, __, answer: torch.Tensor) -> None:
            found.setdefault(name, answer.detach().clone())

        return look

    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LAYERS)]
    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers]
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    with torch.no_grad():
        model(x, torch.Generator().manual_seed(0))
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(("arch", "cut"), [("vgg11_bn_sgm", 4), ("resnet20_sgm", 2), ("mobilenetv2_sgm", 2)])
def test_every_layer_but_the_last_answers_with_unit_variance(arch, cut):
    x = pixels()
    model = scaled(of_the_zoo(arch, cut=cut), x)
    found = answers(model, x)
    *hidden, last = found
    for name in hidden:
        axis = found[name].ndim - 1 if found[name].ndim == 2 else 1
        mean = found[name].mean([a for a in range(found[name].ndim) if a != axis], keepdim=True)
        assert float((found[name] - mean).std()) == pytest.approx(1, abs=0.05), name
        if model.get_submodule(name).bias is not None:  # a layer without one precedes a norm
            assert mean.abs().max() < 0.05, name
    assert float(found[last].std()) != pytest.approx(1, abs=0.05)


def test_the_sigmoid_before_the_wire_starts_where_it_is_steep():
    x = pixels()
    drawn = of_the_zoo("vgg11_bn_sgm", cut=4).train()
    flat = float((drawn.features(x) - 0.5).abs().gt(0.48).float().mean())
    steep = float((scaled(drawn, x).features(x) - 0.5).abs().gt(0.48).float().mean())
    assert flat > 0.1
    assert steep < 0.01


def test_statistics_of_norms_modes_and_frozen_layers_stay():
    model = of_the_zoo("vgg11_bn_sgm", cut=4).train()
    first = model.encoder.get_submodule("blocks.0.0")
    first.requires_grad_(False)
    before = {name: value.clone() for name, value in model.named_buffers()}
    frozen = weight_of(first)
    scaled(model, pixels())
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert torch.equal(weight_of(first), frozen)
    assert all(module.training for module in model.modules())


def test_a_layer_that_answers_the_same_to_every_image_is_left():
    encoder = nn.Conv2d(3, 2, 1)
    nn.init.zeros_(encoder.weight)
    model = scaled(SplitModel(encoder, nn.Sequential(nn.Flatten(), nn.Linear(8, 2))), pixels(4, 2))
    assert not encoder.weight.any()
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_the_fast_recipe_scales_and_a_resumed_training_does_not_again(tmp_path):
    from splitveil.training.fabric import Fabric

    def made(**values):
        return Trainer(settings(**values).resolve(), IMAGES, tmp_path, Fabric(accelerator="cpu", devices=1)).model

    drawn, unit = made(), made(unit_variance=True)
    changed = [not torch.equal(a, b) for a, b in zip(drawn.parameters(), unit.parameters(), strict=True)]
    assert any(changed)
    again = made(unit_variance=True)
    assert all(torch.equal(a, b) for a, b in zip(unit.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("used", [True, False])
def test_dropout_of_the_network_is_used_as_the_recipe_says_and_that_of_defenses_always(tmp_path, monkeypatch, used):
    from splitveil.training.fabric import Fabric

    made = Trainer(
        settings(defense=("dropout:0.5",), network_dropout=used, arch="vgg11_bn_sgm", cut=4, data="digits").resolve(),
        IMAGES,
        tmp_path,
        Fabric(accelerator="cpu", devices=1),
    )
    modes: list[tuple[bool, bool]] = []

    def step(*_):
        own = [m.training for m in made.model.tail.modules() if isinstance(m, nn.Dropout)]
        assert own
        defense = next(m for m in made.stack.modules() if isinstance(m, Dropout))
        modes.append((all(own), defense.training))
        return {"task": torch.zeros(())}

    monkeypatch.setattr(made, "_step", step)
    made._epoch(0, None)
    assert set(modes) == {(used, True)}


def test_a_network_of_ones_own_keeps_its_weights_unless_told():
    torch.manual_seed(0)
    x, y = pixels(8, 8), torch.arange(8) % 2
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
    before = weight_of(network[0])
    model = sv.split(network, at="1", example=x[:1])
    sv.fit(model, (x, y), epochs=1, batch_size=8, lr=1e-9, weight_decay=0, progress=False)
    torch.testing.assert_close(weight_of(model.encoder.get_submodule("0")), before, atol=1e-5, rtol=0)
    assert model.trained_by["unit_variance"] is False
    assert model.trained_by["network_dropout"] is True
