"""The check that the halves of a cut repeat the network, on other batches than the traced example and in both modes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError

BATCHES = (1, 2, 3, 8)
"""Batch sizes that are tried."""


def verify(
    network: nn.Module, encoder: nn.Module, tail: nn.Module, example: Tensor, at: str, batches: Collection[int] = ()
) -> None:
    """Compare ``tail(encoder(x))`` with ``network(x)`` on batches of several sizes, in evaluation and in training.

    A trace holds the way that the code took for one image, in one mode. The three share their modules; statistics that
    training changes are put back. A batch that the network itself refuses, as batch norm one image, is no evidence, and
    nor is training in which it returns more than a tensor (auxiliary heads are left out of the halves). Two images are
    tried with gradients too, which code may ask for.

    Args:
        network: whole network.
        encoder: device half.
        tail: cloud half.
        example: an input of the network.
        at: name of the layer, for the message.
        batches: further numbers of images, at which the traced code may take another way.

    Raises:
        UserError: they differ, or the network takes one image only.
    """
    kept = [(value, value.clone()) for value in network.buffers()]
    _check_batches(network, example, kept)
    modes = [(module, module.training) for half in (network, encoder, tail) for module in half.modules()]
    counts = sorted({*BATCHES, *batches})
    images = torch.rand(counts[-1], *example.shape[1:], generator=torch.Generator().manual_seed(0))
    try:
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
                        "(its code branches on the batch or the mode); cut elsewhere, or write the halves yourself: "
                        "SplitModel(encoder, tail)"
                    )
    finally:
        for module, training in modes:
            module.training = training


def _check_batches(network: nn.Module, example: Tensor, kept: list[tuple[Tensor, Tensor]]) -> None:
    """Refuse a network made for single images, as by ``view(1, -1)``; it is in evaluation mode."""
    pair = torch.cat([example[:1], example[:1]])
    answers, refused = _answer(network, pair, kept)
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
    expected, refused = _answer(network, x, kept)
    if refused or not isinstance(expected, Tensor):
        return True
    got, refused = _answer(halves, x, kept)
    if refused or got.shape != expected.shape:
        return False
    return torch.allclose(got, expected, rtol=1e-3, atol=1e-4, equal_nan=True)


def _answer(function: Callable[[Tensor], Any], x: Tensor, kept: list[tuple[Tensor, Tensor]]) -> tuple[Any, bool]:
    """Return the answer of ``function`` with the same random numbers each time, and whether it refuses the batch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            return function(x.clone()), False
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError):
            return None, True
        finally:
            for value, before in kept:
                value.copy_(before)
