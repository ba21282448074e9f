"""What water-filling must know of a trained model: its features, the tail's Fisher information, the images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..data import to_float
from ..defenses._waterfilling import Statistics
from ..defenses.base import Defense
from ..errors import UserError
from ..model import SplitModel
from .temperature import temperature

BATCH = 250
SKETCH = 4096
"""Most values of an image: of larger ones, random sums stand for them, which keep every variance on average."""


def gather(
    model: SplitModel, images: Tensor, rng: torch.Generator, passes: int = 1, before: Defense | None = None
) -> Statistics:
    """Return the statistics of a trained model on images, in float64.

    The Fisher information F = E[s sᵀ], s = ∂ log p(y|wire)/∂wire with the class y drawn from the tail's own answer
    (Martens, "New insights and perspectives on the natural gradient method", JMLR 2020), is that of the tail at the
    wire, noise included.

    Args:
        model: trained. It is examined in evaluation mode.
        images: uint8 (N, C, S, S).
        rng: generator of the noise and of the classes that are drawn.
        passes: draws of noise and class for each image.
        before: defenses that stay in front of the noise; the feature is what leaves them.

    Raises:
        UserError: fewer images than would determine a covariance, or see `require_usable`.
    """
    width = math.prod(model.wire_shape)
    if len(images) < 2 * width:
        raise UserError(
            f"{len(images)} images are too few for a wire of {width} values; waterfill needs at least {2 * width}: "
            "twice as many as values; train on more images, or make the wire narrower, as --bottleneck does"
        )
    model.eval()
    device = model.mean.device
    sums, soft = _Sums(width, images[0].numel(), rng, device), temperature(model, images, rng)
    for part in images.split(BATCH):
        x, z = features(model, part, rng, before)
        sums.add(z.flatten(1).double(), x.flatten(1).double())
        for _ in range(passes):
            slope = slopes(model, x, rng, soft).flatten(1)
            sums.fisher += slope.T @ slope
    return sums.statistics(len(images), passes)


@torch.no_grad()
def features(model: SplitModel, images: Tensor, rng: torch.Generator, before: Defense | None) -> tuple[Tensor, Tensor]:
    """Return pixels (B, C, S, S), and the features (B, ...) that the noise is put on.

    Args:
        model: trained.
        images: uint8 (B, C, S, S).
        rng: generator of what ``before`` draws.
        before: defenses that stay in front of the noise.
    """
    x = to_float(images.to(model.mean.device)).to(memory_format=torch.channels_last)
    z = model.features(x)
    return x, z if before is None else before.on_wire(z, rng)


def slopes(model: SplitModel, x: Tensor, rng: torch.Generator, soft: float = 1.0) -> Tensor:
    """Return s = ∂ log p(y|wire)/∂wire of classes y that are drawn from the tail's answer, (B, ...), in float64.

    Args:
        model: trained.
        x: pixels (B, C, S, S).
        rng: generator of the noise and of the classes.
        soft: temperature of the answer, see `temperature`.

    Raises:
        UserError: an answer that is not finite.
    """
    with torch.enable_grad():
        wire = model.encode(x, rng).detach().requires_grad_()
        answer = (model.tail(wire).float() / soft).log_softmax(1)
        if not answer.isfinite().all():
            raise UserError("the model's answers have NaN or infinity; harden a model that is trained")
        drawn = torch.multinomial(answer.detach().exp(), 1, generator=rng)
        return torch.autograd.grad(answer.gather(1, drawn).sum(), wire)[0].double()


def require_usable(variance: float, covariance: Tensor, fisher: Tensor) -> None:
    """Refuse statistics from which no noise follows.

    Args:
        variance: total variance of the images.
        covariance: of the feature, or the variances of its coordinates.
        fisher: the tail's Fisher information about the same.

    Raises:
        UserError: images that are all equal, a feature that is constant, or a tail that ignores it.
    """
    if not variance > 0:
        raise UserError("all images are equal; waterfill needs images that differ")
    if not float(covariance.abs().max()) > 0:
        raise UserError("the feature is the same for all images; harden a model that is trained")
    if not float(fisher.abs().max()) > 0:
        raise UserError("the tail's answer does not depend on the wire; harden a model that is trained")


def linear_error(statistics: Statistics, matrix: Tensor, pixels: int) -> float:
    """Return the mean squared error per pixel of the best linear attacker on A(z − mean) + N(0, I).

    (tr C_x − tr C_xz Aᵀ (A C Aᵀ + I)⁻¹ A C_zx)/P: exact for these second moments, so that it bounds what a linear
    attack achieves on images like these from below. A decoder does better.

    Args:
        statistics: of `gather`.
        matrix: A, (k, D).
        pixels: P, the values of an image.
    """
    signal = statistics.pixels @ matrix.T
    covariance = matrix @ statistics.covariance @ matrix.T + torch.eye(len(matrix), dtype=matrix.dtype)
    explained = (signal * torch.linalg.solve(covariance, signal.T).T).sum()
    return (statistics.variance - float(explained)) / pixels


class _Sums:
    """Sums over images of what `Statistics` averages."""

    def __init__(self, width: int, pixels: int, rng: torch.Generator, device: torch.device):
        double = {"dtype": torch.float64, "device": device}
        self.sketch = None
        if pixels > SKETCH:
            signs = torch.randint(0, 2, (pixels, SKETCH), generator=rng, device=device, dtype=torch.int8)
            self.sketch = (signs.double() * 2 - 1) / SKETCH**0.5
        self.fisher, self.second = torch.zeros(width, width, **double), torch.zeros(width, width, **double)
        self.first, self.image = torch.zeros(width, **double), torch.zeros(min(pixels, SKETCH), **double)
        self.cross = torch.zeros(min(pixels, SKETCH), width, **double)
        self.raw, self.square = torch.zeros(pixels, **double), torch.zeros((), **double)

    def add(self, z: Tensor, x: Tensor) -> None:
        """Add features (B, D) and pixels (B, P)."""
        self.raw += x.sum(0)
        self.square += x.square().sum()
        x = x if self.sketch is None else x @ self.sketch
        self.first += z.sum(0)
        self.image += x.sum(0)
        self.second += z.T @ z
        self.cross += x.T @ z

    def statistics(self, count: int, passes: int) -> Statistics:
        """Return the means, on the CPU."""
        z, x = self.first / count, self.image / count
        covariance, cross = self.second / count - z.outer(z), self.cross / count - x.outer(z)
        fisher = self.fisher / (count * passes)
        variance = float(self.square / count - (self.raw / count).square().sum())
        require_usable(variance, covariance, fisher)
        return Statistics(z.cpu(), covariance.cpu(), fisher.cpu(), cross.cpu(), variance, count)
