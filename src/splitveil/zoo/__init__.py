"""Networks by name, cut in two halves: the device's encoder and the cloud's tail."""

from __future__ import annotations

from ..errors import unknown
from ..ranges import Count, Pixels, checked
from ..registry import Registry
from .base import Bottleneck, Parts

__all__ = ["Bottleneck", "Parts", "build"]


@checked
def build(
    arch: str,
    *,
    cut: int | None = None,
    classes: Count,
    image_size: Pixels,
    bottleneck: Bottleneck | None = None,
) -> Parts:
    """Build the network ``arch`` with fresh weights, cut in two.

    Args:
        arch: a name of the registry (``vgg11_bn_sgm``), or ``torchvision:NAME@LAYER``, ``timm:NAME@LAYER``.
        cut: how many blocks of the network's list are on the device; with ``@LAYER`` the name says it.
        classes: number of logits.
        image_size: side of the square images, in pixels.
        bottleneck: narrows the wire to a few channels; None leaves the feature as it is.

    Returns:
        ``encoder``: normalized images (B, 3, S, S) -> z; ``tail``: z -> logits (B, classes).

    Raises:
        UserError: an unknown name (with the nearest), a cut out of range, a bottleneck that does not fit.

    Example:
        >>> import torch
        >>> parts = build("vgg11_bn_sgm", cut=4, classes=10, image_size=32, bottleneck=Bottleneck(8))
        >>> parts.encoder(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 8, 8, 8])
    """
    family, colon, _ = arch.partition(":")
    key = f"{family}:NAME@LAYER" if colon else arch
    registry = Registry("zoo")
    if key not in registry.names():
        raise unknown("model", arch, registry.names())
    builder = registry.get(key)
    return builder(arch, cut=cut, classes=classes, image_size=image_size, bottleneck=bottleneck)
