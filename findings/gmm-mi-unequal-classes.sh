#!/bin/sh
# gmm_mi 0.8.2: the information between a feature and a label is that of a label whose classes are all equally frequent.
#
# `fit_categorical` fits a density to the feature within each class, and `estimate_categorical` averages over the
# classes with equal weights, however many samples each has. What a feature tells about a rare class then counts as
# much as what it tells about a frequent one. The answer may exceed the entropy of the label, which no information
# about it can, and it may be too low as well. Of two features it can prefer the one that tells less. The
# uncertainty that comes with it, a standard deviation by bootstrap, is tiny, and no warning is given. The README and
# the docstrings do not say that classes have to be equally frequent; for the formula they refer to an appendix of a
# paper. Private attributes are rarely balanced: how many wear glasses, or a hat?
#
# Input: a feature that is normal with standard deviation 1 in each class, around 0 or 10. It tells on which side a
# class lies and nothing else, so that the truth is the entropy of the side. Two labels are used: one of two classes,
# on either side, with 50, 90 or 99 % of the samples in the first; and one of four classes with 47, 47, 3 and 3 %, for
# which feature A sets the first class apart from the others, and feature B the first two from the last two. Beside it
# the estimate by nearest neighbors of scikit-learn, of the same samples. scikit-learn is 1.6.1, as newer ones lack a
# method that gmm_mi calls. Plots are not needed here, nor what gmm_mi installs for them.
#
# Seen with Python 3.11, numpy 2.4.6, scipy 1.17.1, scikit-learn 1.6.1:
#   50 : 50: 0.693 +- 0.000 nats, truth 0.693, nearest neighbors 0.693, entropy of the label 0.693
#   90 : 10: 0.693 +- 0.000 nats, truth 0.325, nearest neighbors 0.325, entropy of the label 0.325
#   99 : 1: 0.693 +- 0.000 nats, truth 0.056, nearest neighbors 0.056, entropy of the label 0.056
#   feature A: 0.567 +- 0.001 nats, truth 0.691, nearest neighbors 0.695, entropy of the label 0.920
#   feature B: 0.695 +- 0.001 nats, truth 0.227, nearest neighbors 0.218, entropy of the label 0.920
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 scipy==1.17.1 scikit-learn==1.6.1 tqdm==4.70.1
"$folder/venv/bin/pip" install -q --no-deps gmm_mi==0.8.2
cd "$folder"
TQDM_DISABLE=1 "$folder/venv/bin/python" -W ignore::FutureWarning - <<'END'
import sys

import numpy as np
from gmm_mi.mi import EstimateMI
from gmm_mi.param_holders import MIDistParamHolder, SelectComponentsParamHolder
from sklearn.feature_selection import mutual_info_classif

one = SelectComponentsParamHolder(fixed_components_number=1)  # what the data are: one normal density in each class
how = MIDistParamHolder(n_bootstrap=5)
cases = {
    "50 : 50": ([2500, 2500], [0, 1]),
    "90 : 10": ([4500, 500], [0, 1]),
    "99 : 1": ([4950, 50], [0, 1]),
    "feature A": ([2350, 2350, 150, 150], [0, 1, 1, 1]),
    "feature B": ([2350, 2350, 150, 150], [0, 0, 1, 1]),
}


def entropy(counts):
    p = np.array(counts) / np.sum(counts)
    return float(-np.sum(p * np.log(p)))


rng, found = np.random.default_rng(0), {}
for name, (counts, side) in cases.items():
    y = np.repeat(np.arange(len(counts)), counts)
    x = rng.standard_normal(len(y)) + 10 * np.array(side)[y]
    truth, label = entropy(np.bincount(side, counts)), entropy(counts)
    answer, spread = EstimateMI(select_components_params=one).fit_estimate_categorical(x, y, mi_dist_params=how)
    neighbors = mutual_info_classif(x[:, None], y, discrete_features=False, random_state=0)[0]
    found[name] = answer, neighbors, truth, entropy(np.bincount(side))
    text = "{}: {:.3f} +- {:.3f} nats, truth {:.3f}, nearest neighbors {:.3f}, entropy of the label {:.3f}"
    print(text.format(name, answer, spread, truth, neighbors, label))
sound = all(abs(neighbors - truth) < 0.03 for _, neighbors, truth, _ in found.values())
sound = sound and abs(found["50 : 50"][0] - np.log(2)) < 0.01
equal = all(abs(answer - balanced) < 0.02 for answer, _, _, balanced in found.values())
sys.exit(0 if sound and equal else "the classes are no longer weighted equally")
END
