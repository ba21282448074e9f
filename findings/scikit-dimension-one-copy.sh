#!/bin/sh
# scikit-dimension 0.5.0: one picture that is there twice makes the dimension of the whole set 0.
#
# The maximum likelihood estimator MLE looks at the distances of a sample to its 20 nearest neighbors. To a copy the
# distance is 0, whose logarithm is infinite, so the dimension at this sample is exactly 0. The estimates of all samples
# are combined by their harmonic mean, which one zero makes 0, however many samples there are. MiND_ML answers 1, where
# it starts, since its likelihoods are infinite or NaN. Nothing warns: `import skdim` turns off all warnings of the
# process, numpy's division by zero among them, and those of other libraries too. TwoNN and CorrInt hardly change, nor
# does the median of MLE's estimates (comb="median"). Sets of pictures do hold copies: a zero or a one says then that
# there is a copy, not that the pictures lie on a line.
#
# Input: 5 independent normal numbers and 15 smooth functions of them for each of 1,000 samples (truth: 5 dimensions),
# once as they are and once with the last sample replaced by a copy of the first. Then the irises that scikit-learn
# brings, of which two are alike, and the same without the second of the two.
#
# Seen with Python 3.11, numpy 2.4.6, scipy 1.17.1, scikit-learn 1.9.1, numba 0.68.1:
#   MLE: 4.84, with one copy 0.00
#   MiND_ML: 4.90, with one copy 1.00
#   TwoNN: 4.95, with one copy 4.93
#   CorrInt: 4.67, with one copy 4.66
#   MLE with comb='median': 4.91 with one copy
#   MLE: 0.00 of 150 irises, 2.69 of the 149 that differ
#   import skdim turned off all warnings
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q scikit-dimension==0.5.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 pandas==2.3.3 \
  numba==0.68.1
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys
import warnings

import numpy as np
import skdim
from sklearn.datasets import load_iris

rng = np.random.default_rng(0)
latent = rng.standard_normal((1000, 5))
samples = np.c_[latent, np.tanh(latent @ rng.standard_normal((5, 15)) / 2)]
copied = samples.copy()
copied[-1] = copied[0]
found = {}
for name in ("MLE", "MiND_ML", "TwoNN", "CorrInt"):
    found[name] = [float(getattr(skdim.id, name)().fit(x).dimension_) for x in (samples, copied)]
    print("{}: {:.2f}, with one copy {:.2f}".format(name, *found[name]))
median = float(skdim.id.MLE().fit(copied, comb="median").dimension_)
print(f"MLE with comb='median': {median:.2f} with one copy")
irises = load_iris().data
single = np.unique(irises, axis=0)
flowers = [float(skdim.id.MLE().fit(x).dimension_) for x in (irises, single)]
print("MLE: {:.2f} of {} irises, {:.2f} of the {} that differ".format(flowers[0], len(irises), flowers[1], len(single)))
silent = any(each[:3] == ("ignore", None, Warning) for each in warnings.filters)
print("import skdim turned off", "all warnings" if silent else "not all warnings")
right = all(4 < each[0] < 6 for each in found.values()) and all(4 < found[name][1] < 6 for name in ("TwoNN", "CorrInt"))
wrong = found["MLE"][1] == 0 and found["MiND_ML"][1] == 1 and flowers[0] == 0 and flowers[1] > 1
sys.exit(0 if right and wrong and silent and 4 < median < 6 else "a copy now has another effect on the dimension")
END
