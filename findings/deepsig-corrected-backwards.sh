#!/bin/sh
# deepsig 1.2.8: the correction for many comparisons is the weaker, the more comparisons there are, and of two methods
# that are compared alone neither is ever found better.
#
# aso() answers with an upper bound on how far one method is from being better everywhere; below 0.5, or 0.2 as its
# README recommends, the method counts as better. The bound holds with a confidence of 95 %. For n comparisons
# Bonferroni asks for 1 - 0.05 / n in each, which README and docstring promise. aso(num_comparisons=n) and multi_aso()
# take 0.95 + 0.05 / n instead: 97.5 % for two, which is right, then 95.5 % for ten where it should be 99.5 %, and for
# a hundred nearly 95 %, as without a correction. For multi_aso() of two methods, one comparison, it is 100 %: the
# bound is 1 in both directions however much they differ, or NaN if one of them wins with every score. Who compares
# many defenses believes in a correction that is hardly there.
#
# Input: 15 scores of one method, with mean 0.8, and 15 of another, with mean 0, normal with standard deviation 1;
# beside each bound that with the confidence that Bonferroni asks for. Then multi_aso() of the two, and of the same
# with 10 added to the first.
#
# Seen with Python 3.11, numpy 2.4.6, scipy 1.17.1, pandas 3.1.1, joblib 1.6.0, dill 0.4.1:
#   1 comparison: bound 0.168, Bonferroni's 0.168
#   2 comparisons: bound 0.200, Bonferroni's 0.200
#   10 comparisons: bound 0.173, Bonferroni's 0.263
#   100 comparisons: bound 0.169, Bonferroni's 0.336
#   multi_aso of two, first + 0: bound 1.000, uncorrected 0.168
#   multi_aso of two, first + 10: bound nan, uncorrected 0.000
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q deepsig==1.2.8 numpy==2.4.6 scipy==1.17.1 pandas==3.1.1 joblib==1.6.0 dill==0.4.1
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys
import warnings

import numpy as np
from deepsig import aso, multi_aso

warnings.simplefilter("ignore")
rng = np.random.default_rng(2)
first, second = rng.normal(0.8, 1, 15), rng.normal(0, 1, 15)
same = {"num_bootstrap_iterations": 100, "seed": 1, "show_progress": False}
bound, asked = {}, {}
for n in (1, 2, 10, 100):
    bound[n] = float(aso(first, second, num_comparisons=n, **same))
    asked[n] = float(aso(first, second, confidence_level=1 - 0.05 / n, **same))
    print(f"{n} comparison{'s' * (n > 1)}: bound {bound[n]:.3f}, Bonferroni's {asked[n]:.3f}")
pairs = []
for more in (0, 10):
    scores = np.stack([first + more, second])
    pairs.append([float(multi_aso(scores, use_bonferroni=use, **same)[0, 1]) for use in (True, False)])
    print(f"multi_aso of two, first + {more}: bound {pairs[-1][0]:.3f}, uncorrected {pairs[-1][1]:.3f}")
backwards = bound[2] > bound[10] > bound[100] and asked[1] < asked[2] < asked[10] < asked[100]
verdict = bound[10] < 0.2 < asked[10] and bound[1] == asked[1]
never = all((np.isnan(corrected) or corrected == 1) and plain < 0.2 for corrected, plain in pairs)
sys.exit(0 if backwards and verdict and never else "the correction is now another one")
END
