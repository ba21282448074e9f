"""No network is ever given an empty batch: many cannot reshape one."""

import pytest
import torch
from torch import nn

from splitveil.attacks.base import BATCH, Victim
from splitveil.data import Access, Split
from splitveil.model import SplitModel


class Reshaping(nn.Module):
    """An encoder whose view is ambiguous for no images, as that of many window transformers."""

    def forward(self, x):
        return x.view(x.size(0), 3, -1)


@pytest.mark.parametrize("count", [1, 2, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH])
def test_every_number_of_images_is_observed(count):
    model = SplitModel(Reshaping(), nn.Flatten(), layout="channels_first")
    images = Split(torch.zeros(count, 3, 2, 2, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))
    seen = Victim(model, frozenset({Access.QUERY})).observe(images)
    assert seen.wire(torch.arange(count), torch.Generator().manual_seed(0)).shape == (count, 3, 4)
