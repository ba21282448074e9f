"""What somebody who knows the defense knows of the wire, once the feature is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

Looks = Literal["mean", "median", "union"]


@dataclass(frozen=True)
class Law:
    """The conditional law of the wire given the feature z, as far as a defense has one to tell.

    Attributes:
        variance: of the noise on each visible entry, broadcastable to the wire; None: not told, to be measured.
        visible: bool, as the wire: the entries that carry z. None: all do.
        looks: how several wires of one image are made into one: their "mean", which is sufficient for Gaussian noise;
            their "median", for noise with a sharp peak; the "union" of what each shows.
    """

    variance: Tensor | float | None = 0.0
    visible: Tensor | None = None
    looks: Looks = "mean"

    def with_noise(self, variance: Tensor | float, looks: Looks = "mean") -> Law:
        """The law after independent noise was added to every entry: what was invisible can no longer be told apart.

        >>> Law(0.01).with_noise(0.03).variance
        0.04
        """
        known = None if self.variance is None or self.visible is not None else self.variance + variance
        return Law(known, None, "median" if "median" in (looks, self.looks) else "mean")

    def silent(self) -> Law:
        """The law after something of which nothing is known."""
        return Law(None, None, self.looks)

    def hiding(self, visible: Tensor, scale: float = 1.0) -> Law:
        """The law after all but the ``visible`` entries were set to zero and these multiplied by ``scale``."""
        variance = None if self.variance is None else self.variance * scale**2
        return replace(self, variance=variance, visible=visible, looks="union")


def law_of(defense: Any, wire: Tensor) -> Law:
    """The law that ``defense`` (None: there is none) tells of a wire (B, ...)."""
    if defense is None:
        return Law()
    told = getattr(defense, "law", None)
    return Law(None) if told is None else told(wire, Law())


def combined(looks: Tensor, law: Law) -> Tensor:
    """One wire (B, ...) of several looks (k, B, ...) at the same images.

    Args:
        law: of the looks, laid one after the other: (k · B, ...).

    >>> import torch
    >>> looks = torch.tensor([[[0.0, 4.0]], [[2.0, 2.0]]])
    >>> combined(looks, Law(looks="mean"))
    tensor([[1., 3.]])
    >>> combined(looks, Law(visible=looks.flatten(0, 1) != 0, looks="union"))
    tensor([[2., 3.]])
    """
    if law.looks == "median":
        ranked = looks.sort(0).values
        return (ranked[(len(looks) - 1) // 2] + ranked[len(looks) // 2]) / 2
    if law.looks == "mean" or law.visible is None:
        return looks.mean(0)
    seen = law.visible.view_as(looks)
    return (looks * seen).sum(0) / seen.sum(0).clamp(min=1)
