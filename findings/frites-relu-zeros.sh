#!/bin/sh
# frites 0.4.6: two independent features that are mostly 0, as after a ReLU, share 0.3 to 0.5 bits.
#
# The Gaussian-copula mutual information replaces each value by its rank and gives the ranks a normal distribution. Of
# equal values those that stand earlier in the array tend to get the lower ranks, in one feature as in the other, since
# ties get the order of argsort and no average rank. Where many samples are 0 in both features, their position in the
# array is then something that both have in common. The estimate says that the features tell something about each other,
# and the more so the sparser they are. Permuting the samples of one feature does not remove it, so that the chance
# level of a permutation test is as high. With average ranks for ties the estimate is 0. Features of networks are behind
# ReLUs: what such an estimate says of them is partly their sparsity.
#
# Input: two independent normal variables of 1,000 samples, behind a ReLU with a threshold that leaves 50, 20, 10 or 5 %
# of the samples above 0; the mean of 20 draws. Beside it the same estimate from average ranks (scipy.stats.rankdata).
#
# Seen with Python 3.11, numpy 2.4.6, scipy 1.17.1 (the second digit depends on how the processor sorts):
#   no ReLU: 0.00 bits, samples of one permuted 0.00, average ranks 0.00
#   50 % above 0: 0.00 bits, samples of one permuted 0.00, average ranks 0.00
#   20 % above 0: 0.06 bits, samples of one permuted 0.06, average ranks 0.00
#   10 % above 0: 0.27 bits, samples of one permuted 0.27, average ranks 0.00
#   5 % above 0: 0.52 bits, samples of one permuted 0.52, average ranks 0.00
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q frites==0.4.6 numpy==2.4.6 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
from frites.core import gcmi_nd_cc, mi_nd_gg
from scipy.special import ndtri
from scipy.stats import rankdata


def normal(x):
    return ndtri(rankdata(x) / (len(x) + 1))


rng, found = np.random.default_rng(0), {}
for above in (1.0, 0.5, 0.2, 0.1, 0.05):
    draws = []
    for _ in range(20):
        x, y = rng.standard_normal((2, 1000))
        if above < 1:
            x, y = np.maximum([x, y] + ndtri(above), 0)
        draws.append([gcmi_nd_cc(x, y), gcmi_nd_cc(x, rng.permutation(y)), mi_nd_gg(normal(x), normal(y))])
    found[above] = [abs(float(number)) for number in np.mean(draws, 0)]
    name = "no ReLU" if above == 1 else f"{100 * above:.0f} % above 0"
    print("{}: {:.2f} bits, samples of one permuted {:.2f}, average ranks {:.2f}".format(name, *found[above]))
right = found[1.0][0] < 0.02 and all(each[2] < 0.02 for each in found.values())
wrong = all(0.15 < number for number in found[0.1][:2]) and found[0.05][0] > 0.35
sys.exit(0 if right and wrong else "ties are now ranked in another way")
END
