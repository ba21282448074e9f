"""Networks laid out as the published code saves them, written down from its description."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil import data
from splitveil.runs import Run

BOTTLENECK = ["--bottleneck_option", "noRELU_C8S1"]
PLAN: list[int | str] = [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]


def chain(stride: int, width: int, channels: int, relu: bool) -> tuple[list[nn.Module], list[nn.Module]]:
    """The published bottleneck of stride 2, 4, 8: convolutions of stride 2, and as many transposed ones."""
    activation: list[nn.Module] = [nn.ReLU()] if relu else []
    down: list[nn.Module] = [nn.Conv2d(width, channels, 3, padding=1, stride=2)]
    up: list[nn.Module] = []
    while stride > 2:
        down += [*activation, nn.Conv2d(channels, channels, 3, padding=1, stride=2)]
        up += [nn.ConvTranspose2d(channels, channels, 3, output_padding=1, padding=1, stride=2), *activation]
        stride //= 2
    up.append(nn.ConvTranspose2d(channels, width, 3, output_padding=1, padding=1, stride=2))
    return down + activation, up + activation


class PublishedVGG(nn.Module):
    """The published layout, written down from its description: local, cloud and classifier as sequences."""

    def __init__(
        self,
        cut: int = 4,
        classes: int = 10,
        channels: int = 8,
        lca: int = 0,
        *,
        plan: list[int | str] = PLAN,
        sigmoid: bool = True,
        batch_norm: bool = True,
        stride: int = 1,
        relu: bool = False,
        left: int = 1,
        double: bool = False,
    ):
        super().__init__()
        parts: dict[bool, list[nn.Module]] = {True: [], False: []}
        inputs = 3
        for i, entry in enumerate(plan):
            here = parts[i < cut]
            if isinstance(entry, int):
                for outputs in (entry // 4, entry) if double and i == 0 else (entry,):
                    here += [nn.Conv2d(inputs, outputs, 3, padding=1)]
                    here += [nn.BatchNorm2d(outputs)] * batch_norm + [nn.ReLU(inplace=True)]
                    inputs = outputs
            else:
                here.append(nn.MaxPool2d(2, 2))
            if i == cut - 1:
                activation: list[nn.Module] = [nn.ReLU()] if relu else []
                down: list[nn.Module] = [nn.Conv2d(inputs, channels, 3, padding=1), *activation]
                up: list[nn.Module] = [nn.Conv2d(channels, inputs, 3, padding=1), *activation]
                down, up = (down, up) if stride == 1 else chain(stride, inputs, channels, relu)
                here += down
                here += [LCA(lca, channels * 64)] if lca else []
                here.append(nn.Sigmoid() if sigmoid else nn.BatchNorm2d(channels))
                parts[False] += up
        self.local, self.cloud = nn.Sequential(*parts[True]), nn.Sequential(*parts[False])
        hidden = [nn.Dropout(), nn.Linear(512 * left, 512), nn.ReLU(True)]
        self.classifier = nn.Sequential(
            *hidden, nn.Dropout(), nn.Linear(512, 512), nn.ReLU(True), nn.Linear(512, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.cloud(self.local(x)).flatten(1))


class LCA(nn.Module):
    """One step of the published sparse-coding layer."""

    def __init__(self, atoms: int, dimensions: int):
        super().__init__()
        self.W = nn.Parameter(torch.randn(atoms, dimensions) / dimensions**0.5)

    def forward(self, z: Tensor) -> Tensor:
        b = functional.linear(z.flatten(1), self.W)
        u = torch.sign(b) * functional.relu(b.abs() - 0.01)
        return functional.linear(u, self.W.t()).view_as(z)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, kept: int | None = None):
        super().__init__()
        kept = kept or outputs
        self.conv_a = nn.Conv2d(inputs, kept, 3, stride, 1, bias=False)
        self.bn_a = nn.BatchNorm2d(kept)
        self.conv_b = nn.Conv2d(kept, outputs, 3, 1, 1, bias=False)
        self.bn_b = nn.BatchNorm2d(outputs)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn_b(self.conv_b(self.bn_a(self.conv_a(x)).relu()))
        if self.stride > 1:
            x = functional.avg_pool2d(x, 1, self.stride)
            x = torch.cat((x, torch.zeros_like(x)), 1)
        return (out + x).relu()


class MobileBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int):
        super().__init__()
        planes = expansion * inputs
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, groups=planes, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.shortcut = stride, nn.Sequential()
        if stride == 1 and inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return out + self.shortcut(x) if self.stride == 1 else out


class PublishedMobileNet(nn.Module):
    """Stage number `cut` and the later ones are in the cloud; the stem has neither ReLU nor ReLU6."""

    def __init__(self, cut: int = 4, classes: int = 10, channels: int = 8):
        super().__init__()
        local: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)]
        cloud: list[nn.Module] = []
        inputs = width = 32
        plan = [
            (1, 16, 1, 1),
            (6, 24, 2, 1),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ]
        for number, (expansion, outputs, count, first) in enumerate(plan, 1):
            for stride in [first] + [1] * (count - 1):
                (local if cut > number else cloud).append(MobileBlock(inputs, outputs, expansion, stride))
                inputs = outputs
            width = outputs if cut > number else width
        cloud += [nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280)]
        self.local = nn.Sequential(*local, nn.Conv2d(width, channels, 3, padding=1), nn.ReLU())
        self.cloud = nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU(), *cloud)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(functional.avg_pool2d(self.cloud(self.local(x)), 4).flatten(1))


class PublishedResNet20(nn.Module):
    def __init__(
        self, cut: int = 4, classes: int = 10, channels: int = 8, *, double: bool = False, kept: int | None = None
    ):
        """`double`: PATROL's second convolution; `kept`: channels that its pruning leaves inside the second block."""
        super().__init__()
        stem = nn.Sequential(
            OrderedDict(conv1=nn.Conv2d(3, 16, 5, padding=2, bias=False), bn1=nn.BatchNorm2d(16), relu=nn.ReLU())
        )
        layers: list[nn.Module] = [stem]
        inputs = 16
        for outputs in (32, 64, 128):
            layers += [Block(inputs, outputs, 2), Block(outputs, outputs, 1), Block(outputs, outputs, 1)]
            inputs = outputs
        width = (16, 32, 32, 32, 64, 64, 64, 128, 128, 128)[cut - 1]
        down, up = nn.Conv2d(width, channels, 3, padding=1), nn.Conv2d(channels, width, 3, padding=1)
        if kept is not None:
            layers[2] = Block(32, 32, 1, kept)
        second = [nn.Conv2d(16, 16, 3, padding=1, bias=False)] if double else []
        self.local = nn.Sequential(layers[0], *second, *layers[1:cut], down, nn.Sigmoid())
        self.cloud = nn.Sequential(up, *layers[cut:])
        self.classifier = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(functional.adaptive_avg_pool2d(self.cloud(self.local(x)), 1).flatten(1))


def layouts() -> dict[str, dict[str, dict[str, list[int]] | None]]:
    """Folder -> file -> name -> shape of real published files of 1 or 2 epochs; None for a pickled network.

    `published_layouts.json` is short for them: `0:bn 64` is a batch norm, `0:+ 8 3 3 3` a layer with a bias.
    """
    stored = json.loads((Path(__file__).parent / "published_layouts.json").read_text(encoding="utf-8"))
    files = {name: _layout(text) for name, text in stored["files"].items()}
    return {
        folder: {file: files[name] for file, name in content.items()} for folder, content in stored["folders"].items()
    }


def _layout(text: str) -> dict[str, list[int]] | None:
    if ":" not in text:
        return None
    found: dict[str, list[int]] = {}
    for item in text.split(", "):
        name, _, rest = item.partition(":")
        kind, _, numbers = rest.partition(" ")
        shape, prefix = [int(number) for number in numbers.split()], f"{name}." if name else ""
        if kind == "bn":
            found |= {prefix + leaf: shape for leaf in ("weight", "bias", "running_mean", "running_var")}
            found[f"{prefix}num_batches_tracked"] = []
        elif kind == "+":
            found |= {f"{prefix}weight": shape, f"{prefix}bias": shape[:1]}
        else:
            found[name] = shape
    return found


def random_tensors(layout: dict[str, list[int]], seed: int = 0) -> dict[str, Tensor]:
    """Tensors of these shapes with which a network neither saturates nor vanishes."""
    rng = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in layout.items():
        if name.endswith(("num_batches_tracked", "forward_pass")):
            found[name] = torch.tensor(7)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            found[name] = torch.rand(shape, generator=rng) + 0.5
        else:
            fan_in = max(1, torch.Size(shape[1:]).numel())
            scale = (2 / fan_in) ** 0.5 * (0.1 if len(shape) == 1 else 1)
            found[name] = torch.empty(shape).normal_(0, scale, generator=rng)
    return found


def save_layout(files: dict[str, dict[str, list[int]] | None], folder: Path) -> Path:
    """A folder with files of these layouts."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, layout) in enumerate(sorted(files.items())):
        if layout is not None:
            torch.save(random_tensors(layout, seed), folder / name)
    return folder


def published_state(model: Any, seed: int = 0) -> Any:
    """The model with random statistics, in evaluation mode."""
    state = random_tensors({name: list(value.shape) for name, value in model.state_dict().items()}, seed)
    model.load_state_dict(state)
    return model.eval()


def save(model: Any, folder: Path) -> Path:
    folder.mkdir()
    for part, module in (("f", model.local), ("cloud", model.cloud), ("classifier", model.classifier)):
        torch.save(module.state_dict(), folder / f"checkpoint_{part}_best.tar")
    return folder


def same(model: nn.Module, run: Run, images: data.ImageSet, size: int) -> None:
    x = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    ours = run.model(images)
    with torch.no_grad():
        wire = ours.features(x)
        normalized = (x - ours.mean[:, None, None]) / ours.std[:, None, None]
        assert torch.equal(wire, model.local(normalized))  # type: ignore[operator]
        torch.testing.assert_close(ours.tail(wire), model(normalized), rtol=0, atol=1e-4)
