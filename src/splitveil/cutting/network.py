"""Cut a network at a named layer, by tracing only the modules that contain the layer."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import UserError, did_you_mean
from ..nn.copies import copy_of
from .branches import batches_about
from .layout import Layout, channel_move, parse
from .modes import Half, keep_still
from .recorded import recorded_len
from .repeats import verify
from .ways import end_of, other_batches, steps_before, way_to_logits

Traced = tuple[fx.Graph, dict[str, Any], set[int]]
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
        expected = _run(twin, example)
        graph, root, batches = _trace_both_modes(twin, at, example)
        crossing = _crossing(graph, _cut_node(graph, at))
        if crossing:
            raise UserError(_crossing_message(twin, at, example, crossing))
        encoder, tail = _halves(graph, root, at)
        _check(encoder, tail, example, expected, at)
        move = channel_move(twin, at, example, larger, layout)
        encoder.meta[MOVED] = move is not None
        if move is not None:
            _move_channels(encoder, tail, *move)
            _check(encoder, tail, example, expected, at)
        keep_still(twin, encoder, tail)
        verify(twin, encoder, tail, example, at, batches)
    for module, training in modes:
        module.training = training
    encoder.training = tail.training = network.training
    return encoder, tail


def _run(network: nn.Module, example: Tensor) -> Any:
    try:
        return network(example.clone())
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise UserError(
            f"the network does not take an input of shape {tuple(example.shape)} ({_first_line(error)}); "
            "choose another image size or network"
        ) from error


class _Whole(nn.Module):
    """The network with one argument, so that its other arguments keep their defaults."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        return self.network(x)


class _Tracer(fx.Tracer):
    """A tracer that enters only the ancestors of the cut, and knows the value of every node for the example.

    The values decide branches on shapes (as ``if x.shape[2] > 7``), at which plain tracing gives up.

    Args:
        lenient: leave out values that cannot be computed, which only matters where a branch asks for them.
    """

    def __init__(self, at: str, example: Tensor, lenient: bool = False):
        super().__init__()
        self.lenient = lenient
        self.at = f"network.{at}"
        self.example = example
        self.values: dict[fx.Node, Any] = {}
        self.running = False
        self.batches: set[int] = set()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not self.at.startswith(f"{module_qualified_name}.")

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self.running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(self, kind: str, *args: Any, **kwargs: Any) -> fx.Proxy:
        proxy = super().create_proxy(kind, *args, **kwargs)
        if kind != "output":
            self.running = True
            try:
                self.values[proxy.node] = self._value(proxy.node)
            except (RuntimeError, ValueError, TypeError, AssertionError, LookupError):
                if not self.lenient:
                    raise
            finally:
                self.running = False
        return proxy

    def to_bool(self, obj: fx.Proxy) -> bool:
        if obj.node not in self.values or isinstance(self.values[obj.node], Tensor):
            return super().to_bool(obj)
        self.batches |= batches_about(obj.node, self.values, self.lenient)
        return bool(self.values[obj.node])

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        value = self.values.get(obj.node)
        if not isinstance(value, tuple | list):
            return super().iter(obj)
        return iter([self.create_proxy("call_function", operator.getitem, (obj, i), {}) for i in range(len(value))])

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.example
        target: Any = node.target
        if node.op == "get_attr":
            return _attribute(self.root, target)
        args, kwargs = _plain((node.args, node.kwargs), self.values)
        if node.op == "call_function":
            return target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return self.root.get_submodule(target)(*args, **kwargs)


def _plain(value: Any, values: dict[fx.Node, Any]) -> Any:
    """Return an argument with the values of its nodes; lists are new and may be changed, unlike those of torch.fx."""
    if isinstance(value, fx.Node):
        return values[value]
    if isinstance(value, list):
        return [_plain(item, values) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item, values) for key, item in value.items()}
    if isinstance(value, tuple):
        items = [_plain(item, values) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, slice):
        return slice(*(_plain(item, values) for item in (value.start, value.stop, value.step)))
    return value


def _trace(network: nn.Module, at: str, example: Tensor, lenient: bool = False) -> Traced:
    """Return the graph around ``at``, the modules and tensors that it names as ``network`` does, and batches to try."""
    whole, tracer = _Whole(network), _Tracer(at, example.clone(), lenient)
    entered = [network] + [network.get_submodule(name) for name in _ancestors(at)]
    try:
        with recorded_len(entered):
            graph = tracer.trace(whole)
    except Exception as error:
        raise UserError(
            f"the code around layer '{at}' cannot be traced ({_first_line(error)}); "
            "cut elsewhere, or write the halves yourself: SplitModel(encoder, tail)"
        ) from error
    root: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            value = _attribute(whole, node.target)
            node.target = node.target.removeprefix("network.")
            root[node.target] = value
    return graph, root, tracer.batches


def _trace_both_modes(network: nn.Module, at: str, example: Tensor) -> Traced:
    """Trace in evaluation mode; arguments that follow ``self.training`` keep following it.

    A trace freezes ``dropout(x, training=self.training)``. The second trace, in training mode, shows which
    arguments these are. Auxiliary heads, which only training has, are left aside; they may be too large for the
    example. Where training runs other code on the way to the logits, the graph of evaluation stands.
    """
    graph, root, batches = _trace(network, at, example)
    batches |= other_batches(lambda twin, x: _trace(twin, at, x, lenient=True)[0], network, graph, example)
    ancestors = [network] + [network.get_submodule(name) for name in _ancestors(at)]
    for module in ancestors:
        module.training = True
    training_graph, _, more = _trace(network, at, example, lenient=True)
    batches |= more
    for module in ancestors:
        module.training = False
    ways = way_to_logits(graph), way_to_logits(training_graph)
    pairs = list(zip(*ways, strict=False))
    if len(ways[0]) != len(ways[1]) or any((a.op, a.target) != (b.op, b.target) for a, b in pairs):
        return graph, root, batches
    for node, other in pairs:
        if not any(_follows(*both) for both in _arguments(node, other)):
            continue
        with graph.inserting_before(node):
            mode = graph.create_node("get_attr", "training")
        node.args = tuple(mode if _follows(a, b) else a for a, b in zip(node.args, other.args, strict=True))
        node.kwargs = {key: mode if _follows(a, other.kwargs[key]) else a for key, a in node.kwargs.items()}
        root["training"] = False
    return graph, root, batches


def _arguments(node: fx.Node, other: fx.Node) -> list[tuple[Any, Any]]:
    values = [(a, other.kwargs.get(key)) for key, a in node.kwargs.items()]
    return list(zip(node.args, other.args, strict=False)) + values


def _follows(evaluation: Any, training: Any) -> bool:
    return evaluation is False and training is True


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


def _halves(graph: fx.Graph, root: dict[str, Any], at: str) -> tuple[fx.GraphModule, fx.GraphModule]:
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
    for node in (n for n in graph.nodes if n in after):
        copies[node] = tail.node_copy(node, lambda n: copies[n])
    halves = [Half({n.target: root[n.target] for n in g.nodes if n.target in root}, g) for g in (encoder, tail)]
    shared = {id(p) for p in halves[0].parameters()}
    both = [name for name, p in halves[1].named_parameters() if id(p) in shared]
    if both:
        raise UserError(f"a cut at '{at}' leaves the weights {', '.join(both)} in both halves; cut at another layer")
    return halves[0], halves[1]


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
        return not _crossing(graph := _trace(network, name, example)[0], _cut_node(graph, name))
    except UserError:
        return False


def _neighbors(network: nn.Module, at: str) -> list[str]:
    """Return the layers around ``at``: those beside it, then the modules that contain it and those beside them."""
    found: list[str] = []
    for name in [at, *reversed(_ancestors(at))]:
        parent, _, own = name.rpartition(".")
        siblings = [child for child, _ in network.get_submodule(parent).named_children()]
        place = siblings.index(own)
        near = [own] + siblings[max(0, place - 1) : place] + siblings[place + 1 : place + 2]
        found += [f"{parent}.{child}" if parent else child for child in near]
    return [name for name in dict.fromkeys(found) if name != at]


def _ancestors(at: str) -> list[str]:
    """Return the names of the modules that contain ``at``, outermost first, without the network itself.

    >>> _ancestors("layer1.0.conv1")
    ['layer1', 'layer1.0']
    """
    parts = at.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def _top_level(network: nn.Module) -> str:
    return f"; its outermost layers are: {', '.join(name for name, _ in network.named_children())}"


def _attribute(root: Any, path: str) -> Any:
    for part in path.split("."):
        root = getattr(root, part)
    return root
