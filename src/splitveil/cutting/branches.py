"""Branches of traced code: decided by the example's shape, by the number of images, or by the images themselves."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

MOST = 64
"""Most images in a batch that is tried."""
STRUCTURE = frozenset(
    {
        "size",
        "len",
        "shape",
        "dim",
        "ndim",
        "ndimension",
        "numel",
        "nelement",
        "stride",
        "dtype",
        "device",
        "layout",
        "type",
        "is_floating_point",
        "is_complex",
        "is_cuda",
        "is_contiguous",
        "is_quantized",
        "is_sparse",
        "is_nested",
        "get_device",
        "element_size",
        "itemsize",
        "nbytes",
    }
)
"""Attributes and methods of a tensor that are the same for all images of one size."""


def check_pixels(condition: fx.Node, values: Mapping[fx.Node, Any]) -> None:
    """Refuse a branch that is decided by numbers read from a tensor, as ``if x.max().item() > 1``.

    A trace would take the example's way for all images.

    Args:
        condition: node of the branch.
        values: of all nodes, for the example.

    Raises:
        ValueError: it is.
    """
    for node in _plain_ancestors(condition, values):
        of_tensors = any(isinstance(values.get(source), Tensor) for source in node.all_input_nodes)
        if of_tensors and _name(node) not in STRUCTURE:
            raise ValueError(f"it branches on the input itself, by {_name(node)}")


def batches_about(condition: fx.Node, values: Mapping[fx.Node, Any], pixels: bool = False) -> set[int]:
    """Return the numbers of images near those at which a branch on the batch size may change; none of other branches.

    Args:
        condition: node of the branch.
        values: of all nodes, for the example.
        pixels: let a branch pass that `check_pixels` refuses.

    Raises:
        ValueError: they are more than can be tried, or see `check_pixels`.
    """
    if not pixels:
        check_pixels(condition, values)
    nodes = list(_plain_ancestors(condition, values))
    if not any(_counts_images(node, values) for node in nodes):
        return set()
    numbers = {arg for node in nodes if not _looks_at_shape(node, values) for arg in node.args if type(arg) is int}
    if max(numbers, default=0) >= MOST:
        raise ValueError(f"it branches on the number of images, beyond the {MOST} that can be tried")
    return {count for number in numbers for count in (number - 1, number, number + 1) if count > 0}


def _plain_ancestors(node: fx.Node, values: Mapping[fx.Node, Any]) -> Iterator[fx.Node]:
    """Yield the node and those before it whose values are no tensors."""
    found, waiting = set[fx.Node](), [node]
    while waiting:
        node = waiting.pop()
        if node not in found and not isinstance(values.get(node), Tensor):
            found.add(node)
            waiting += node.all_input_nodes
            yield node


def _name(node: fx.Node) -> str:
    """Return the name of the method, function or attribute that a node asks."""
    if node.target is getattr:
        return str(node.args[1])
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _looks_at_shape(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    source = values.get(node.all_input_nodes[0]) if node.all_input_nodes else None
    return isinstance(source, Tensor) or (isinstance(source, torch.Size) and node.target is operator.getitem)


def _counts_images(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    source = values.get(node.all_input_nodes[0]) if node.all_input_nodes else None
    if isinstance(source, Tensor):
        return _name(node) in ("len", "numel", "nelement", "nbytes") or (_name(node) == "size" and 0 in node.args[1:])
    return isinstance(source, torch.Size) and not (node.target is operator.getitem and node.args[1] != 0)
