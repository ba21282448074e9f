"""Cut a network at a named layer, by tracing only the modules that contain the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import UserError, did_you_mean
from ..nn.copies import copy_of
from .layout import Layout, channel_move, parse
from .modes import Half, keep_still
from .repeats import verify
from .tracing import Trace, ancestors, first_line, tensors, trace, trace_both_modes
from .ways import end_of, steps_before

MOVED = "channels_moved"
"""Entry of an encoder's ``meta``: whether its channels are moved to where the wire carries them."""


def cut_network(
    network: nn.Module,
    at: str,
    example: Tensor,
    larger: Callable[[], nn.Module] | None = None,
    layout: Layout | None = None,
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut ``network`` after its layer ``at``: x -> ``encoder`` -> z -> ``tail`` -> output of the network.

    Only the modules that contain the layer are traced; all others run as they are, whatever their code does.
    The halves hold copies of the weights under their names in ``network``, which stays as it is. Feature maps cross
    the wire as (C, H, W) and tokens as (T, C), whatever the order of the layer's axes (`splitveil.cutting.layout`).

    Args:
        network: maps one tensor to one tensor.
        at: name of the layer whose output crosses the wire, as in ``network.named_modules()``.
        example: an input of the network; one image is enough.
        larger: builds the same network for images of twice the side; for networks made for one size.
        layout: of the layer's maps, "channels_first" or "channels_last"; None: found by trying.

    Raises:
        UserError: no such layer (with the nearest name); another tensor crosses the cut, as a skip connection
            does (with its name and the nearest layers where a cut is legal); the code around the layer
            cannot be traced (then write the halves yourself: ``SplitModel(encoder, tail)``); the network
            does not take the example; which axis of maps holds the channels cannot be told (then give ``layout``).

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
        >>> encoder, tail = cut_network(network, "1", torch.rand(1, 3, 8, 8))
        >>> z = encoder(torch.rand(2, 3, 8, 8)); z.shape, tail(z).shape
        (torch.Size([2, 8, 6, 6]), torch.Size([2, 10]))
    """
    parse(layout)
    if not isinstance(at, str):
        raise UserError(f"at is a {type(at).__name__}; expected the name of a layer, as network.named_modules() has it")
    names = [name for name, _ in network.named_modules() if name]
    if at not in names:
        raise UserError(f"the network has no layer '{at}'{did_you_mean(at, names) or _top_level(network)}")
    twin = copy_of(network)
    modes = [(module, module.training) for module in twin.modules()]
    twin.eval()
    with torch.no_grad():
        expected = run_once(twin, example)
        traced = trace_both_modes(twin, at, example)
        if crossing := _crossing(traced.graph, _cut_node(traced.graph, at)):
            raise UserError(_crossing_message(twin, at, example, crossing))
        encoder, tail = _halves(traced, at)
        _check(encoder, tail, example, expected, at)
        move = channel_move(twin, at, example, larger, layout)
        encoder.meta[MOVED] = move is not None
        if move is not None:
            _move_channels(encoder, tail, *move)
            _check(encoder, tail, example, expected, at)
        keep_still(twin, encoder, tail)
        for still in verify(twin, encoder, tail, example, at, traced.batches):
            still.requires_grad_(False)
    for module, training in modes:
        module.training = training
    encoder.training = tail.training = network.training
    return encoder, tail


def run_once(network: nn.Module, example: Tensor) -> Any:
    """Return the output of a network for an example.

    Args:
        network: any.
        example: an input of the network; it stays as it is.

    Raises:
        UserError: the network does not take it.
    """
    try:
        return network(example.clone())
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise UserError(
            f"the network does not take an input of shape {tuple(example.shape)} ({first_line(error)}); "
            "choose another image size or network"
        ) from error


def _cut_node(graph: fx.Graph, at: str) -> fx.Node:
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == at]
    if len(calls) != 1:
        times = "never" if not calls else f"{len(calls)} times"
        raise UserError(f"layer '{at}' runs {times} for one input; expected once; cut at another layer")
    return calls[0]


def _crossing(graph: fx.Graph, cut: fx.Node) -> list[fx.Node]:
    """Return the values that depend on x, are not computed from z, and are read after the cut."""
    from_input = _descendants(next(iter(graph.nodes)))
    from_cut = _descendants(cut)
    needed = steps_before(end_of(graph), stop=cut)
    outside = {node for node in needed if node in from_input and node not in from_cut}
    return [node for node in graph.nodes if node in outside and any(u in from_cut for u in node.users if u in needed)]


def _descendants(start: fx.Node) -> set[fx.Node]:
    found = {start}
    waiting = [start]
    while waiting:
        new = [user for user in waiting.pop().users if user not in found]
        found.update(new)
        waiting += new
    return found


def _halves(traced: Trace, at: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    graph, root = traced.graph, traced.root
    cut, output = _cut_node(graph, at), end_of(graph)
    encoder, tail = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    before = steps_before(cut)
    for node in (n for n in graph.nodes if n in before):
        copies[node] = encoder.node_copy(node, lambda n: copies[n])
    encoder.output(copies[cut])
    # The tail works on a copy: a layer that acts in place must not change the z that the device still uses.
    copies = {cut: tail.call_method("clone", (tail.placeholder("z"),))}
    after = steps_before(output, stop=cut) - {cut}
    _check_changes(traced, before | after, at)
    for node in (n for n in graph.nodes if n in after):
        copies[node] = tail.node_copy(node, lambda n: copies[n])
    halves = [Half({n.target: root[n.target] for n in g.nodes if n.target in root}, g) for g in (encoder, tail)]
    shared = {id(p) for p in halves[0].parameters()}
    both = [name for name, p in halves[1].named_parameters() if id(p) in shared]
    if both:
        raise UserError(f"a cut at '{at}' leaves the weights {', '.join(both)} in both halves; cut at another layer")
    return halves[0], halves[1]


def _check_changes(traced: Trace, kept: set[fx.Node], at: str) -> None:
    """Refuse a call that changes a tensor of the halves in place while its answer is not used: it would be lost."""
    held = {_memory(value) for node in kept for value in tensors(traced.values.get(node))}
    for node, changed in traced.changed.items():
        if node not in kept and not held.isdisjoint(map(_memory, changed)):
            call = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
            raise UserError(
                f"the code around layer '{at}' changes a tensor in place by {call} and does not use the answer, which "
                f"the halves would lose; write x = x.{call}(...), or x = module(x)"
            )


def _memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _move_channels(encoder: fx.GraphModule, tail: fx.GraphModule, source: int, to: int) -> None:
    """Let the wire carry its channels at axis ``to``; the names of the weights stay as they are."""
    end = end_of(encoder.graph)
    with encoder.graph.inserting_before(end):
        moved = encoder.graph.call_method("movedim", (end.args[0], source, to))
        end.args = (encoder.graph.call_method("contiguous", (moved,)),)
    wire, copied = list(tail.graph.nodes)[:2]
    with tail.graph.inserting_after(wire):
        back = tail.graph.call_method("movedim", (wire, to, source))
    with tail.graph.inserting_after(back):
        copied.args = (tail.graph.call_method("contiguous", (back,)),)
    encoder.recompile()
    tail.recompile()


def _check(encoder: nn.Module, tail: nn.Module, example: Tensor, expected: Any, at: str) -> None:
    if not isinstance(expected, Tensor):
        raise UserError(f"the network returns a {type(expected).__name__}; expected one tensor of logits")
    z = encoder(example.clone())
    if not isinstance(z, Tensor):
        raise UserError(f"layer '{at}' returns a {type(z).__name__}; expected one tensor; cut at another layer")
    if not torch.allclose(tail(z), expected, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise UserError(
            f"cut at '{at}', the halves do not repeat the network's output (it changes a tensor in "
            "place, or it draws random numbers); cut elsewhere, or write the halves yourself: "
            "SplitModel(encoder, tail)"
        )


def _crossing_message(network: nn.Module, at: str, example: Tensor, crossing: list[fx.Node]) -> str:
    names = ", ".join(f"'{n.target if n.op == 'call_module' else n.name}'" for n in crossing)
    legal = [name for name in _neighbors(network, at) if is_legal(network, name, example)]
    hint = " or ".join(f"'{name}'" for name in legal[:2]) or "another layer"
    return f"a cut at '{at}' is crossed by {names}: the tail needs more than the layer's output; cut at {hint}"


def is_legal(network: nn.Module, name: str, example: Tensor) -> bool:
    """Return whether nothing but the output of layer ``name`` crosses a cut there."""
    try:
        return not _crossing(graph := trace(network, name, example).graph, _cut_node(graph, name))
    except UserError:
        return False


def _neighbors(network: nn.Module, at: str) -> list[str]:
    """Return the layers around ``at``: those beside it, then the modules that contain it and those beside them."""
    found: list[str] = []
    for name in [at, *reversed(ancestors(at))]:
        parent, _, own = name.rpartition(".")
        siblings = [child for child, _ in network.get_submodule(parent).named_children()]
        place = siblings.index(own)
        near = [own] + siblings[max(0, place - 1) : place] + siblings[place + 1 : place + 2]
        found += [f"{parent}.{child}" if parent else child for child in near]
    return [name for name in dict.fromkeys(found) if name != at]


def _top_level(network: nn.Module) -> str:
    return f"; its outermost layers are: {', '.join(name for name, _ in network.named_children())}"
