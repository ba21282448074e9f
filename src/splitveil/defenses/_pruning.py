"""Structured pruning of an encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..nn.copies import copy_of


def prune(encoder: nn.Module, example: Tensor, ratio: float) -> None:
    """Remove ``ratio`` of the channels of each group of coupled layers, in place; the output keeps its shape.

    Never more than ``ratio``: of 64 channels 0.05 removes 3, where the pruning library's own rule removes 4.
    Importance is Taylor's where the parameters hold gradients, else their magnitude. Modes, frozen weights and the
    layout of memory, which the library changes, stay as they are.

    Raises:
        UserError: no channel was removed.
    """
    try:
        import torch_pruning as tp
    except ImportError:
        raise UserError("patrol needs torch-pruning; install it with `pip install torch-pruning`") from None
    before = {name: p.shape for name, p in encoder.named_parameters()}
    with torch.enable_grad(), _kept(encoder):  # the library follows gradients, also where the caller wants none
        _prune(tp, encoder, example, ratio)
    if all(p.shape == before.get(name) for name, p in encoder.named_parameters()):
        raise UserError(
            f"patrol: ratio {ratio} removes no channel of this device network; use a larger ratio or a later cut"
        )


def _prune(tp: Any, encoder: nn.Module, example: Tensor, ratio: float) -> None:
    graded = any(p.grad is not None for p in encoder.parameters())
    importance = tp.importance.GroupTaylorImportance() if graded else tp.importance.GroupMagnitudeImportance()
    free = [
        name
        for name, layer in encoder.named_modules()
        if isinstance(layer, nn.Conv2d) and _is_free(encoder, name, example)
    ]
    done: set[nn.Module] = set()
    for layer in map(encoder.get_submodule, free):
        if layer in done:  # it went with the group of another
            continue
        graph = tp.DependencyGraph().build_dependency(encoder, example)
        channels = int(layer.out_channels)  # type: ignore[arg-type]
        group = graph.get_pruning_group(layer, tp.prune_conv_out_channels, list(range(channels)))
        done |= {dep.target.module for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)}
        scores = importance(group)
        assert scores is not None  # it is where no layer of the group has weights
        least = scores.argsort()[: int(ratio * channels)].tolist()
        if least:
            graph.get_pruning_group(layer, tp.prune_conv_out_channels, least).prune()


@contextmanager
def _kept(encoder: nn.Module) -> Iterator[None]:
    """Set the encoder to evaluation mode with all gradients on, as the library needs; restore it afterwards."""
    modes = {name: module.training for name, module in encoder.named_modules()}
    frozen = {name for name, p in encoder.named_parameters() if not p.requires_grad}
    last = {name for name, p in encoder.named_parameters() if p.dim() == 4 and not p.is_contiguous()}
    encoder.eval().requires_grad_(True)
    try:
        yield
    finally:
        for name, module in encoder.named_modules():
            module.training = modes[name]
        for name, p in encoder.named_parameters():
            p.requires_grad_(name not in frozen)
            if name in last:
                p.data = p.data.contiguous(memory_format=torch.channels_last)


def _is_free(encoder: nn.Module, name: str, example: Tensor) -> bool:
    """Return whether channels of the convolution ``name`` may go while the output keeps its shape: try on copies.

    It breaks where a number of channels is written into the code, as in shortcuts that pad with zeros. Layer norms
    without weights keep their size, as no saved tensor says it. Nor may channels go that change places on their way, as
    in a flip or a flatten with the channels last: the library would take the weights of others.
    """
    import torch_pruning as tp

    shape = encoder(example).shape
    for index in (0, -1):
        trial, ignoring = copy_of(encoder), copy_of(encoder)
        layer = trial.get_submodule(name)
        channel = index % int(layer.out_channels)  # type: ignore[arg-type]
        try:
            graph = tp.DependencyGraph().build_dependency(trial, example)
            group = graph.get_pruning_group(layer, tp.prune_conv_out_channels, [channel])
            told = _ignore(graph, group, trial, ignoring)
            group.prune()
            found = trial(example)
            if (
                found.shape != shape
                or _sizes(trial) != _sizes(encoder)
                or (told and not _alike(found, ignoring(example)))
            ):
                return False
        except (RuntimeError, IndexError, ZeroDivisionError):  # the library's, on code that it cannot follow
            return False
    return True


def _ignore(graph: Any, group: Any, trial: nn.Module, ignoring: nn.Module) -> bool:
    """Set to 0 what the group would remove of the weights of next layers; return whether that changes what it does.

    Then the network answers as if the channels were gone. Norms over several channels notice that they are.
    """
    names = {module: name for name, module in trial.named_modules()}
    for dep, gone in group:
        module = ignoring.get_submodule(names[dep.target.module]) if dep.target.module in names else None
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            return False
        if graph.is_in_channel_pruning_fn(dep.handler) and isinstance(module, nn.Conv2d | nn.Linear):
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                continue  # channel by channel: it goes with its input, and the layers after it count
            with torch.no_grad():
                module.weight[:, gone] = 0
    return True


def _alike(one: Tensor, other: Tensor) -> bool:
    """Return whether two answers differ by no more than rounding."""
    one, other = one.detach(), other.detach()
    return bool(torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max().clamp(min=1e-6))))


def _sizes(encoder: nn.Module) -> list[tuple[int, ...]]:
    """Return the sizes of layer norms without weights."""
    norms = [layer for layer in encoder.modules() if isinstance(layer, nn.LayerNorm) and layer.weight is None]
    return [tuple(layer.normalized_shape) for layer in norms]
