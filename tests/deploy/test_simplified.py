"""Graphs with fewer operators give the numbers of the module, for images of one color too."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from splitveil.deploy.graphs import Session, onnx_bytes

ZEROS = torch.zeros(2, 4)
SMALL = torch.tensor([[0, 1e-7, 1e-3, 1], [0.5, 2, 3, 4]])
CASES = {
    "a norm": (lambda x: x / (x.norm(dim=1, keepdim=True) + 1e-12), ZEROS),
    "a deviation": (lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-9), ZEROS + 0.5),
    "a logarithm": (lambda x: torch.log(x + 1e-8), ZEROS),
    "what is taken away": (lambda x: torch.log(x - -1e-9), SMALL),
    "a factor": (lambda x: x * 1.000009, SMALL),
    "a divisor": (lambda x: x / 0.999992, SMALL),
    "two ranges": (lambda x: x.clamp(0, 1).clamp(2, 3), SMALL),
}


class Cases(nn.Module):
    """All cases in one graph, as each export takes half a second."""

    def forward(self, xs: list[Tensor]) -> tuple[Tensor, ...]:
        return tuple(function(x) for (function, _), x in zip(CASES.values(), xs, strict=True))


class Added(nn.Module):
    """Adds what does not depend on the input."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(6.0) * 2


def test_no_number_disappears():
    xs = [x for _, x in CASES.values()]
    names = [f"x{i}" for i in range(len(xs))]
    session = Session(onnx_bytes(Cases(), (xs,), names, [f"y{i}" for i in range(len(xs))]))
    found = session.all(dict(zip(names, xs, strict=True)))
    expected = Cases()(xs)
    each = zip(CASES, found, expected, strict=True)
    wrong = [name for name, one, other in each if not torch.allclose(one, other, rtol=2e-7, atol=0)]
    assert not wrong


def test_batch_norms_and_constants_are_folded():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2), nn.BatchNorm2d(2)]
    layers += [nn.Flatten(), nn.Linear(50, 6), nn.BatchNorm1d(6), Added()]
    module, x = nn.Sequential(*layers), torch.rand(4, 3, 6, 6)
    for _ in range(3):
        module(x)
    model = onnx_bytes(module.eval(), (x,), ["x"], ["y"])
    kinds = [node.op_type for node in onnx.load_from_string(model).graph.node]
    assert not {"BatchNormalization", "Constant", "Range", "Mul"} & set(kinds)
    torch.testing.assert_close(Session(model)({"x": x}), module(x))
