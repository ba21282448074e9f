"""The picture of the linear attack that an export stores for the page."""

import pytest
import torch

from splitveil.defenses._codec import Grid
from splitveil.deploy import leak


@pytest.fixture
def made():
    """Wires far from zero, and an attack of rank 3 on them."""
    rng = torch.Generator().manual_seed(0)
    grid = Grid((6,), 8, torch.zeros(6), torch.full((6,), 0.04))
    wires = grid.decode(grid.encode(5 + torch.randn(200, 6, generator=rng)))
    weights = torch.randn(6, 3, generator=rng) @ torch.randn(3, 3 * 4 * 4, generator=rng) / 40
    constant = 0.5 - wires.mean(0) @ weights
    return grid, wires, weights, constant


def levels(images):
    return images.permute(0, 3, 1, 2).flatten(1).float()


def test_the_picture_is_that_of_the_attack_where_its_rank_suffices(made):
    grid, wires, weights, constant = made
    picture = leak.Picture(grid, weights, constant, wires, (3, 4, 4))
    expected = 255 * (wires @ weights + constant).clamp(0, 1)
    assert (levels(picture(grid.encode(wires))) - expected).abs().max() <= 1


def test_fewer_directions_lose_no_part_of_the_mean_and_the_least_of_the_rest(made, monkeypatch):
    grid, wires, weights, constant = made
    monkeypatch.setattr(leak, "RANK", 1)
    picture = leak.Picture(grid, weights, constant, wires, (3, 4, 4))
    found = levels(picture(grid.encode(wires)))
    exact = wires @ weights
    values = torch.linalg.svdvals(exact - exact.mean(0))
    # Eckart and Young: no matrix of rank 1 is nearer to the centered answers than the root of the other squares.
    least = 255 * values[1:].square().sum().sqrt()
    assert (found.mean(0) - 255 * 0.5).abs().max() < 2
    assert (found - 255 * (exact + constant)).norm() == pytest.approx(float(least), rel=0.03)
