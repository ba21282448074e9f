"""Layers that take the shapes of saved tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def resize(module: nn.Module, tensors: dict[str, Tensor], prefix: str) -> bool:
    """Give layers the shapes of the saved ``tensors``; return True where one changed.

    Convolutions, linear and normalizing layers also take the numbers of channels that follow from the shapes.
    """
    changed = False
    for name, layer in module.named_modules(prefix=prefix.removesuffix(".")):
        for kind, own in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
            saved = tensors.get(f"{name}.{kind}")
            if saved is None or saved.shape == own.shape or saved.dim() != own.dim():
                continue
            fresh = torch.empty_like(saved, device=own.device)
            setattr(layer, kind, nn.Parameter(fresh) if isinstance(own, nn.Parameter) else fresh)
            changed = True
        if isinstance(layer, nn.Conv2d):
            depthwise = layer.groups == layer.in_channels == layer.out_channels
            layer.out_channels, per_group = layer.weight.shape[:2]
            layer.groups = layer.out_channels if depthwise else layer.groups
            layer.in_channels = per_group * layer.groups
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, nn.LayerNorm) and layer.weight is not None:
            layer.normalized_shape = tuple(layer.weight.shape)
        elif isinstance(layer, nn.GroupNorm) and layer.weight is not None:
            layer.num_channels = len(layer.weight)
        elif isinstance(layer, nn.modules.batchnorm._NormBase) and layer.weight is not None:
            layer.num_features = len(layer.weight)
    return changed
