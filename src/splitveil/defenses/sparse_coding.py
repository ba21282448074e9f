"""Sparse coding of the feature by a locally competitive algorithm (LCA)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, softshrink

from ..errors import UserError
from ..ranges import Count, Iterations, Weight, Whole
from ..registry import plugin
from ._model import channels_of, wire_shape
from .base import Defense


@plugin("sparse_coding")
class SparseCoding(Defense):
    """Sparse coding: sends the feature's approximation by a few atoms of a learned dictionary.

    a ≈ argmin ½‖z − Da‖² + λ‖a‖₁ with atoms of length 1, by a fixed number of steps of the LCA u ← u + η(Dᵀz
    − u − (DᵀD − I)a), a = soft threshold of u at λ (Rozell et al., Neural Computation 2008); z_wire = Da, or
    a itself (``wire="code"``, where it has the feature's size). The steps are unrolled, so encoder and
    dictionary learn through them by the task's loss. As a defense: Dibbo et al., "Sparse-coding
    architectures", ECCV 2024, the published ``SCA_new`` (a dense dictionary, λ = 0.01, one step).

    It is no entrywise contraction: put noise before it if CEM's leakage is to stay a bound.

    Args:
        threshold: λ ≥ 0, in units of the feature.
        form: "convolutional" (atoms of ``kernel``×``kernel`` pixels slide over the maps) or "dense" (whole
            features).
        atoms: number of atoms; 0: as many as channels (convolutional) or dimensions (dense).
        kernel: odd side of convolutional atoms. iterations: steps of the LCA.
        wire: "reconstruction" or "code".

    >>> SparseCoding(0.05).iterations
    10
    """

    def __init__(
        self,
        threshold: Weight = 0.01,
        form: Literal["convolutional", "dense"] = "convolutional",
        atoms: Whole = 0,
        kernel: Count = 3,
        iterations: Iterations = 10,
        wire: Literal["reconstruction", "code"] = "reconstruction",
    ):
        super().__init__()
        if kernel % 2 == 0:
            raise UserError(f"sparse_coding: kernel is {kernel}; expected an odd number, such as 3")
        self.threshold, self.form, self.atoms, self.kernel = float(threshold), form, atoms, kernel
        self.iterations, self.output = iterations, wire

    def install(self, model: Any) -> None:
        if self.form == "dense":
            width, kernel = math.prod(wire_shape(model, "sparse_coding")), 1
        else:
            width, kernel = channels_of(model, "sparse_coding")[0], self.kernel
        atoms = self.atoms or width
        if self.output == "code" and atoms != width:
            raise UserError(
                f"sparse_coding: a code of {atoms} atoms does not fit a wire of {width}; leave out atoms, "
                "or use wire=reconstruction"
            )
        self.dictionary = nn.Parameter(torch.randn(atoms, width, kernel, kernel))

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        maps = z.flatten(1)[:, :, None, None] if self.form == "dense" else z
        atoms = unit(self.dictionary).to(z.dtype)
        code = lca(maps, atoms, self.threshold, self.iterations)
        wire = code if self.output == "code" else conv_transpose2d(code, atoms, padding=atoms.shape[-1] // 2)
        return wire.reshape(z.shape)


def unit(dictionary: Tensor) -> Tensor:
    """Return the dictionary (A, C, k, k) with every atom scaled to length 1."""
    return dictionary / dictionary.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]


def lca(z: Tensor, atoms: Tensor, threshold: float, iterations: int) -> Tensor:
    """Return sparse codes (B, A, H, W) of maps z (B, C, H, W) with atoms (A, C, k, k) of length 1.

    With k = 1 on 1×1 maps the dictionary is dense. The step is 1/L, L ≥ ‖DᵀD‖ the largest row sum of the
    atoms' correlations, so that it converges for any D.

    Args:
        z: maps (B, C, H, W).
        atoms: dictionary (A, C, k, k), atoms of length 1.
        threshold: λ of the soft threshold.
        iterations: number of steps.

    >>> atoms = torch.eye(2)[:, :, None, None]
    >>> lca(torch.tensor([[3.0, 0.5]])[:, :, None, None], atoms, 1.0, 50).flatten()
    tensor([2., 0.])
    """
    pad = atoms.shape[-1] // 2
    with torch.no_grad():
        overlap = conv2d(atoms, atoms, padding=atoms.shape[-1] - 1)
        rate = 1 / overlap.abs().sum((1, 2, 3)).max()
    potential = rate * conv2d(z, atoms, padding=pad)  # the first step from u = 0
    code = softshrink(potential, threshold)
    for _ in range(iterations - 1):
        residual = z - conv_transpose2d(code, atoms, padding=pad)
        potential = potential + rate * (conv2d(residual, atoms, padding=pad) + code - potential)
        code = softshrink(potential, threshold)
    return code
