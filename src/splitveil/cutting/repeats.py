"""The check that the halves of a cut repeat the network, on other batches than the traced example and in both modes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .chance import drawn_next, seeded

BATCHES = (1, 2, 3, 8)
"""Batch sizes that are tried."""


def verify(
    network: nn.Module, encoder: nn.Module, tail: nn.Module, example: Tensor, at: str, batches: Collection[int] = ()
) -> list[nn.Parameter]:
    """Compare ``tail(encoder(x))`` with ``network(x)`` on batches of several sizes, in evaluation and in training.

    A trace holds the way that the code took for one image, in one mode. The three share their modules; statistics that
    training changes are put back. A batch that the network itself refuses, as batch norm one image, is no evidence, and
    nor is training in which it returns more than a tensor (auxiliary heads are left out of the halves). Two images are
    tried with gradients too, which code may ask for. Parameters all of whose numbers are equal, as in layers that begin
    at zero, are others meanwhile, since such a layer hides what comes before it; random numbers that only one of the
    two draws are a difference, as is a parameter that only the network learns.

    Args:
        network: whole network.
        encoder: device half.
        tail: cloud half.
        example: an input of the network.
        at: name of the layer, for the message.
        batches: further numbers of images, at which the traced code may take another way.

    Returns:
        Parameters that the halves would learn and the network does not, as of layers under ``torch.no_grad()``.

    Raises:
        UserError: they differ, or the network takes one image only.
    """
    kept = [(value, value.clone()) for value in network.buffers()]
    _check_batches(network, example, kept)
    modes = [(module, module.training) for half in (network, encoder, tail) for module in half.modules()]
    counts = sorted({*BATCHES, *batches})
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(counts[-1], *example.shape[1:], generator=rng)
    even = [(value, value.clone()) for value in network.parameters() if _is_even(value)]
    still: list[nn.Parameter] = []
    try:
        for value, _ in even:
            value += 0.1 * (1 + value.abs()) * torch.randn(value.shape, generator=rng).to(value)
        for training, gradients in itertools.product((False, True), repeat=2):
            for half in (network, encoder, tail):
                half.train(training)
            for count in (2,) if gradients else counts:
                x = images[:count].to(example)
                with torch.set_grad_enabled(gradients):
                    same = _same(network, lambda z: tail(encoder(z)), x, kept)
                if not same:
                    mode = ("in training" if training else "in evaluation") + (" with gradients" if gradients else "")
                    raise UserError(
                        f"cut at '{at}', the halves do not repeat the network's output on {count} images {mode} "
                        "(its code branches on the batch, the mode or chance); cut elsewhere, or write the halves "
                        "yourself: SplitModel(encoder, tail)"
                    )
                if gradients:
                    still = _still(network, encoder, tail, x, kept, at)
    finally:
        for value, before in even:
            value.copy_(before)
        for module, training in modes:
            module.training = training
    return still


def _is_even(value: Tensor) -> bool:
    return value.is_floating_point() and value.numel() > 0 and bool((value == value.flatten()[0]).all())


def _still(
    network: nn.Module, encoder: nn.Module, tail: nn.Module, x: Tensor, kept: list[tuple[Tensor, Tensor]], at: str
) -> list[nn.Parameter]:
    """Return the parameters that only the halves learn, in the mode that all are in.

    Raises:
        UserError: there is one that only the network learns.
    """
    names = {value: name for name, value in network.named_parameters() if value.requires_grad}
    learned = [_learned(way, x, list(names), kept) for way in (network, lambda z: tail(encoder(z)))]
    if learned[0] is None or learned[1] is None:
        return []
    if lost := [names[value] for value in names if value in learned[0] and value not in learned[1]]:
        raise UserError(
            f"cut at '{at}', the halves leave out {lost[0]}, from which the network's output is computed; cut "
            "elsewhere, or write the halves yourself: SplitModel(encoder, tail)"
        )
    return [value for value in names if value in learned[1] and value not in learned[0]]


def _learned(
    function: Callable[[Tensor], Any], x: Tensor, parameters: list[nn.Parameter], kept: list[tuple[Tensor, Tensor]]
) -> set[nn.Parameter] | None:
    """Return the parameters from which an answer is computed; None where that cannot be told."""

    def slopes(images: Tensor) -> set[nn.Parameter]:
        answer = function(images)
        if not isinstance(answer, Tensor):
            raise TypeError("more than a tensor, as of auxiliary heads")
        if not answer.requires_grad:
            return set()
        found = torch.autograd.grad(answer.sum(), parameters, allow_unused=True)
        return {value for value, slope in zip(parameters, found, strict=True) if slope is not None}

    with torch.enable_grad():
        learned, refused, _ = _answer(slopes, x, kept)  # statistics are put back after the backward pass
    return None if refused else learned


def _check_batches(network: nn.Module, example: Tensor, kept: list[tuple[Tensor, Tensor]]) -> None:
    """Refuse a network made for single images, as by ``view(1, -1)``; it is in evaluation mode."""
    pair = torch.cat([example[:1], example[:1]])
    answers, refused, _ = _answer(network, pair, kept)
    if len(example) == 1 and (refused or (isinstance(answers, Tensor) and len(answers) != 2)):
        raise UserError(
            "the network takes one image at a time, and not a batch of 2; expected logits (B, classes) for images "
            "(B, 3, S, S): write x.flatten(1) where it has x.view(1, -1)"
        )


def _same(
    network: Callable[[Tensor], Any],
    halves: Callable[[Tensor], Any],
    x: Tensor,
    kept: list[tuple[Tensor, Tensor]],
) -> bool:
    expected, refused, drawn = _answer(network, x, kept)
    if refused or not isinstance(expected, Tensor):
        return True
    got, refused, again = _answer(halves, x, kept)
    if refused or got.shape != expected.shape or again != drawn:
        return False
    return torch.allclose(got, expected, rtol=1e-3, atol=1e-4, equal_nan=True)


def _answer(
    function: Callable[[Tensor], Any], x: Tensor, kept: list[tuple[Tensor, Tensor]]
) -> tuple[Any, bool, tuple[float, ...]]:
    """Return the answer of a function, whether it refuses the batch, and what each generator draws afterwards.

    The random numbers are the same each time.
    """
    with seeded():
        try:
            answer, refused = function(x.clone()), False
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError):
            answer, refused = None, True
        finally:
            for value, before in kept:
                value.copy_(before)
        return answer, refused, drawn_next()
