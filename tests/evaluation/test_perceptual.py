"""LPIPS on a file of weights: against its equation written out, and what is said where the file does not fit."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate

from splitveil.errors import UserError
from splitveil.evaluation import perceptual
from splitveil.evaluation.perceptual import Lpips

BLOCKS = ((0, 2), (2, 5), (5, 8), (8, 10), (10, 12))  # AlexNet's layers up to each of its five ReLUs


def features(network: str) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = getattr(torchvision.models, network)(weights=None).state_dict()
    return {name: value for name, value in weights.items() if name.startswith("features.")}


@pytest.fixture(scope="module")
def alexnet() -> dict[str, Tensor]:
    """Random weights: nothing of LPIPS but its usefulness depends on them."""
    return features("alexnet")


@pytest.fixture(scope="module")
def file(alexnet, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alexnet-random.pth"
    torch.save(alexnet, path)
    return path


@pytest.fixture(scope="module")
def lpips(file) -> Lpips:
    return Lpips.load(file)


def pair(size: int, count: int = 4, noise: float = 0.2) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = interpolate(torch.rand(count, 3, 5, 5, generator=rng), (size, size), mode="bilinear")
    return x, (x + noise * torch.randn(x.shape, generator=rng)).clamp(0, 1)


def by_hand(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Zhang et al. 2018, eq. 1, with the published scaling of the pixels."""
    with torch.device("meta"):
        network = torchvision.models.AlexNet().features.eval()
    network.load_state_dict({name.removeprefix("features."): value for name, value in weights.items()}, assign=True)
    shipped = Path(sys.modules["torchmetrics"].__file__ or "").parent / "functional/image/lpips_models/alex.pth"
    heads = torch.load(shipped, map_location="cpu", weights_only=True)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = ((2 * image - 1 - shift.view(3, 1, 1)) / scale.view(3, 1, 1) for image in (x, y))
    total = torch.zeros(len(x))
    with torch.no_grad():
        for layer, (first, last) in enumerate(BLOCKS):
            x, y = network[first:last](x), network[first:last](y)
            change = x / x.norm(dim=1, keepdim=True) - y / y.norm(dim=1, keepdim=True)
            total += (change.square() * heads[f"lin{layer}.model.1.weight"]).sum(1).mean((1, 2))
    return total


def test_the_distance_is_the_papers_equation(lpips, alexnet):
    x, y = pair(70)
    expected = by_hand(alexnet, x, y)
    assert expected.min() > 1e-3
    assert lpips(y, x).numpy() == pytest.approx(expected.numpy(), rel=1e-4)


def test_equal_images_are_at_0_and_noise_takes_them_apart(lpips):
    x, _ = pair(32)
    assert torch.equal(lpips(x, x), torch.zeros(4))
    distances = torch.stack([lpips(x, pair(32, noise=noise)[1]) for noise in (0.05, 0.1, 0.2, 0.4)])
    assert bool((distances[0] > 0).all())
    assert bool((distances.diff(dim=0) > 0).all())


def test_small_images_are_enlarged_to_64_and_larger_ones_are_not_touched(lpips, alexnet):
    x, y = pair(32)
    enlarged = [interpolate(image, (64, 64), mode="bilinear", align_corners=False) for image in (x, y)]
    assert lpips(x, y).numpy() == pytest.approx(by_hand(alexnet, *enlarged).numpy(), rel=1e-4)
    assert lpips(x, y).numpy() != pytest.approx(by_hand(alexnet, x, y).numpy(), rel=0.05)
    wide = pair(96)
    assert lpips(*wide).numpy() == pytest.approx(by_hand(alexnet, *wide).numpy(), rel=1e-4)


def test_every_image_is_scored_on_its_own_and_again_the_same(lpips, monkeypatch):
    x, y = pair(32, count=5)
    whole = lpips(x, y)
    assert torch.equal(lpips(x, y, torch.zeros(5)), whole)
    monkeypatch.setattr(perceptual, "PIXELS_AT_ONCE", 2 * 64 * 64)  # chunks of 2, 2 and 1
    assert torch.allclose(lpips(x, y), whole, rtol=1e-4)
    assert whole.dtype == torch.float32


def test_loading_reads_the_file_only_and_says_what_it_was(file, alexnet, tmp_path, monkeypatch):
    def forbidden(*_: Any, **__: Any):
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", forbidden)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", forbidden)
    save_file(alexnet, tmp_path / "alexnet.safetensors")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = Lpips.load(tmp_path / "alexnet.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again(*pair(32)), Lpips.load(file)(*pair(32)))
    digest = hashlib.sha256((tmp_path / "alexnet.safetensors").read_bytes()).hexdigest()
    assert again.about == {
        "network": "alex", "weights": "alexnet.safetensors", "sha256": digest, "published": False, "enlarged_to": 64,
    }  # fmt: skip


def test_published_weights_are_known_by_their_digest(file, monkeypatch):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    real = perceptual._build
    assert real("alex")[1] == "7be5be79"  # as in torchvision's alexnet-owt-7be5be79.pth
    monkeypatch.setattr(perceptual, "_build", lambda name: (real(name)[0], digest[:8]))
    assert Lpips.load(file).about["published"]


def test_squeezenet_is_recognised_by_its_tensors(tmp_path):
    torch.save(features("squeezenet1_1"), tmp_path / "weights.pth")
    lpips = Lpips.load(tmp_path / "weights.pth")
    x, y = pair(32)
    assert lpips.about["network"] == "squeeze"
    assert torch.equal(lpips(x, x), torch.zeros(4))
    assert bool((lpips(x, y) > 0).all())


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        Lpips.load(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert "expected torchvision's weights of alexnet, vgg16 or squeezenet1_1" in str(error.value)
    return str(error.value)


def test_files_that_are_no_weights(tmp_path):
    assert "No such file or directory" in refused(tmp_path / "none.pth")
    assert "No such file or directory" in refused(tmp_path / "none.safetensors")
    assert "Is a directory" in refused(tmp_path)
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("weights, as it were")
        assert "holds no weights" in refused(tmp_path / name)
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    assert "holds a list and no state dictionary" in refused(tmp_path / "list.pth")


def test_weights_of_another_network_are_refused_by_the_tensor(alexnet, tmp_path):
    torch.save({**alexnet, "features.6.weight": torch.zeros(384, 192, 5, 5)}, tmp_path / "a.pth")
    expected = "features.6.weight has shape (384, 192, 5, 5), but (384, 192, 3, 3) in alex"
    assert expected in refused(tmp_path / "a.pth")
    torch.save({name: value for name, value in alexnet.items() if name != "features.10.bias"}, tmp_path / "b.pth")
    assert "lacks the tensor features.10.bias of alex" in refused(tmp_path / "b.pth")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 1, 32, 32), "LPIPS got images of 1 channels; expected 3"),
        (torch.full((2, 3, 32, 32), 1.5), r"from 1.5 to 1.5; expected \[0, 1\]"),
        (torch.zeros(2, 3, 32, 32).byte(), "expected floats in"),
    ],
)
def test_bad_images_are_refused(lpips, x, message):
    with pytest.raises(UserError, match=message):
        lpips(x, x)


def test_a_missing_package_is_named(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image.lpips", None)
    with pytest.raises(UserError, match=r"LPIPS needs a package: torchmetrics.*pip install 'splitveil\[all\]'"):
        Lpips.load(file)
