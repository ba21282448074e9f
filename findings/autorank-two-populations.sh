#!/bin/sh
# autorank 1.3.0: of two methods that do not differ, twice as many comparisons as alpha says are called significant.
#
# autorank(data, alpha) chooses a test for paired results and says whether two methods differ. Where the results are not
# normal, as errors of single images are not, it takes Wilcoxon's signed-rank test. The alternative of that test has one
# side, and the side is chosen from the same results: the method with the larger median is tested for being the larger
# one. So the p value is half of what it should be, and with alpha=0.05 nearly one comparison in ten of equal methods is
# reported as a difference. (It is not quite one in ten, since medians and ranks sometimes point to different sides, and
# then p is above 0.5.) The hypothesis that the report names is that there is no difference, which has two sides. For
# normal results it takes the paired t test, with two sides. Who compares the errors behind two defenses image by image
# finds differences where there are none.
#
# Input: 1,000 comparisons of two defenses that are alike: the errors of 60 images, from a skewed distribution and with
# the difficulty of the image in common. The same for normal errors. Beside it scipy's test with two sides.
#
# Seen with Python 3.11, numpy 2.4.6, scipy 1.17.1, pandas 2.3.3, statsmodels 0.14.6, baycomp 1.0.3:
#   skewed errors, wilcoxon: 8.5 % of 1000 comparisons significant at 5 %, with two sides 5.1 %
#   normal errors, ttest: 4.7 % of 953 comparisons significant at 5 %, with two sides 4.7 %
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q autorank==1.3.0 baycomp==1.0.3 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 \
  statsmodels==0.14.6 matplotlib==3.10.8
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import contextlib
import io
import sys
import warnings

import numpy as np
import pandas as pd
from autorank import autorank
from scipy import stats

warnings.simplefilter("ignore")
rng, found = np.random.default_rng(0), {}
for name, test in (("skewed", "wilcoxon"), ("normal", "ttest")):
    ours, theirs = [], []
    for _ in range(1000):
        if name == "skewed":
            errors = rng.exponential(size=(60, 1)) * rng.lognormal(0, 0.3, (60, 2))
        else:
            errors = rng.normal(size=(60, 1)) + rng.normal(0, 0.3, (60, 2))
        with contextlib.redirect_stdout(io.StringIO()):
            result = autorank(pd.DataFrame(errors, columns=["a", "b"]), alpha=0.05, verbose=False)
        if result.omnibus == test:
            theirs.append(result.pvalue < 0.05)
            two_sided = stats.wilcoxon if test == "wilcoxon" else stats.ttest_rel
            ours.append(two_sided(errors[:, 0], errors[:, 1]).pvalue < 0.05)
    found[name] = float(np.mean(theirs)), float(np.mean(ours))
    print(f"{name} errors, {test}: {100 * found[name][0]:.1f} % of {len(theirs)} comparisons ", end="")
    print(f"significant at 5 %, with two sides {100 * found[name][1]:.1f} %")
doubled = found["skewed"][0] > 0.075 and found["skewed"][1] < 0.065
sys.exit(0 if doubled and found["normal"][0] < 0.065 else "the share of false findings has changed")
END
