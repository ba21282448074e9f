"""What had been hidden on a wire before a known offset was added to it."""

from __future__ import annotations

import torch
from torch import Tensor


def matched(wire: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a wire shows where entries were set to zero before one of the ``offsets`` was added.

    Such an entry equals the offset's, to the last bit, which numbers of a feature do only by rare chance: the offset
    that most entries of a wire equal is the one that was added, and these entries were hidden.

    Args:
        wire: (B, ...); each is looked at alone.
        offsets: (K, ...).

    Returns:
        The entries that were not hidden, bool, as the wire, and which of the offsets each wire can have, bool (B, K).

    >>> matched(torch.tensor([[0.7, 1.0], [2.3, 2.1]]), torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    (tensor([[ True, False],
            [ True,  True]]), tensor([[ True, False],
            [ True,  True]]))
    """
    equal = torch.stack([(wire == offset).flatten(1).sum(1) for offset in offsets], 1)
    return wire != offsets[equal.argmax(1)], equal == equal.amax(1, keepdim=True)
