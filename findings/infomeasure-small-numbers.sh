#!/bin/sh
# infomeasure 0.6.3: mutual information by Gaussian kernels turns negative where one variable is in small numbers.
#
# Mutual information has no unit: I(x; c y) is the same for every c. Nor does the estimate depend on c, as the width of
# its kernels is in proportion to that of the data in each direction, until the pairs (x, c y) have a direction in which
# the variance is below 1e-10. Of the joint density that direction is then left out, so that it is nearly the density of
# x alone, whereas the density of c y, of one dimension, is estimated all the same. Their quotient is about 1 / p(c y),
# and the answer the entropy of c y, which is many nats below 0, and lower the smaller c is. Nothing is said. Gradients,
# which attacks on collaborative learning look at, may have such sizes. With normalize=True all is well.
#
# Input: 2,000 samples of a normal x, and of y = x + noise of standard deviation 0.5 (truth: 1/2 ln 5 = 0.805 nats).
#
# Seen with Python 3.11, numpy 2.4.6, scipy 1.17.1:
#   c = 1: 0.843 nats, normalized 0.843
#   c = 0.0001: 0.843 nats, normalized 0.843
#   c = 1e-05: -9.994 nats, normalized 0.843
#   c = 1e-06: -12.296 nats, normalized 0.843
#   entropy of 1e-06 y, by the same kernels: -12.296 nats
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q infomeasure==0.6.3 numpy==2.4.6 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import infomeasure
import numpy as np

rng = np.random.default_rng(0)
x, noise = rng.standard_normal((2, 2000))
y, how = x + 0.5 * noise, {"approach": "kernel", "kernel": "gaussian", "bandwidth": 0.2, "base": "e"}
found = {}
for c in (1, 1e-4, 1e-5, 1e-6):
    found[c] = [float(infomeasure.mutual_information(x, c * y, normalize=alike, **how)) for alike in (False, True)]
    print(f"c = {c:g}: {found[c][0]:.3f} nats, normalized {found[c][1]:.3f}")
entropy = float(infomeasure.entropy(1e-6 * y, **how))
print(f"entropy of 1e-06 y, by the same kernels: {entropy:.3f} nats")
near = all(abs(one - 0.805) < 0.1 for one in (*found[1], *found[1e-4], found[1e-5][1], found[1e-6][1]))
below = found[1e-5][0] < -5 and abs(found[1e-6][0] - entropy) < 0.1
sys.exit(0 if near and below else "the estimate no longer depends on the unit in this way")
END
