"""Sparse coding as the published ResNet has it: the layer of lca-pytorch with that library's own settings."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, relu

from ..errors import UserError
from ..ranges import Count, Iterations, Weight
from ..registry import plugin
from ._model import channels_of
from .base import Defense
from .sparse_coding_released import add_before_sigmoid


class ReleasedConvLCA(nn.Module):
    """z (B, C, H, W) -> sparse code (B, C, H, W) of z with mean 0 and deviation 1, entries of 0 or more.

    u ← u + (W∗z − u − G∗a)/τ from 0, a = max(u − λ, 0), G the atoms' correlations without each one's own.
    """

    weights: Tensor

    def __init__(self, channels: int, kernel: int, threshold: float, iterations: int, tau: float):
        super().__init__()
        self.threshold, self.iterations, self.tau = threshold, iterations, tau
        atoms = nn.init.trunc_normal_(torch.empty(channels, channels, kernel, kernel))
        # A buffer: the published layer never learns its atoms.
        self.register_buffer("weights", atoms / atoms.flatten(1).norm(dim=1)[:, None, None, None])

    def forward(self, z: Tensor) -> Tensor:
        z = z.float()
        z = z - z.mean((1, 2, 3), keepdim=True)
        z = z / (z.std((1, 2, 3), keepdim=True) + 1e-12)
        reach = self.weights.shape[-1] - 1
        drive = conv2d(z, self.weights, padding=self.weights.shape[-1] // 2)
        own = pad(torch.eye(len(self.weights), device=z.device)[:, :, None, None], [reach] * 4) > 0
        others = conv2d(self.weights, self.weights, padding=reach).masked_fill(own, 0)
        potential = code = torch.zeros_like(drive)
        for _ in range(self.iterations):
            code = relu(potential - self.threshold)  # the last potential is never read, as published
            potential = potential + (drive - potential - conv2d(code, others, padding=reach)) / self.tau
        return code


@plugin("sparse_coding_conv_released")
class SparseCodingConvReleased(Defense):
    """Sparse coding, the released reading of ResNet's: a fixed convolutional dictionary, 1,000 steps of the LCA.

    The published ``SCA_new`` puts the layer of lca-pytorch (Teti et al., ICML 2022) with that library's defaults
    into the encoder before its sigmoid: the code itself crosses the wire, not what it describes, and the atoms keep
    their random values. For published command lines and checkpoints; `sparse_coding` learns its dictionary.

    Args:
        threshold: λ ≥ 0, in deviations of an image's feature. kernel: odd side of the atoms.
        iterations: steps. tau: 1/τ is the length of a step.

    >>> SparseCodingConvReleased().iterations
    1000
    """

    install_order = -1  # a part of the encoder: before what builds itself for the finished one

    def __init__(
        self,
        threshold: Weight = 0.25,
        kernel: Count = 5,
        iterations: Iterations = 1000,
        tau: Annotated[float, Field(ge=1)] = 100.0,
    ):
        super().__init__()
        if kernel % 2 == 0:
            raise UserError(f"sparse_coding_conv_released: kernel is {kernel}; expected an odd number, such as 5")
        self.threshold, self.kernel = float(threshold), kernel
        self.iterations, self.tau = iterations, float(tau)

    def install(self, model: Any) -> None:
        channels = channels_of(model, "sparse_coding_conv_released")[0]
        layer = ReleasedConvLCA(channels, self.kernel, self.threshold, self.iterations, self.tau)
        add_before_sigmoid(model.encoder, layer, "sparse_coding_conv_released")
