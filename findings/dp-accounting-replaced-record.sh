#!/bin/sh
# dp-accounting 0.6.0: where a record is replaced, the accountant of Renyi privacy answers an epsilon of about half.
#
# A `GaussianDpEvent` describes a sum of vectors of norm C at most, with noise of standard deviation s, and its noise
# multiplier is s / C by definition; so it is with `LaplaceDpEvent`, for the L1 norm. Adding or removing a record
# changes the sum by up to C. Replacing one (REPLACE_ONE) changes it by up to 2 C, from v to -v. `RdpAccountant` takes C
# in both cases, alone and after sampling without replacement, which it accepts for REPLACE_ONE only. What it answers
# should be an upper bound, and is less than the truth. `PLDAccountant`, of the same package, takes 2 C for the same
# event; it refuses the other two. No warning is given, and no public docstring says that the multiplier has another
# meaning there. In local differential privacy, as of a clipped feature that leaves a device, a record can only be
# replaced.
#
# Input: one release with REPLACE_ONE, at delta = 1e-5. The truth is a closed form for Gaussian noise (Balle and Wang
# 2018) and for Laplace noise (delta = 1 - exp((epsilon - 2 / multiplier) / 2)). With sampling of 90 of 100 records it
# is an integral over the two densities of one pair of data sets, with v or -v among zeros, hence a lower bound.
#
# Seen with Python 3.11, numpy 2.4.6, scipy 1.17.1:
#   Gaussian 1: truth 9.997, RdpAccountant 4.729, PLDAccountant 9.997
#   Gaussian 4: truth 1.993, RdpAccountant 1.013, PLDAccountant 1.993
#   Laplace 1: truth 2.000, RdpAccountant 1.003, PLDAccountant refuses
#   90 of 100, Gaussian 2: truth 3.575, RdpAccountant 2.224, PLDAccountant refuses
#   Gaussian 1, added or removed: truth 4.377, RdpAccountant 4.729, PLDAccountant 4.377
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q dp-accounting==0.6.0 numpy==2.4.6 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
from dp_accounting import GaussianDpEvent, LaplaceDpEvent, NeighboringRelation, SampledWithoutReplacementDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy.optimize import brentq
from scipy.stats import norm

delta = 1e-5


def gaussian(multiplier, distance):
    m = distance / multiplier
    return brentq(lambda e: norm.cdf(m / 2 - e / m) - np.exp(e + norm.logcdf(-m / 2 - e / m)) - delta, 0, 100)


def sampled(multiplier, share):
    z = np.linspace(-1 - 12 * multiplier, 1 + 12 * multiplier, 400_001)
    zero, one, other = (norm.pdf(z, mean, multiplier) for mean in (0, 1, -1))
    p, q = (1 - share) * zero + share * one, (1 - share) * zero + share * other
    return brentq(lambda e: np.sum(np.maximum(p - np.exp(e) * q, 0)) * (z[1] - z[0]) - delta, 0, 100)


def answer(accountant, event, relation):
    accountant = accountant(neighboring_relation=relation)
    return float(accountant.compose(event).get_epsilon(delta)) if accountant.supports(event) else None


replaced, added = NeighboringRelation.REPLACE_ONE, NeighboringRelation.ADD_OR_REMOVE_ONE
cases = {
    "Gaussian 1": (GaussianDpEvent(1.0), gaussian(1, 2)),
    "Gaussian 4": (GaussianDpEvent(4.0), gaussian(4, 2)),
    "Laplace 1": (LaplaceDpEvent(1.0), 2 + 2 * np.log1p(-delta)),
    "90 of 100, Gaussian 2": (SampledWithoutReplacementDpEvent(100, 90, GaussianDpEvent(2.0)), sampled(2, 0.9)),
}
found = {}
for name, (event, truth) in cases.items():
    rdp, pld = (answer(accountant, event, replaced) for accountant in (RdpAccountant, PLDAccountant))
    other = "refuses" if pld is None else f"{pld:.3f}"
    print(f"{name}: truth {truth:.3f}, RdpAccountant {rdp:.3f}, PLDAccountant {other}")
    found[name] = truth, rdp, pld
both = [answer(accountant, GaussianDpEvent(1.0), added) for accountant in (RdpAccountant, PLDAccountant)]
text = "Gaussian 1, added or removed: truth {:.3f}, RdpAccountant {:.3f}, PLDAccountant {:.3f}"
print(text.format(gaussian(1, 1), *both))
sound = both[0] >= gaussian(1, 1) and abs(both[1] - gaussian(1, 1)) < 0.01
sound = sound and all(abs(found[name][2] - found[name][0]) < 0.01 for name in ("Gaussian 1", "Gaussian 4"))
low = all(rdp < 0.7 * truth for truth, rdp, _ in found.values())
sys.exit(0 if sound and low else "the two accountants now agree on a replaced record")
END
