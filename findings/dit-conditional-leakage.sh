#!/bin/sh
# dit 2.3: conditional Sibson information and leakage depend on a third variable that is independent of the others.
#
# Sibson's information of order 1 is Shannon's; that of order infinity is the maximal leakage. Its two conditional forms
# say what Y tells about X to somebody who knows Z, such as what a feature tells about a secret beside the label. Where
# Z is independent of X and Y, nothing is left to condition on, and both forms are as they are without Z. Here they are
# not: for each z the probabilities p(x, y, z) stand where p(x, y | z) should, without a division by p(z). The form that
# minimizes over Q(Y|Z) is right at order infinity, and at order 2 too low by the entropy of Z, which makes it negative.
# The one that minimizes over Q(Z) is right at orders 1 and 2, and at order infinity too high by log2 of the number of
# values that Z has. No leakage of one bit can exceed 1 bit, or be negative. The documentation promises the
# unconditional value where Z is constant, and there it is found.
#
# Input: a fair bit X; Y, which is X but for an error in one of 10 cases; and Z, independent of both, with 1, 2 or 10
# equally likely values. Truth, whatever Z: at order 1 it is 1 - H(0.1) = 0.531 bits, which is also what dit's own
# conditional Shannon information answers; at order 2 log2(2 (0.9^2 + 0.1^2)) = 0.714 bits; at order infinity
# log2(2 * 0.9) = 0.848 bits.
#
# Seen with Python 3.11, numpy 2.4.6, scipy 1.17.1, at orders 1, 2 and infinity:
#   1 values of Z, without Z: 0.531, 0.714, 0.848 bits
#   1 values of Z, over Q(Y|Z): 0.531, 0.714, 0.848 bits
#   1 values of Z, over Q(Z): 0.531, 0.714, 0.848 bits
#   1 values of Z, Shannon, given Z: 0.531 bits
#   2 values of Z, without Z: 0.531, 0.714, 0.848 bits
#   2 values of Z, over Q(Y|Z): 0.766, -0.286, 0.848 bits
#   2 values of Z, over Q(Z): 0.531, 0.714, 1.848 bits
#   2 values of Z, Shannon, given Z: 0.531 bits
#   10 values of Z, without Z: 0.531, 0.714, 0.848 bits
#   10 values of Z, over Q(Y|Z): 0.385, -2.608, 0.848 bits
#   10 values of Z, over Q(Z): 0.531, 0.714, 4.170 bits
#   10 values of Z, Shannon, given Z: 0.531 bits
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q dit==2.3 numpy==2.4.6 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
from dit import Distribution
from dit.multivariate import coinformation
from dit.other import sibson_conditional_mutual_information_y_given_z as given_z
from dit.other import sibson_conditional_mutual_information_z as over_z
from dit.other import sibson_mutual_information as unconditional

orders, found = (1, 2, np.inf), {}
truth = [1 + 0.9 * np.log2(0.9) + 0.1 * np.log2(0.1), np.log2(2 * (0.9**2 + 0.1**2)), np.log2(1.8)]
for values in (1, 2, 10):
    outcomes = [(str(x), str(y), str(z)) for x in range(2) for y in range(2) for z in range(values)]
    d = Distribution(outcomes, [(0.45 if x == y else 0.05) / values for x, y, _ in outcomes])
    lines = {
        "without Z": [unconditional(d, [0], [1], order) for order in orders],
        "over Q(Y|Z)": [given_z(d, [0], [1], [2], order) for order in orders],
        "over Q(Z)": [over_z(d, [0], [1], [2], order) for order in orders],
    }
    for name, bits in lines.items():
        found[values, name] = np.array(bits, dtype=float)
        print("{} values of Z, {}: {:.3f}, {:.3f}, {:.3f} bits".format(values, name, *bits))
    shannon = float(coinformation(d, [[0], [1]], [2]))
    print(f"{values} values of Z, Shannon, given Z: {shannon:.3f} bits")
    found[values, "Shannon"] = shannon


def right(values, name, which=slice(None)):
    return np.allclose(found[values, name][which], np.array(truth)[which], atol=1e-6)


sound = all(right(values, "without Z") and abs(found[values, "Shannon"] - truth[0]) < 1e-6 for values in (1, 2, 10))
sound = sound and right(1, "over Q(Y|Z)") and right(1, "over Q(Z)")
wrong = found[10, "over Q(Y|Z)"][1] < -2 and found[10, "over Q(Z)"][2] > 4
wrong = wrong and abs(found[10, "over Q(Y|Z)"][0] - truth[0]) > 0.1
sys.exit(0 if sound and wrong else "the conditional values no longer depend on an independent Z in this way")
END
