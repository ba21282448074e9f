"""Axis 0 of what crosses the wire counts the images: else wires would be paired with other images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from splitveil.attacks.base import Victim
from splitveil.data import Access, Split
from splitveil.errors import UserError
from splitveil.model import SplitModel

X = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
QUERY = frozenset({Access.QUERY})


class Encoder(nn.Module):
    """A convolution whose maps (B, 8, 4, 4) are reshaped."""

    def __init__(self, reshape):
        super().__init__()
        self.conv, self.reshape = nn.Conv2d(3, 8, 4, 4), reshape

    def forward(self, x: Tensor) -> Tensor:
        return self.reshape(self.conv(x))


OTHERWISE = {
    "sequence first": lambda z: z.flatten(2).permute(2, 0, 1),
    "patches": lambda z: z.unflatten(2, (2, 2)).movedim(2, 1).flatten(0, 1),
    "squeezed": lambda z: z.mean((2, 3)).squeeze(),
    "time first": lambda z: torch.stack([z, z]),
    "no axis left": lambda z: z.mean((1, 2, 3)),
    "one row for all": lambda z: z.mean(0, keepdim=True),
}


@pytest.mark.parametrize("layout", [None, "channels_first"])
@pytest.mark.parametrize("reshape", OTHERWISE.values(), ids=OTHERWISE)
def test_features_that_are_not_one_per_image_are_refused(reshape, layout):
    message = r"the encoder's features of [12] image\(s\) are .*axis 0 counts the images"
    with pytest.raises(UserError, match=message):
        SplitModel(Encoder(reshape), nn.Flatten(), layout=layout, example=X[:1])
    victim = Victim(SplitModel(Encoder(reshape), nn.Flatten(), layout=layout), QUERY)
    with pytest.raises(UserError, match=message):
        victim.query(X, torch.Generator())
    split = Split((X * 255).to(torch.uint8), torch.zeros(4, dtype=torch.long))
    with pytest.raises(UserError, match=message):
        victim.observe(split)


@pytest.mark.parametrize("reshape", [lambda z: z, lambda z: z.flatten(1), lambda z: z.flatten(2).mT])
def test_features_that_are_one_per_image_are_taken(reshape):
    model = SplitModel(Encoder(reshape), nn.Flatten(), example=X[:1])
    assert Victim(model, QUERY).query(X, torch.Generator()).shape == (4, *model.wire_shape)


def test_a_cut_behind_a_transformer_with_the_tokens_first_is_refused():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.block = nn.Conv2d(3, 16, 4, 4), nn.TransformerEncoderLayer(16, 2, 32)
            self.head = nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.patches(x).flatten(2).permute(2, 0, 1)).mean(0))

    with pytest.raises(UserError, match=r"features of 1 image\(s\) are \(16, 1, 16\)"):
        SplitModel.cut(Network().eval(), "block", X[:1])
