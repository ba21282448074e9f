"""Every random draw of the device becomes an input of its graph, which the device fills itself.

A graph that drew its noise would draw it from a seed, and whoever knows the seed knows the noise. So the graph draws
nothing: the calls of `torch.randn` and its like are recorded once and then replayed with numbers that are handed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from ..errors import UserError

Kind = Literal["normal", "uniform", "exponential", "integer"]
KINDS: dict[str, Kind] = {
    "randn": "normal",
    "randn_like": "normal",
    "normal_": "normal",
    "rand": "uniform",
    "rand_like": "uniform",
    "uniform_": "uniform",
    "exponential_": "exponential",
    "randint": "integer",
}
"""What the calls that can be moved draw: N(0, 1), uniform in [0, 1), Exp(1), or a whole number below ``high``."""
AUTOGRAD = frozenset({"grad", "backward", "requires_grad_"})
MOVABLE = "torch.randn, rand, randint or Tensor.normal_, uniform_, exponential_"
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Draw:
    """One call that draws numbers.

    Attributes:
        name: name of the graph's input.
        kind: law of the numbers.
        shape: of the numbers for one image; the input is (B, *shape).
        axis: axis of the call's own result that counts the images.
        high: whole numbers are below it; None for the other kinds.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    axis: int = 0
    high: int | None = None

    def sample(self, images: int, rng: torch.Generator) -> Tensor:
        """Return numbers for ``images`` images, float32 or int64 (B, *shape).

        Args:
            images: number B of images.
            rng: where they are drawn from.
        """
        shape = (images, *self.shape)
        if self.kind == "integer":
            return torch.randint(self.high or 1, shape, generator=rng)
        if self.kind == "exponential":
            return torch.empty(shape).exponential_(generator=rng)
        return (torch.randn if self.kind == "normal" else torch.rand)(shape, generator=rng)


@dataclass(frozen=True)
class _Call:
    """A call that draws: ``low + scale · number`` for numbers of a kind, put into ``into`` where it fills a tensor."""

    kind: Kind
    scale: float = 1.0
    low: float = 0.0
    high: int | None = None
    dtype: torch.dtype | None = None
    into: Tensor | None = None

    @classmethod
    def of(cls, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> _Call | None:
        """Read a call; None where it is none that can be moved."""
        name = getattr(function, "__name__", "")
        kind = KINDS.get(name)
        if kind is None:
            return None
        if name.endswith("_"):
            first, second = _two(name, args[1:], kwargs)
            if kind == "uniform":
                return cls(kind, second - first, first, into=args[0])
            return cls(kind, second, first, into=args[0]) if kind == "normal" else cls(kind, 1 / first, into=args[0])
        dtype = kwargs.get("dtype") or (args[0].dtype if name.endswith("_like") else None)
        if kind != "integer":
            return cls(kind, dtype=dtype)
        whole = [number for number in args if isinstance(number, int)]
        if "high" not in kwargs and len(whole) < 2:  # the one bound that is given is the upper one
            whole = [kwargs.get("low", 0), *whole]
        low, high = kwargs.get("low", whole[0] if whole else 0), kwargs.get("high", whole[-1] if whole else None)
        return cls(kind, low=low, high=high - low, dtype=dtype)

    def answer(self, numbers: Tensor) -> Tensor:
        """Return what the call returns for these numbers."""
        if self.kind == "integer":
            return (numbers + int(self.low)).to(self.dtype or torch.int64)
        drawn = numbers if (self.scale, self.low) == (1.0, 0.0) else self.low + self.scale * numbers
        if self.into is not None:
            return self.into.copy_(drawn)
        return drawn if self.dtype is None else drawn.to(self.dtype)

    def numbers(self, drawn: Tensor) -> Tensor:
        """Return the numbers that a call with this result has drawn."""
        if self.kind == "integer":
            numbers = drawn.long() - int(self.low)
            if self.high is None or not bool(((numbers >= 0) & (numbers < self.high)).all()):
                raise UserError("the bounds of a call of randint cannot be told; write randint(low, high, size)")
            return numbers
        return (drawn.float() - self.low) / (self.scale or 1.0)


def _two(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[float, float]:
    """Return the two numbers of a call that fills a tensor."""
    names, defaults = {
        "normal_": (("mean", "std"), (0.0, 1.0)),
        "uniform_": (("from", "to"), (0.0, 1.0)),
        "exponential_": (("lambd", ""), (1.0, 0.0)),
    }[name]
    given = [number for number in args if not isinstance(number, torch.Generator)]
    pairs = enumerate(zip(names, defaults, strict=True))
    first, second = (given[i] if i < len(given) else kwargs.get(key, default) for i, (key, default) in pairs)
    return float(first), float(second)


class Recording(TorchFunctionMode):
    """Let the calls draw, and keep what they drew; refuse what cannot be moved out of a graph.

    Args:
        who: what is recorded, for the message.

    Raises:
        UserError: a call draws in another way, or asks for gradients.

    >>> with Recording("the defense") as recording:
    ...     noise = torch.empty(2, 3).exponential_(generator=torch.Generator().manual_seed(0))
    >>> recording.calls[0].kind, torch.equal(recording.drawn[0], noise)
    ('exponential', True)
    """

    def __init__(self, who: str):
        super().__init__()
        self.who = who
        self.calls: list[_Call] = []
        self.drawn: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one call of torch."""
        kwargs = kwargs or {}
        name = resolve_name(func) or getattr(func, "__name__", str(func))
        if getattr(func, "__name__", "") in AUTOGRAD:
            raise UserError(
                f"{self.who} asks for gradients on the wire ({name}), which no graph can hold; leave it out"
            )
        call = _Call.of(func, args, kwargs)
        before = torch.default_generator.get_state() if call is None else None
        result = func(*args, **kwargs)
        if call is not None:
            self.calls.append(call)
            self.drawn.append(call.numbers(result.detach().clone()))
        elif any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values())) or not torch.equal(
            torch.default_generator.get_state(),
            before,  # type: ignore[arg-type]
        ):
            raise UserError(f"{self.who} draws by {name}, which cannot become an input; draw by {MOVABLE}")
        return result


class Replay(TorchFunctionMode):
    """Answer the calls that draw with given numbers, in the order of the recording.

    Args:
        draws: the calls.
        numbers: of each call, (B, *shape).
    """

    def __init__(self, draws: Sequence[Draw], numbers: Sequence[Tensor]):
        super().__init__()
        self._left = list(zip(draws, numbers, strict=True))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one call of torch, or answer it."""
        call = _Call.of(func, args, kwargs or {})
        if call is None:
            return func(*args, **(kwargs or {}))
        draw, numbers = self._left.pop(0)
        return call.answer(numbers.movedim(0, draw.axis))


def replayed(
    send: Callable[[Tensor, torch.Generator], Tensor], x: Tensor, draws: Sequence[Draw], numbers: Sequence[Tensor]
) -> Tensor:
    """Return what ``send(x, rng)`` returns with these numbers instead of those of a generator.

    Args:
        send: images (B, C, H, W) and a generator -> what is sent, (B, ...).
        x: pixels (B, C, H, W) in [0, 1].
        draws: of ``send``, from `trace`.
        numbers: for each draw, (B, *shape).
    """
    with Replay(draws, numbers):
        return send(x, torch.Generator())


@torch.no_grad()
def trace(send: Callable[[Tensor, torch.Generator], Tensor], x: Tensor, who: str) -> list[Draw]:
    """Return every draw of ``send``, found by running it on two and on three images.

    Args:
        send: images (B, C, H, W) and a generator -> what is sent, (B, ...).
        x: at least three different images, pixels (B, C, H, W) in [0, 1].
        who: what draws, for the messages.

    Raises:
        UserError: a draw that cannot become an input, that is the same for all images, or that is not torch's; an
            image whose wire depends on the images beside it.

    >>> trace(lambda x, rng: x + torch.randn(x.shape, generator=rng), torch.rand(3, 2), "noise")
    [Draw(name='n0', kind='normal', shape=(2,), axis=0, high=None)]
    """
    (_, _, two), (sent, calls, three) = (_recorded(send, x[:images], who) for images in (2, 3))
    if len(two) != len(three):
        raise UserError(
            f"{who} draws {len(two)} times for 2 images and {len(three)} times for 3; draw as often for any"
        )
    draws = []
    for i, (call, few, many) in enumerate(zip(calls, two, three, strict=True)):
        axis = _counted(few.shape, many.shape, who)
        draws.append(Draw(f"n{i}", call.kind, (*many.shape[:axis], *many.shape[axis + 1 :]), axis, call.high))
    numbers = [drawn.movedim(draw.axis, 0) for draw, drawn in zip(draws, three, strict=True)]
    if not _same(sent, replayed(send, x[:3], draws, numbers)):
        raise UserError(
            f"{who} draws numbers that are not torch's, so that its wire cannot be repeated; draw by {MOVABLE}"
        )
    alone = torch.cat([replayed(send, x[i : i + 1], draws, [n[i : i + 1] for n in numbers]) for i in range(3)])
    if not _same(sent, alone):
        raise UserError(f"{who} lets the wire of an image depend on the images beside it; a device sends one at a time")
    return draws


def _recorded(send: Any, x: Tensor, who: str) -> tuple[Tensor, list[_Call], list[Tensor]]:
    with Recording(who) as recording:
        sent = send(x, torch.Generator().manual_seed(0))
    return sent, recording.calls, recording.drawn


def _counted(few: Iterable[int], many: Iterable[int], who: str) -> int:
    """Return the axis that has grown from 2 to 3."""
    few, many = list(few), list(many)
    grown = [axis for axis, sizes in enumerate(zip(few, many, strict=False)) if sizes == (2, 3)]
    rest = [size for axis, size in enumerate(few) if axis not in grown]
    if len(few) != len(many) or len(grown) != 1 or rest != [s for axis, s in enumerate(many) if axis not in grown]:
        raise UserError(
            f"{who} draws {few} numbers for 2 images and {many} for 3; expected one axis that counts the images"
        )
    return grown[0]


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two wires are equal but for rounding."""
    if one.shape != other.shape:
        return False
    scale = float(one.abs().max()) if one.numel() else 0.0
    return math.isfinite(scale) and bool((one - other).abs().max() <= TOLERANCE * max(scale, 1e-12))
