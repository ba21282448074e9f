"""Every defense of the registry that draws what crosses the wire."""

import torch
from torch import nn

from splitveil.defenses.base import Stack
from splitveil.model import SplitModel
from splitveil.registry import Registry

SHAPE = (4, 8, 8)
NOISY = {
    "gaussian": {"sigma": 0.001},
    "laplace": {"scale": 0.001},
    "cloak": {"low": 0.001, "high": 0.0011},
    "local_dp": {"epsilon": 1000.0},
    "vib": {},
    "shredder": {"scale": 0.001},
    "dropout": {},
}
"""Every defense that draws its wire, with noise far below the spacing of bfloat16 at 1 where it can be set."""


def build(name, **arguments):
    """The defense, installed in a model whose wire is the image."""
    torch.manual_seed(0)
    defense = Registry("defenses").get(name)(**arguments)
    model = SplitModel(nn.Identity(), nn.Flatten(), defense=Stack(defense))
    model.wire_shape = tuple(SHAPE)
    model.image_shape = (3, 8, 8)
    defense.install(model)
    return defense
