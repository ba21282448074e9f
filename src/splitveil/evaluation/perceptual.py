"""LPIPS: the perceptual distance of two images, by a network whose weights the user brings. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..errors import UserError
from ..metrics import checked_pair
from ..storage.files import is_safetensors

SIZE = 64
"""Side in pixels to which smaller images are enlarged: that of the patches on which LPIPS was fitted to judgments."""
PIXELS_AT_ONCE = 2**19
WEIGHTS = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights", "squeeze": "SqueezeNet1_1_Weights"}
"""Networks of LPIPS and the torchvision weights that are published for them."""
EXPECTED = "expected torchvision's weights of alexnet, vgg16 or squeezenet1_1 (a .pth or .safetensors file)"


class Lpips:
    """Learned perceptual image patch similarity, per image; 0 for equal images, higher: less alike.

    d(x, y) = Σ_l 1/(H_l W_l) Σ_hw ‖w_l ⊙ (x̂_hw − ŷ_hw)‖², where x̂, ŷ are the activations of layer l, scaled to unit
    length over channels (Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric",
    CVPR 2018, eq. 1). The weights w_l are those that torchmetrics ships; the network's come from a file of the user.
    Images below 64 pixels are enlarged to 64, bilinearly, because w_l was fitted on patches of that size; figures of
    works that enlarge otherwise, or not at all, are not comparable.

    Attributes:
        about: network (alex, vgg, squeeze), the weights' file name and SHA-256, ``published``: whether they are the
            ones of torchvision, so that the number may be held against those of others; size to which is enlarged.

    >>> Lpips.load("weights/alexnet.pth")
    Traceback (most recent call last):
    ...
    splitveil.errors.UserError: cannot read weights/alexnet.pth: No such file or directory; expected torchvision's
    weights of alexnet, vgg16 or squeezenet1_1 (a .pth or .safetensors file)
    """

    def __init__(self, network: nn.Module, about: dict[str, Any]):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network, self.about = network.to(self.device), about

    @classmethod
    def load(cls, path: str | Path) -> Lpips:
        """Return LPIPS on the network whose torchvision weights are in a file.

        Args:
            path: a .pth or .safetensors file; which network it is, is read from the tensors.

        Raises:
            UserError: no such file, none with weights, weights of another network, or torchmetrics is missing.
        """
        path = Path(path)
        tensors = _read(path)
        name = _network_of(tensors)
        network, published = _build(name)
        with torch.no_grad():
            for ours, theirs in _matched(path, name, network, tensors):
                ours.copy_(theirs)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        about = {"network": name, "weights": path.name, "sha256": digest, "published": digest.startswith(published)}
        return cls(network, about | {"enlarged_to": SIZE})

    @torch.no_grad()
    def __call__(self, found: Tensor, truth: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the distance of each pair of images: (N,), on the CPU.

        Args:
            found: reconstructions (N, 3, H, W) in [0, 1].
            truth: originals (N, 3, H, W) in [0, 1].
            labels: ignored; metrics of an attack get them.

        Raises:
            UserError: shapes or types do not fit, values are NaN or outside [0, 1], or the images have no three colors.
        """
        found, truth = checked_pair(found, truth)
        if found.shape[1] != 3:
            raise UserError(f"LPIPS got images of {found.shape[1]} channels; expected 3: repeat a grey one")
        at_once = max(1, PIXELS_AT_ONCE // max(SIZE**2, found[0, 0].numel()))
        pairs = zip(found.split(at_once), truth.split(at_once), strict=True)
        return torch.cat([self.network(self._seen(x), self._seen(y)).flatten().cpu() for x, y in pairs])

    def _seen(self, images: Tensor) -> Tensor:
        images = images.to(self.device, torch.float32)
        height, width = images.shape[2:]
        if (scale := SIZE / min(height, width)) > 1:
            size = [round(scale * height), round(scale * width)]
            images = interpolate(images, size, mode="bilinear", align_corners=False)
        return 2 * images - 1


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if is_safetensors(path):
            return load_file(path)
        with path.open("rb") as file:  # by content: of a path, torch.load reads the name
            tensors = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; {EXPECTED}") from None
    except (SafetensorError, UnpicklingError, EOFError, RuntimeError, LookupError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} holds no weights ({reason}); {EXPECTED}") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{path} holds a {type(tensors).__name__} and no state dictionary; {EXPECTED}")
    return tensors


def _network_of(tensors: dict[str, Tensor]) -> str:
    """Return the name of the network that the tensors look like; `_matched` checks whether they fit it."""
    if "features.3.squeeze.weight" in tensors:
        return "squeeze"
    first = tensors.get("features.0.weight")
    return "alex" if first is not None and first.shape[-1] == 11 else "vgg"


def _build(name: str) -> tuple[nn.Module, str]:
    """Return torchmetrics' network with the weights w_l that it ships, and the first digits of torchvision's digest."""
    try:
        import torchvision

        # Private, because the public function fetches the network's weights from the internet.
        from torchmetrics.functional.image.lpips import _NoTrainLpips
    except ImportError as error:
        raise UserError(f"LPIPS needs a package: {error.name}; pip install 'splitveil[all]'") from None
    with torch.random.fork_rng(devices=[]):  # its random weights are all overwritten
        network = _NoTrainLpips(net=name, pnet_rand=True)  # pyright: ignore[reportArgumentType]
    url = getattr(torchvision.models, WEIGHTS[name]).DEFAULT.url
    return network, url.rpartition("-")[2].partition(".")[0]


def _matched(path: Path, name: str, network: Any, tensors: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return our tensors beside the file's.

    Our slice2.3.weight and slices.2.3.weight are torchvision's features.3.weight.
    """
    pairs = []
    for key, ours in network.net.state_dict().items():
        theirs = re.sub(r"^slices?\.?\d+\.", "features.", key)
        if theirs not in tensors:
            raise UserError(f"{path} lacks the tensor {theirs} of {name}; {EXPECTED}")
        if tensors[theirs].shape != ours.shape:
            got, wanted = tuple(tensors[theirs].shape), tuple(ours.shape)
            raise UserError(f"{path}: {theirs} has shape {got}, but {wanted} in {name}; {EXPECTED}")
        pairs.append((ours, tensors[theirs]))
    return pairs
