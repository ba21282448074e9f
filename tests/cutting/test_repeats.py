"""The halves of a cut repeat the network on other batches and in training, or the cut is refused."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from splitveil.cutting.network import cut_network
from splitveil.errors import UserError


class Branching(nn.Module):
    """A network whose middle may do as it likes."""

    def __init__(self, middle: Callable[[Branching, Tensor], Tensor]):
        super().__init__()
        self.a, self.bn, self.fc, self.middle = nn.Conv2d(3, 8, 3), nn.BatchNorm1d(8), nn.Linear(8, 5), middle
        self.bn.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.middle(self, self.a(x).mean((2, 3))))


def from_(count: int) -> Callable[[Branching, Tensor], Tensor]:
    return lambda net, z: net.bn(z) if z.shape[0] >= count else z


@pytest.mark.parametrize(
    ("middle", "where"),
    [
        (from_(2), "2 images in evaluation"),
        (from_(3), "3 images in evaluation"),
        (from_(8), "8 images in evaluation"),
        (lambda net, z: z if z.size(0) == 1 else 2 * z, "2 images in evaluation"),
        (lambda net, z: z * z.shape[0] if z.shape[0] % 2 else z, "2 images in evaluation"),
        (lambda net, z: 2 * z if net.training else z, "1 images in training"),
        (lambda net, z: z - z.mean(0) if net.training and z.shape[0] > 1 else z, "2 images in training"),
    ],
)
def test_a_frozen_branch_is_refused(middle, where):
    with pytest.raises(UserError, match=rf"repeat the network's output on {where}.*SplitModel\(encoder, tail\)"):
        cut_network(Branching(middle), "a", torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        (lambda net, z: net.bn(z) if len(z) > 20 else z, "on 21 images in evaluation"),
        (from_(17), "on 17 images in evaluation"),
        (lambda net, z: z if z.numel() <= 320 else net.bn(z), "beyond the 64 that can be tried"),
        (from_(64), "branches on the number of images, beyond"),
        (lambda net, z: 2 * z if torch.is_grad_enabled() else z, "on 2 images in evaluation with gradients"),
        (lambda net, z: 2 * z if z.requires_grad else z, "branches on the input itself, by requires_grad"),
        (lambda net, z: 2 * z if z.max().item() > 1000 else z, "branches on the input itself, by item"),
        (lambda net, z: 2 * z if torch.equal(z, z.clamp(max=1000)) else z, "the input itself, by equal"),
        (lambda net, z: 2 * z if max(z[0].tolist()) > 1000 else z, "the input itself, by tolist"),
    ],
)
def test_a_branch_that_no_trial_would_take_is_refused(middle, reason):
    with pytest.raises(UserError, match=reason):
        cut_network(Branching(middle), "a", torch.rand(1, 3, 16, 16))


def parts(net: nn.Module, z: Tensor) -> Tensor:
    return torch.cat([part.relu() for part in z.split(16)])


def sum_of_parts(net: nn.Module, z: Tensor) -> Tensor:
    for part in z.split(10):
        z = z + part.mean()
    return z


@pytest.mark.parametrize(
    "middle",
    [
        parts,
        sum_of_parts,
        lambda net, z: 2 * z if z.shape[0] > 20.5 else z,
        lambda net, z: 2 * z if z.size(dim=0) > 20 else z,
        lambda net, z: 2 * z if z.size(-2) > 20 else z,
        lambda net, z: 2 * z if z.shape[-2] > 20 else z,
        lambda net, z: 2 * z if z.shape > (20,) else z,
        lambda net, z: 2 * z if z.t().shape[1] > 20 else z,
        lambda net, z: 2 * z if z.t().contiguous().stride(0) > 20 else z,
        lambda net, z: 2 * z if z.shape[0] // 8 > 2 else z,
        lambda net, z: 2 * z if z.shape[0] // 8 // 2 % 2 == 1 else z,
        lambda net, z: 2 * z if z.shape[-2] > 200 else z,
    ],
)
def test_code_that_follows_the_number_of_images_in_any_way_is_refused(middle):
    """Loops over parts of a batch were unrolled as for one image, and branches were missed: images got lost."""
    with pytest.raises(UserError, match=r"SplitModel\(encoder, tail\)"):
        cut_network(Branching(middle), "a", torch.rand(1, 3, 16, 16))


def test_parts_of_many_images_and_examples_of_several_are_seen_too():
    for size, example in ((300, 1), (16, 2)):
        middle = lambda net, z, size=size: torch.cat([part.relu() for part in z.split(size)])  # noqa: E731
        with pytest.raises(UserError, match=r"SplitModel\(encoder, tail\)"):
            cut_network(Branching(middle), "a", torch.rand(example, 3, 16, 16))


class Growing(nn.Module):
    """Keeps what it made, and grows it with the batch."""

    def __init__(self):
        super().__init__()
        self.ones, self.mean = torch.ones(1, 1), torch.zeros(())

    def forward(self, z: Tensor) -> Tensor:
        if len(z) > len(self.ones):
            self.ones = torch.ones(len(z), 1)
        self.mean = 0.9 * self.mean + 0.1 * z.detach().mean()
        return z * self.ones[: len(z)]


def test_tracing_for_other_batches_leaves_nothing_in_the_network():
    seen: list[Tensor] = []
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), Growing(), nn.Linear(1568, 5)).eval()
    network[0].register_forward_hook(lambda *about: seen.append(about[-1]))
    encoder, tail = cut_network(network, "0", torch.rand(1, 3, 16, 16))
    assert {value.device.type for value in seen} == {"cpu"}
    grown = next(module for module in tail.modules() if isinstance(module, Growing))
    assert grown.ones.device.type == grown.mean.device.type == "cpu"
    x = torch.rand(40, 3, 16, 16)
    torch.testing.assert_close(tail(encoder(x)), network(x))


@pytest.mark.parametrize(
    "middle",
    [
        lambda net, z: 2 * z if z.dim() == 2 and z.shape[1] == 8 and z.size(-1) < 1000 else z,
        lambda net, z: torch.cat([part + 1 for part in (z[:1], z[1:])]) if z.shape[0] > 20 else z + 1,
        lambda net, z: z / z.max().item(),
        lambda net, z: z * 2 if z.is_floating_point() and z.dtype == torch.float32 else z,
    ],
)
def test_a_branch_that_makes_no_difference_is_taken(middle):
    network = Branching(middle).eval()
    encoder, tail = cut_network(network, "a", torch.rand(1, 3, 16, 16))
    x = torch.rand(30, 3, 16, 16)
    torch.testing.assert_close(tail(encoder(x)), network(x))


def test_the_check_leaves_no_trace():
    network = Branching(lambda net, z: net.bn(z))
    before, twin = copy.deepcopy(network.state_dict()), network.eval()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    encoder, tail = cut_network(twin, "a", torch.rand(1, 3, 16, 16, generator=torch.Generator()))
    assert torch.equal(torch.rand(1), expected)
    assert not any(module.training for half in (encoder, tail) for module in half.modules())
    for key, value in tail.state_dict().items():
        assert torch.equal(value, before[key])


def test_what_the_network_itself_refuses_is_no_evidence():
    encoder, tail = cut_network(Branching(lambda net, z: net.bn(z)), "a", torch.rand(1, 3, 16, 16))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        tail.train()(encoder(torch.rand(1, 3, 16, 16)))


def test_a_process_that_has_cut_a_network_can_still_fork():
    """Tensors without numbers of another kind start threads of autograd, after which a forked process cannot learn."""
    code = """
import os, sys, torch
from torch import nn
from splitveil.cutting.network import cut_network
network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(1568, 5))
cut_network(network, "0", torch.rand(1, 3, 16, 16))
learn = lambda: network(torch.rand(2, 3, 16, 16)).sum().backward()
learn()
if not (child := os.fork()):
    try:
        learn()
    except RuntimeError:
        os._exit(1)
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1] != 0)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
