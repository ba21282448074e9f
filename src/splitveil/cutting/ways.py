"""The way that traced code takes from images to logits, and whether it is another for other numbers of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import UserError
from ..nn.copies import copy_of
from .branches import MOST

FEW, MANY = 19, 4099
"""Numbers of images for which the code is traced again."""


def way_to_logits(graph: fx.Graph) -> list[fx.Node]:
    """Return the nodes from which the logits are computed, in order; of several outputs the first counts."""
    end = end_of(graph).args[0]
    while isinstance(end, tuple | list | dict) and end:
        end = next(iter(end.values() if isinstance(end, dict) else end))
    needed = steps_before(end) if isinstance(end, fx.Node) else set()
    return [node for node in graph.nodes if node in needed]


def steps_before(end: fx.Node, stop: fx.Node | None = None) -> set[fx.Node]:
    """Return a node and those from which it is computed; what is before ``stop`` is left out."""
    found = {end}
    waiting = [end]
    while waiting:
        node = waiting.pop()
        new = [] if node is stop else [n for n in node.all_input_nodes if n not in found]
        found.update(new)
        waiting += new
    return found


def end_of(graph: fx.Graph) -> fx.Node:
    """Return the node that is the graph's output."""
    return next(node for node in reversed(graph.nodes) if node.op == "output")


def other_batches(
    trace: Callable[[nn.Module, Tensor], fx.Graph], network: nn.Module, graph: fx.Graph, example: Tensor
) -> set[int]:
    """Return the numbers of images for which the code takes another way than for one: these are to be tried.

    Parts of a batch in a loop, and branches on whatever follows from the number of images, show here. Weights and
    images are shapes without numbers (torch's meta device), so that nothing is computed.

    Args:
        trace: network and images -> graph; an error is no evidence.
        network: that is cut; copies of it are traced, as a trace leaves in them what has no numbers.
        graph: of the example.
        example: an input of the network.

    Raises:
        UserError: the way is another one for more images than can be tried.
    """

    def way(count: int) -> list[Any] | None:
        images = torch.empty(count, *example.shape[1:], dtype=example.dtype, device="meta")
        try:
            return list(_steps(trace(_spare(network).to("meta"), images)))
        except (UserError, RuntimeError, ValueError, TypeError, AssertionError, LookupError):
            return None  # no evidence

    expected, found = list(_steps(graph)), set[int]()
    few, many = way(FEW), way(MANY)
    if few not in (None, expected):
        found.add(FEW)
    if many not in (None, expected, few):
        if way(MOST - 1) != many:
            raise UserError(
                f"the code around the cut takes another way for {MANY} images than for one, and at most {MOST} can be "
                "tried; cut elsewhere, or write the halves yourself: SplitModel(encoder, tail)"
            )
        found.add(MOST - 1)
    return found


def _spare(network: nn.Module) -> nn.Module:
    """Return a copy of a network without the hooks that would tell others of a trace."""
    spare = copy_of(network)
    for module in spare.modules():
        module._forward_hooks.clear()
    return spare


def _steps(graph: fx.Graph) -> Iterator[tuple[Any, ...]]:
    """Yield what a graph does on the way to the logits, each step with its arguments; steps before it by number."""
    way = way_to_logits(graph)
    numbers = {node: f"step {number}" for number, node in enumerate(way)}
    for node in way:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: numbers.get(n, "other"))
        yield node.op, node.target, str(args), str(kwargs)
