"""Linkage behind noise that depends on the image, against the densities themselves."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import hypergeom
from torch import nn
from torch.distributions import Normal

from splitveil.bounds import _closer, linkage
from splitveil.bounds._closer import closer, likelier
from splitveil.bounds.base import Channel, Conditional
from splitveil.bounds.linkage import Linkage
from splitveil.data import Split
from splitveil.defenses.vib import VIB
from splitveil.model import SplitModel


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("far", [0.0, 1e4])
def test_the_likeliest_candidates_are_those_of_brute_force(far):
    mean = torch.randn(40, 5, generator=rng(), dtype=torch.float64) + far
    variance = torch.rand(40, 5, generator=rng(1), dtype=torch.float64).mul(4).exp() / 10
    mean[7], variance[7] = mean[3], variance[3]  # one photo twice
    law = Conditional(mean, variance)
    wires = law.draw(rng(2))
    density = Normal(mean, variance.sqrt()).log_prob(wires[:, None]).sum(2)
    own = density.diagonal()[:, None]
    expected = torch.stack([(density > own + 1e-9).sum(1), ((density - own).abs() <= 1e-9).sum(1)])
    assert torch.equal(likelier(wires, law, law), expected)
    some = Conditional(mean[5:9], variance[5:9])
    expected = torch.stack([(density > own + 1e-9)[:, 5:9].sum(1), ((density - own).abs() <= 1e-9)[:, 5:9].sum(1)])
    assert torch.equal(likelier(wires, law, some), expected)


def test_candidates_in_small_parts_are_counted_as_those_of_one(monkeypatch):
    """All at once, the precision and the means of 10,000 large wires took gigabytes each."""
    mean = torch.randn(40, 5, generator=rng(), dtype=torch.float64)
    variance = torch.rand(40, 5, generator=rng(1), dtype=torch.float64).mul(4).exp() / 10
    mean[7], variance[7] = mean[3], variance[3]
    law, sizes, misfits = Conditional(mean, variance), [], _closer._misfits
    wires = law.draw(rng(2))
    whole = likelier(wires, law, law)
    monkeypatch.setattr(_closer, "AT_ONCE", 3)
    monkeypatch.setattr(_closer, "_misfits", lambda z, *laws: sizes.append(len(laws[0])) or misfits(z, *laws))
    assert torch.equal(likelier(wires, law, law), whole)
    assert max(sizes) == 3


@pytest.mark.parametrize("galleries", [(10,), (10, 40)])
def test_linkage_takes_the_likeliest_where_the_noise_depends_on_the_image(monkeypatch, galleries):
    """The nearest in units of the mean noise is often another one."""
    monkeypatch.setattr(linkage, "GALLERIES", galleries)
    torch.manual_seed(0)
    model = SplitModel(nn.Conv2d(3, 4, 2), nn.Flatten(), defense=[VIB()], example=torch.rand(1, 3, 4, 4))
    (vib,) = [part for part in model.modules() if isinstance(part, VIB)]
    nn.init.normal_(vib.log_sigma.weight, generator=rng())  # type: ignore[arg-type]
    nn.init.zeros_(vib.log_sigma.bias)  # type: ignore[arg-type]
    images = torch.randint(0, 256, (60, 3, 4, 4), generator=rng(), dtype=torch.uint8)
    channel = Channel.of(model, Split(images, torch.arange(60) % 2), rng())
    found = [one for one in Linkage().estimate(channel, rng()) if one.quantity == "success"]
    wires = channel.conditional("held_out").draw(rng())
    laws = [channel.conditional(part) for part in ("held_out", "fit", "choose")]
    mean, variance = torch.cat([law.mean for law in laws]), torch.cat([law.variance for law in laws])
    density = Normal(mean, variance.sqrt()).log_prob(wires[:, None]).sum(2)
    better = (density > density.diagonal()[:, None]).numpy()
    assert len(found) == len(galleries)
    for one in found:
        among = better[:, : one.images]
        exact = hypergeom.cdf(0, one.images - 1, among.sum(1), int(one.about.split("among ")[1].split(",")[0]) - 1)
        assert one.value == pytest.approx(exact.mean(), abs=1e-9)
    scaled = wires / variance[:24].mean(0).sqrt(), mean[:24] / variance[:24].mean(0).sqrt()
    assert int(closer(*scaled)[0].sum()) > 3 * int(better[:, :24].sum())
