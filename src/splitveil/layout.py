"""Where the channels of a feature are: found by trying, so that every wire comes as (C, H, W) or (T, C)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .errors import UserError

_MAPS = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm2d,
    nn.InstanceNorm2d,
    nn.GroupNorm,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)
"""Layers whose output has its channels in front."""


def channel_move(
    network: nn.Module, at: str, example: Tensor, larger: Callable[[], nn.Module] | None = None
) -> tuple[int, int] | None:
    """From which axis to which the channels of the output of layer ``at`` must move; None where they are right.

    An image of twice the side makes the places of a feature more and leaves its channels as they are. Where the
    network takes one size only, or the feature does not grow, the layer that made it decides.

    Args:
        example: an input (1, 3, S, S) of the network.
        larger: builds the same network for images of twice the side; for networks made for one size.

    Raises:
        UserError: maps whose channels cannot be told from their places.

    >>> channel_move(nn.Sequential(nn.Conv2d(3, 8, 3)), "0", torch.zeros(1, 3, 8, 8)) is None
    True
    """
    with torch.no_grad(), torch.random.fork_rng():  # the weights that are drawn next stay what they were
        feature, makers = _watched(network, at, example)
        if feature.dim() not in (3, 4):
            return None
        axis = _constant_axis(feature, _grown(network, at, example, larger))
    if feature.dim() == 3:  # no decoder relies on the places of tokens, so that these may stay unknown
        return None if axis in (None, 2) else (axis, 2)
    axis = _made_by(feature, makers) if axis is None else axis
    if axis is None:
        raise UserError(
            f"which axis of the output {tuple(feature.shape[1:])} of layer '{at}' holds the channels cannot be told; "
            "cut at another layer, or write the halves yourself with channels first: SplitModel(encoder, tail)"
        )
    return None if axis == 1 else (axis, 1)


def _watched(network: nn.Module, at: str, example: Tensor) -> tuple[Tensor, list[tuple[nn.Module, torch.Size]]]:
    """The output of layer ``at``, and the layers without children that ran up to it, with their outputs' shapes."""
    found: list[Tensor] = []
    ran: list[tuple[nn.Module, torch.Size]] = []

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not found:
            if not list(module.children()):
                ran.append((module, output.shape))
            if module is layer:
                found.append(output)

    layer = network.get_submodule(at)
    handles = [module.register_forward_hook(note) for module in network.modules()]
    try:
        network(example.clone())
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise UserError(f"layer '{at}' returns no tensor; expected one; cut at another layer")
    return found[0], ran


def _grown(network: nn.Module, at: str, example: Tensor, larger: Callable[[], nn.Module] | None) -> torch.Size | None:
    """Shape of the feature for an image of twice the side; None where the network takes no such image."""
    if example.dim() != 4:
        return None
    image = interpolate(example.float(), scale_factor=2).to(example.dtype)
    # On a copy: some networks keep what they computed for a size.
    for build in (lambda: copy.deepcopy(network), larger):
        try:
            if build is not None:
                return _watched(build().eval(), at, image)[0].shape
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, UserError):
            continue  # the network is made for one size: that is an answer too
    return None


def _constant_axis(feature: Tensor, grown: torch.Size | None) -> int | None:
    """The one axis besides the batch that did not change, where all others did."""
    if grown is None or len(grown) != feature.dim() or grown[0] != feature.shape[0]:
        return None
    same = [axis for axis in range(1, feature.dim()) if grown[axis] == feature.shape[axis]]
    return same[0] if len(same) == 1 else None


def _made_by(feature: Tensor, ran: list[tuple[nn.Module, torch.Size]]) -> int | None:
    """1 or 3, by the last layer whose output has the feature's shape and whose layout is known."""
    for module, shape in reversed(ran):
        if shape != feature.shape:
            continue
        if isinstance(module, _MAPS):
            return 1
        # Subclasses of layer norm and linear layers bring their channels elsewhere.
        if type(module) in (nn.LayerNorm, nn.Linear):
            return 3
    return None
