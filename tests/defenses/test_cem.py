"""CEM: the bound, its gradient, and the released loss, each against an independent computation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cem_problem import CLASSES, SIGMA, M, bound, data, fitted, gradient, install, loss_of, nearest, step
from splitveil.defenses import _mixture
from splitveil.defenses._cem_losses import FLOOR
from splitveil.defenses.base import Features, Stack
from splitveil.defenses.cem import CEM, SWITCH, UNIT
from splitveil.defenses.gaussian import Gaussian
from splitveil.errors import UserError

# The loss that is the bound


def test_the_gradient_is_that_of_the_tangent():
    z, y = data()
    cem = fitted(z, y)
    index = nearest(cem, z, y)
    center, variance = (part.flatten(0, 1)[index] for part in (cem.centers, cem.variance))
    expected = cem.weight * UNIT / M / len(z) * (z - center) / (variance + SIGMA**2)
    torch.testing.assert_close(gradient(cem, z, y), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("n", "clusters"), [(3000, 1), (6000, 2), (9000, 3)])
def test_the_gradient_over_all_data_is_that_of_the_bound(n, clusters):
    """Where images are many, so that the variances are those of the samples."""
    z, y = data(n)
    cem = fitted(z, y, clusters=clusters)
    exact = z.double().requires_grad_()
    target = cem.weight * UNIT / M * bound(exact, nearest(cem, z, y), SIGMA**2)
    (expected,) = torch.autograd.grad(target, exact)
    assert float((gradient(cem, z, y) - expected).norm() / expected.norm()) < 0.04
    assert float(loss_of(cem, z, y)) == pytest.approx(target.item(), rel=0.01)  # and touches it there


@pytest.mark.parametrize("size", [2, 10, 30])
def test_batches_average_to_the_gradient_over_all_data(size):
    z, y = data()
    cem = fitted(z, y)
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(1))
    total = torch.zeros_like(z)
    parts = order.split(size)
    for part in parts:
        total[part] += gradient(cem, z[part], y[part]) / len(parts)
    torch.testing.assert_close(total, gradient(cem, z, y), rtol=1e-4, atol=1e-8)


@given(st.floats(0.5, 2), st.integers(0, 30))
@settings(deadline=None, max_examples=30)
def test_the_tangent_lies_above_the_bound(scale, seed):
    """For features that moved after the fit, as long as each stays in its cluster."""
    z, y = data(seed=seed)
    cem = fitted(z, y)
    index = nearest(cem, z, y)
    centers = cem.centers.flatten(0, 1)[index]
    moved = centers + scale * (z - centers) + 0.01 * torch.randn(z.shape, generator=torch.Generator().manual_seed(seed))
    if not torch.equal(nearest(cem, moved, y), index):
        moved = centers + 0.5 * (z - centers)  # halfway to its own center, nothing changes its cluster
    exact = float(bound(moved.double(), nearest(cem, moved, y), SIGMA**2))
    own = _mixture.bound(cem.counts / len(z), cem.variance, SIGMA**2, cem.counts, cem.counts[..., None] * cem.variance)
    tangent = float(loss_of(cem, moved, y)) * M / (cem.weight * UNIT) + float(own - cem.nats)
    assert tangent >= exact - 1e-4


def test_clusters_follow_features_that_move_within_an_epoch():
    """Until the loss is that of the features as they have become."""
    z, y = data(3000)
    moved, follower = 2.5 * z + 1, fitted(z, y, clusters=1, follow=100)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    values = [float(loss_of(follower, moved[part], y[part])) for part in order.split(50)]
    means, spreads = (torch.stack([getattr(moved[y == c], of)(0) for c in range(CLASSES)]) for of in ("mean", "var"))
    assert float((follower.centers[:, 0] - means).norm() / spreads.sum().sqrt()) < 0.1
    assert float((follower.variance[:, 0] - spreads).norm() / spreads.norm()) < 0.2
    assert sum(values[-20:]) / 20 == pytest.approx(16 * UNIT / M * float(bound(moved.double(), y, SIGMA**2)), rel=0.05)


@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_features_that_explode_are_not_pulled_without_limit(scale):
    """As log(1 + v/σ²) has a slope of at most 1/σ in the spread √v, which the tangent at old variances has not."""
    z, y = data()
    steepest = 16 * UNIT / M * M**0.5 / SIGMA
    pulls = {}
    for images in (0, 100):
        cem = fitted(z, y, follow=images)
        pulls[images] = float(gradient(cem, scale * z, y).norm(dim=1).mean() * len(z))
    assert pulls[100] < steepest < pulls[0] / 2


def test_features_that_stay_are_pulled_as_without_following():
    z, y = data(3000)
    still, follower = fitted(z, y), fitted(z, y, follow=100)
    expected, total = gradient(still, z, y), torch.zeros_like(z)
    for part in torch.arange(3000).split(100):
        total[part] = gradient(follower, z[part], y[part]) / 30
    assert float((total * expected).sum() / expected.square().sum()) == pytest.approx(1, abs=0.05)  # no bias of note
    assert float((total - expected).norm() / expected.norm()) < 0.25


def test_weight_sixteen_pulls_as_the_published_sixteen_on_cifar10():
    """Where the variance is large beside 0.01 and σ², both losses pull with 20/(N·m)·(z − μ)/v per sample."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(10).repeat_interleave(5000)
    z = 4 * torch.randn(50_000, 2, generator=g)
    batch = torch.randperm(50_000, generator=g)[:128]
    pulls = []
    for loss in ("bound", "released"):
        cem = CEM(16, loss=loss, clusters=1, schedule="constant")  # type: ignore[arg-type]
        install(cem, 0.025)
        cem.refit(0, Features(z, y, 10, g))
        pulls.append(gradient(cem, z[batch], y[batch]))
    assert float(pulls[0].norm() / pulls[1].norm()) == pytest.approx(1, abs=0.15)
    assert float(nn.functional.cosine_similarity(pulls[0].flatten(), pulls[1].flatten(), 0)) > 0.99


# The loss as released


def released(cem: CEM, z: Tensor, y: Tensor) -> Tensor:
    """What PAPER says of the published loss, with every class using its own tables; loops, no tricks."""
    tau = cem.threshold * cem.sigma2 + 0.01
    per_class = []
    for c in y.unique().tolist():
        size, total = float(cem.counts[c].sum()), z.new_zeros(())
        own = z[y == c]
        which = nearest(cem, own, torch.full((len(own),), c)) - c * cem.clusters
        for j in which.unique().tolist():
            members = own[which == j]
            n, pi = len(members), float(cem.counts[c, j]) / size
            fresh = ((members - cem.centers[c, j]) ** 2).mean()
            a = min(0.99, 10 * n / (pi * size))
            mixed = a * fresh + (1 - a) * cem.variance[c, j].mean()
            total = total + pi * torch.clamp(torch.log(mixed + 0.01) - math.log(tau), min=0)
        per_class.append(total)
    return cem.weight * torch.stack(per_class).mean()


@pytest.mark.parametrize("spread", [1.0, 0.1, 0.02])
@pytest.mark.parametrize("size", [90, 17, 2])
def test_released_equals_a_plain_loop(spread, size):
    z, y = data(90)
    z = z * spread
    cem = fitted(z, y, loss="released", clusters=4)
    batch = torch.randperm(90, generator=torch.Generator().manual_seed(3))[:size]
    moved = (z[batch] * 1.1).requires_grad_()
    expected = released(cem, moved, y[batch])
    got = loss_of(cem, moved, y[batch])
    assert float(got) == pytest.approx(float(expected), rel=1e-5, abs=1e-7)
    (a,), (b,) = torch.autograd.grad(got, moved), torch.autograd.grad(expected, moved)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_scale_of_the_released_gradient():
    """∂L/∂z_i = 20/(classes in the batch · images per class · m) · (z_i − μ)/(V + 0.01), V the mixed variance."""
    per_class = 200
    z, y = data(CLASSES * per_class)
    cem = fitted(z, y, weight=1.0, loss="released")
    batch = torch.tensor([0, 1, 5, 9])  # classes 0, 1, 2, 0
    index = nearest(cem, z[batch], y[batch])
    centers, counts = cem.centers.flatten(0, 1)[index], cem.counts.flatten()[index]
    square = (z[batch] - centers).square().mean(1)
    hits = (index[:, None] == index).sum(1)
    fresh = ((index[:, None] == index) * square).sum(1) / hits
    share = (10 * hits / counts).clamp(max=0.99)
    assert (share < 0.99).all()
    mixed = share * fresh + (1 - share) * cem.variance.flatten(0, 1)[index].mean(1)
    expected = 20 / (3 * per_class * M) * (z[batch] - centers) / (mixed + FLOOR)[:, None]
    torch.testing.assert_close(gradient(cem, z[batch], y[batch]), expected, rtol=1e-4, atol=1e-8)


def test_released_leaves_tight_clusters_alone():
    z, y = data()
    cem = fitted(1e-3 * z, y, loss="released", sigma=1.0, clusters=4)
    assert float(loss_of(cem, 1e-3 * z, y)) == 0


def test_classes_use_their_own_tables():
    """The published code looked clusters up by sample number; here the order of a batch changes nothing."""
    z, y = data()
    for loss in ("bound", "released"):
        cem = fitted(z, y, loss=loss)
        order = torch.randperm(len(z), generator=torch.Generator().manual_seed(2))
        assert float(loss_of(cem, z[order], y[order])) == pytest.approx(float(loss_of(cem, z, y)), rel=1e-5)


# Noise, schedule, hooks


def test_no_noise_has_no_bound_but_a_released_loss():
    with pytest.raises(UserError, match=r"needs noise on the wire.*add --defense gaussian"):
        install(CEM(16), sigma=0)
    z, y = data()
    cem = fitted(z, y, sigma=0, loss="released")
    for epoch in range(1, 4):  # the published code stopped here in its second epoch
        assert gradient(cem, z, y).isfinite().all()
        cem.refit(epoch, Features(z, y, CLASSES, torch.Generator().manual_seed(epoch)))
    assert cem.leakage() is None


@pytest.mark.parametrize(
    ("schedule", "lr", "progress", "factor"),
    [
        ("constant", 0.05, 0.1, 1),
        ("published", 0.05, 0.1, 0.02),
        ("published", 0.01, 0.3, 0.1),
        ("published", SWITCH, 0.8, 0.001 / SWITCH),
        ("published", 4e-4, 0.8, 1),
        ("published", 8e-5, 0.9, 1),
        ("ramp", 0.05, 0.0, 0),
        ("ramp", 0.05, 0.25, 0.5),
        ("ramp", 0.05, 0.75, 1),
    ],
)
def test_schedules(schedule, lr, progress, factor):
    z, y = data()
    plain, scheduled = fitted(z, y), fitted(z, y, schedule=schedule)
    expected = factor * float(loss_of(plain, z, y))
    assert float(loss_of(scheduled, z, y, lr=lr, progress=progress)) == pytest.approx(expected)


def test_no_loss_before_the_first_fit_and_none_at_weight_zero():
    z, y = data()
    cem = CEM(16)
    install(cem)
    assert cem.loss(step(z, y)) is None
    assert cem.leakage() is None
    measuring = fitted(z, y, weight=0.0)
    assert measuring.loss(step(z, y)) is None
    assert measuring.leakage() == fitted(z, y).leakage()
    assert Stack(Gaussian(0.1), measuring).losses(step(z, y)) == {}


def test_the_wire_is_left_alone():
    z, y = data()
    assert torch.equal(fitted(z, y).on_wire(z, torch.Generator()), z)


def test_state_goes_through_a_state_dict():
    z, y = data()
    cem, fresh = fitted(z, y), CEM(clusters=2, schedule="constant", follow=0)
    install(fresh)
    fresh.load_state_dict(cem.state_dict())
    assert fresh.leakage() == cem.leakage()
    assert torch.equal(gradient(fresh, z, y), gradient(cem, z, y))
    assert fresh.centers.data_ptr() != cem.centers.data_ptr()
    empty = CEM(clusters=2)
    empty.load_state_dict(CEM(clusters=2).state_dict())  # before the first fit there is nothing to load
    assert empty.leakage() is None


@pytest.mark.parametrize(("refit", "augmented"), [("pass", False), ("augmented", True)])
def test_refit_starts_warm_and_pass_asks_for_fresh_features(refit, augmented):
    z, y = data()
    cem = fitted(z, y)
    before = cem.centers.clone()
    cem.refit(1, Features(z, y, CLASSES, torch.Generator().manual_seed(99)))
    torch.testing.assert_close(cem.centers, before)  # converged, so another seed changes nothing
    asked = []

    def extract(augmented):
        asked.append(augmented)
        return z + 1, y

    passing = CEM(refit=refit, clusters=2)
    install(passing)
    passing.refit(0, Features(z, y, CLASSES, torch.Generator().manual_seed(0), extract))
    assert asked == [augmented]
    assert float((passing.centers.mean((0, 1)) - before.mean((0, 1))).mean()) == pytest.approx(1, abs=0.2)


def test_images_without_labels_are_refused():
    z, y = data()
    cem = CEM()
    install(cem)
    with pytest.raises(UserError, match="some images have no label"):
        cem.refit(0, Features(z, torch.where(y == 1, -1, y), CLASSES, torch.Generator()))


@pytest.mark.parametrize(
    "bad",
    [{"weight": -1.0}, {"weight": math.inf}, {"weight": math.nan}, {"clusters": 0}, {"threshold": -0.1}],
)
def test_bad_parameters(bad):
    with pytest.raises(UserError, match=f"cem: .*{next(iter(bad))}.*expected") as error:
        CEM(**bad)
    assert "\n" not in str(error.value)


def test_minimising_the_loss_lowers_the_leakage():
    """The whole loop on free features: the bound that is reported falls, and with it the spread in the clusters."""
    z, y = data()
    cem = fitted(z, y, weight=100.0)
    first = cem.leakage()
    assert first is not None
    z = z.clone().requires_grad_()
    for epoch in range(10):
        for part in torch.arange(len(z)).split(100):
            (g,) = torch.autograd.grad(loss_of(cem, z[part], y[part]), z)
            z.data -= g
        cem.refit(epoch, Features(z.detach(), y, CLASSES, torch.Generator()))
    last = cem.leakage()
    assert last is not None
    assert last < 0.8 * first


def test_the_released_strength_does_not_depend_on_the_number_of_processes(monkeypatch):
    z, y = data(900)
    cem = fitted(z, y, loss="released")
    half, labels = z[:12], y[:12]
    whole = gradient(cem, half.repeat(2, 1), labels.repeat(2))[:12]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    # Two processes with the same share: DDP takes the mean of their gradients.
    torch.testing.assert_close(gradient(cem, half, labels) / 2, whole)


def test_its_memory_grows_with_the_classes_only_where_they_have_clusters_of_their_own():
    assert CEM(clusters=5).memory(10, (2,), 3) == {"clusters": 5 * (2 * 3 + 10) * 2 * 4}
    assert CEM(clusters=5, per_class=False).memory(10, (2,), 3) == {"clusters": 5 * (2 + 10) * 2 * 4}
