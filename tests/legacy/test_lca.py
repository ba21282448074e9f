"""The LCA layer of the published ResNet-20: lca-pytorch's with its defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from published import layouts, save_layout
from splitveil.defenses.sparse_coding_conv_released import ReleasedConvLCA, SparseCodingConvReleased
from splitveil.errors import UserError
from splitveil.legacy import import_checkpoint
from splitveil.legacy.fitting import _stub
from splitveil.runs import Run

pytestmark = pytest.mark.usefixtures("quick_weights")


def by_the_book(z: Tensor, weights: Tensor, threshold: float, steps: int, tau: float) -> Tensor:
    """The same from its formulas, with every correlation taken from the atoms' own pictures, in float64."""
    z, weights = z.double(), weights.double()
    z = (z - z.mean((1, 2, 3), keepdim=True)) / z.std((1, 2, 3), keepdim=True)
    pad = weights.shape[-1] // 2
    u = torch.zeros(len(z), len(weights), *z.shape[2:], dtype=torch.float64)
    a = u
    square = weights.square().sum((1, 2, 3))[:, None, None]
    for _ in range(steps):
        a = (u - threshold).clamp_min(0)
        # Dᵀ D a by making the picture of a and looking at it, on a margin so wide that no atom is cut off.
        wide = functional.pad(a, [2 * pad + 1] * 4)
        picture = functional.conv_transpose2d(wide, weights)
        seen = functional.conv2d(picture, weights)[:, :, 2 * pad + 1 : -2 * pad - 1, 2 * pad + 1 : -2 * pad - 1]
        u = u + (functional.conv2d(z, weights, padding=pad) - u - (seen - square * a)) / tau
    return a


@pytest.mark.parametrize(("kernel", "steps", "tau"), [(5, 200, 100.0), (3, 60, 10.0), (1, 40, 4.0)])
def test_the_layer_does_what_its_formulas_say(kernel: int, steps: int, tau: float):
    torch.manual_seed(0)
    layer = ReleasedConvLCA(4, kernel, 0.25, steps, tau)
    z = torch.randn(3, 4, 7, 6) * 3 + 1
    torch.testing.assert_close(layer(z).double(), by_the_book(z, layer.weights, 0.25, steps, tau), rtol=0, atol=1e-5)
    assert layer(z).count_nonzero() > 0
    assert not list(layer.parameters())  # the atoms never learn
    torch.testing.assert_close(layer.weights.flatten(1).norm(dim=1), torch.ones(4))


def test_one_step_sends_nothing_and_scale_and_offset_do_not_matter():
    torch.manual_seed(0)
    layer = ReleasedConvLCA(8, 5, 0.25, 1, 100.0)
    z = torch.randn(2, 8, 5, 5)
    assert layer(z).count_nonzero() == 0  # the code of the potential 0
    layer.iterations = 100
    torch.testing.assert_close(layer(z), layer(3 * z + 7), rtol=0, atol=1e-5)
    assert torch.equal(layer(z)[:1], layer(z[:1]))  # each image for itself


@pytest.mark.parametrize(("cut", "option"), [([], ["--AT_regularization=SCA_new"]), (["--cutlayer=5"], [])])
def test_the_published_resnet_with_its_layer_comes_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: list[str], option: list[str]
):
    monkeypatch.chdir(tmp_path)
    folder = save_layout(layouts()["resnet20_sca"], tmp_path / "c")
    options = ["--bottleneck_option=noRELU_C8S1", *cut, *option]
    imported = import_checkpoint(folder, tmp_path / "run", options=options)
    run = Run.open(tmp_path / "run")
    assert (run.settings.arch, run.settings.cut) == ("resnet20_stem5_sgm", 5)
    assert [spec.name for spec in run.settings.defense] == ["sparse_coding_conv_released"]
    stored = torch.load(folder / "checkpoint_f_best.tar", weights_only=True)
    encoder: Any = run.model(_stub("cifar10", 10)).encoder
    assert torch.equal(encoder.sparse_coding.weights, stored["6.weights"])
    assert [name for name, _ in encoder.named_children()] == ["blocks", "bottleneck", "sparse_coding", "sigmoid"]
    with torch.no_grad():
        x = torch.rand(2, 3, 32, 32)
        before = encoder.bottleneck(encoder.blocks(x))
        assert torch.equal(encoder(x), encoder.sparse_coding(before).sigmoid())
    assert not any("the files hold no layer" in note for note in imported.notes)


@pytest.mark.parametrize("name", ["cem0", "resnet20_cut5"])
def test_a_layer_that_is_said_and_not_stored_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    folder = save_layout(layouts()[name], tmp_path / "c")
    options = ["--bottleneck_option=noRELU_C8S1", "--AT_regularization=SCA_new"]
    imported = import_checkpoint(folder, tmp_path / "run", options=options)
    assert any("the files hold no layer of it" in note for note in imported.notes)


@pytest.mark.parametrize("values", [{"threshold": -1.0}, {"kernel": 2}, {"iterations": 0}, {"tau": 0.5}])
def test_bad_values_are_refused(values: dict[str, Any]):
    ((name, value),) = values.items()
    with pytest.raises(UserError, match=f"sparse_coding_conv_released: {name} is {value}; expected"):
        SparseCodingConvReleased(**values)
