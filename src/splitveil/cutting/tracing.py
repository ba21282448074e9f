"""Traces of the modules around a cut."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from ..errors import UserError
from .branches import batches_about
from .recorded import recorded_len
from .ways import other_batches, way_to_logits


@dataclass(frozen=True)
class Trace:
    """What the code around a cut does, for an example.

    Attributes:
        graph: its steps.
        root: modules and tensors that the steps name, as the network does.
        batches: numbers of images that are to be tried, as the code branches on them.
        values: results of the steps for the example.
        changed: tensors that a step has changed in place.
    """

    graph: fx.Graph
    root: dict[str, Any]
    batches: set[int]
    values: dict[fx.Node, Any]
    changed: dict[fx.Node, list[Tensor]]


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
        self.changed: dict[fx.Node, list[Tensor]] = {}

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
        before = [(value, value._version) for value in tensors((args, kwargs)) if not value.is_inference()]
        found = self._called(node.op, target, args, kwargs)
        if changed := [value for value, version in before if value._version != version]:
            self.changed[node] = changed
        return found

    def _called(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        if kind == "call_function":
            return target(*args, **kwargs)
        if kind == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return self.root.get_submodule(target)(*args, **kwargs)


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value.

    Args:
        value: tensor, or lists, tuples and dictionaries of such; all else is left out.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors(part)


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


def trace(network: nn.Module, at: str, example: Tensor, lenient: bool = False) -> Trace:
    """Trace the code around a layer.

    Args:
        network: that is cut.
        at: name of the layer.
        example: an input of the network.
        lenient: leave out values that cannot be computed.

    Raises:
        UserError: the code cannot be traced.
    """
    whole, tracer = _Whole(network), _Tracer(at, example.clone(), lenient)
    entered = [network] + [network.get_submodule(name) for name in ancestors(at)]
    try:
        with recorded_len(entered):
            graph = tracer.trace(whole)
    except Exception as error:
        raise UserError(
            f"the code around layer '{at}' cannot be traced ({first_line(error)}); "
            "cut elsewhere, or write the halves yourself: SplitModel(encoder, tail)"
        ) from error
    root: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            value = _attribute(whole, node.target)
            node.target = node.target.removeprefix("network.")
            root[node.target] = value
    return Trace(graph, root, tracer.batches, tracer.values, tracer.changed)


def trace_both_modes(network: nn.Module, at: str, example: Tensor) -> Trace:
    """Trace in evaluation mode; arguments that follow ``self.training`` keep following it.

    A trace freezes ``dropout(x, training=self.training)``. The second trace, in training mode, shows which
    arguments these are. Auxiliary heads, which only training has, are left aside; they may be too large for the
    example. Where training runs other code on the way to the logits, the graph of evaluation stands.
    """
    found = trace(network, at, example)
    batches = found.batches | other_batches(
        lambda twin, x: trace(twin, at, x, lenient=True).graph, network, found.graph, example
    )
    inside = [network] + [network.get_submodule(name) for name in ancestors(at)]
    for module in inside:
        module.training = True
    other = trace(network, at, example, lenient=True)
    for module in inside:
        module.training = False
    found = replace(found, batches=batches | other.batches)
    ways = way_to_logits(found.graph), way_to_logits(other.graph)
    pairs = list(zip(*ways, strict=False))
    if len(ways[0]) != len(ways[1]) or any((a.op, a.target) != (b.op, b.target) for a, b in pairs):
        return found
    for node, its in pairs:
        if not any(_follows(*both) for both in _arguments(node, its)):
            continue
        with found.graph.inserting_before(node):
            mode = found.graph.create_node("get_attr", "training")
        node.args = tuple(mode if _follows(a, b) else a for a, b in zip(node.args, its.args, strict=True))
        node.kwargs = {key: mode if _follows(a, its.kwargs[key]) else a for key, a in node.kwargs.items()}
        found.root["training"] = False
    return found


def _arguments(node: fx.Node, other: fx.Node) -> list[tuple[Any, Any]]:
    values = [(a, other.kwargs.get(key)) for key, a in node.kwargs.items()]
    return list(zip(node.args, other.args, strict=False)) + values


def _follows(evaluation: Any, training: Any) -> bool:
    return evaluation is False and training is True


def ancestors(at: str) -> list[str]:
    """Return the names of the modules that contain ``at``, outermost first, without the network itself.

    >>> ancestors("layer1.0.conv1")
    ['layer1', 'layer1.0']
    """
    parts = at.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class where it has none."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def _attribute(root: Any, path: str) -> Any:
    for part in path.split("."):
        root = getattr(root, part)
    return root
