"""Sparse coding as the published code computes it: a layer of the encoder, one step without normalization."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import linear, normalize, softshrink

from ..errors import UserError
from ..ranges import Weight, Whole
from ..registry import plugin
from ._model import wire_shape
from .base import Defense

LAST = (nn.Sigmoid, nn.BatchNorm1d, nn.BatchNorm2d)
"""Layers at the end of an encoder that the code passes through."""


class ReleasedLCA(nn.Module):
    """z -> Wᵀ S(W z), S the soft threshold; the rows of W (atoms, m) start with length 1 and move freely."""

    def __init__(self, atoms: int, dimensions: int, threshold: float):
        super().__init__()
        self.threshold = threshold
        self.W = nn.Parameter(normalize(torch.randn(atoms, dimensions), dim=1))

    def forward(self, z: Tensor) -> Tensor:
        return linear(softshrink(linear(z.flatten(1), self.W), self.threshold), self.W.t()).view_as(z)


@plugin("sparse_coding_released")
class SparseCodingReleased(Defense):
    """Sparse coding, the released reading of `sparse_coding`: for published command lines and checkpoints.

    A layer z -> Wᵀ S(W z) stands in the encoder before its sigmoid (at its end where it has none). The first
    step of the LCA from 0 is u = S(W z): with the one step that the published ``SCA_new`` takes, inhibition
    between atoms and leak have no effect, and as W is not kept normalized, this is no sparse *coding* of z.

    Args:
        threshold: threshold of S, ≥ 0, in units of the feature. atoms: rows of W; 0: as many as dimensions.

    >>> SparseCodingReleased().threshold
    0.01
    """

    install_order = -1  # a part of the encoder: before what builds itself for the finished one

    def __init__(self, threshold: Weight = 0.01, atoms: Whole = 0):
        super().__init__()
        self.threshold, self.atoms = float(threshold), atoms

    def install(self, model: Any) -> None:
        shape = wire_shape(model, "sparse_coding_released")
        dimensions = int(torch.tensor(shape).prod())
        layer = ReleasedLCA(self.atoms or dimensions, dimensions, self.threshold)
        add_before_sigmoid(model.encoder, layer, "sparse_coding_released")


def add_before_sigmoid(encoder: nn.Module, layer: nn.Module, who: str) -> None:
    """Append ``layer`` to the encoder, before the batch norm or sigmoid at its end.

    Args:
        encoder: plain sequence of layers.
        layer: layer that is added.
        who: name of the defense, for the message.

    Raises:
        UserError: the encoder is no plain sequence of layers, or has such a layer already.
    """
    if isinstance(encoder, fx.GraphModule):
        _add_to_graph(encoder, layer)
        return
    parts = dict(encoder.named_children())
    if not isinstance(encoder, nn.Sequential) or "sparse_coding" in parts:
        raise UserError(f"{who}: the encoder is no plain sequence of layers; use sparse_coding")
    last = {name: parts[name] for name in ("norm", "sigmoid") if name in parts}
    for name in last:
        delattr(encoder, name)
    for name, part in ({"sparse_coding": layer} | last).items():
        encoder.add_module(name, part)


def _add_to_graph(encoder: fx.GraphModule, layer: nn.Module) -> None:
    """Do as `add_before_sigmoid` does to an encoder that was cut out of a network."""
    modules = dict(encoder.named_modules())
    (output,) = (node for node in encoder.graph.nodes if node.op == "output")
    node = output.all_input_nodes[0]
    while node.op == "call_module" and isinstance(modules[str(node.target)], LAST):
        node = node.all_input_nodes[0]
    encoder.add_module("sparse_coding", layer)
    with encoder.graph.inserting_after(node):
        added = encoder.graph.call_module("sparse_coding", (node,))
    node.replace_all_uses_with(added, delete_user_cb=lambda user: user is not added)
    encoder.recompile()
