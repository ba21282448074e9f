#!/bin/sh
# hyppo 0.5.2: HSIC changes with the units, and between features and images with gray levels it finds no dependence.
#
# Hsic promises a Gaussian kernel "which uses the median distance as the bandwidth": the answer should not depend on
# units. But the median is that of x, and the kernel of y is given it too. Where the numbers of y are much larger than
# those of x, the kernel of y says that no image resembles another, and nothing of the dependence is left: the test does
# not reject independence. Where they are much smaller, all resemble each other. Exchanging x and y changes the answer
# as well, though HSIC is symmetric. With x and y of one scale all is well, as in the package's own simulations.
#
# Input: 200 samples of x, three normal numbers, and of y, the squares of two of them with noise, times 1, 255 or 1/255.
# Beside it hyppo's HSIC of kernels that are made beforehand, each with the median of its own distances.
#
# Seen with Python 3.11, numpy 2.4.6, scipy 1.17.1, scikit-learn 1.9.1, numba 0.68.1:
#   times 1: HSIC(x, y) 0.135 (p 1e-07), HSIC(y, x) 0.151; own medians 0.126 (p 3e-07)
#   times 255: HSIC(x, y) -0.001 (p 0.4), HSIC(y, x) 0.018; own medians 0.126 (p 3e-07)
#   times 1/255: HSIC(x, y) 0.138 (p 9e-08), HSIC(y, x) -0.000; own medians 0.126 (p 3e-07)
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q hyppo==0.5.2 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 numba==0.68.1
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
from hyppo.independence import Hsic
from scipy.spatial.distance import pdist, squareform


def kernel(points):
    distances = pdist(points)
    return np.exp(-(squareform(distances) ** 2) / (2 * np.median(distances) ** 2))


rng = np.random.default_rng(0)
x = rng.standard_normal((200, 3))
y = x[:, :2] ** 2 + 0.5 * rng.standard_normal((200, 2))
found = {}
for name, c in {"1": 1.0, "255": 255.0, "1/255": 1 / 255}.items():
    (one, p), other = Hsic().test(x, c * y)[:2], Hsic().statistic(c * y, x)
    own, own_p = Hsic(compute_kernel=None).test(kernel(x), kernel(c * y))[:2]
    found[name] = [float(number) for number in (one, p, other, own, own_p)]
    print(f"times {name}: HSIC(x, y) {one:.3f} (p {p:.1g}), HSIC(y, x) {other:.3f}; ", end="")
    print(f"own medians {own:.3f} (p {own_p:.1g})")
same, large, small = found.values()
right = all(abs(each[3] - same[3]) < 1e-6 and each[4] < 1e-5 for each in found.values()) and same[1] < 1e-5
wrong = abs(large[0]) < 0.02 and large[1] > 0.05 and small[2] < same[2] / 2
sys.exit(0 if right and wrong else "the statistic no longer depends on the unit in this way")
END
