#!/bin/sh
# mlxtend 0.25.0: the importance of a group of features is that of the first columns, which stay shuffled in the
# caller's array; and accuracies by the .632+ bootstrap lie between -6,166 % and 132 %.
#
# feature_importance_permutation(feature_groups=...) says how much the accuracy falls when the columns of a group are
# shuffled. Of a group of k columns it shuffles the columns 0 to k - 1, whichever belong to it, and then puts back the
# columns of the group. So the group that matters seems to matter too little, one that does not seems to matter as
# much, and what was shuffled and not put back spoils all later rounds and the array that the caller goes on with. Who
# asks which channels of a feature the task needs, and where noise would be cheap, gets a wrong answer, and then wrong
# accuracies. Columns that are given as bare numbers, as in [0, 1, 2], are treated as they should be.
#
# bootstrap_point632_score(method=".632+") weighs the errors on seen and unseen examples by how much a model overfits, a
# rate R in [0, 1]. In the paper that it cites (Efron and Tibshirani, 1997) R is set to 0 or 1 where the estimate lies
# outside, and the result lies between both errors. mlxtend leaves R as it comes out. For a model that is hardly better
# than the most frequent class its denominator is nearly 0, the weight has any size and sign, and the mean over the
# splits, which the guide takes for the accuracy, may be anything. Docstring and guide do not mention it.
#
# Input: 10,000 rows of four normal features, of which the sign of the first plus the last is the class, and a model
# that knows this. Without both it guesses, an importance of 1/2; without one it is right in 2/3. Then logistic
# regression on 100 rows of five features, 10 of them in the second class, whose features are half a deviation larger.
#
# Seen with Python 3.11, numpy 2.4.6, scipy 1.17.1, pandas 3.1.1, scikit-learn 1.9.1:
#   group of columns 0 and 3: importance 0.331, shuffled by hand 0.493
#   group of columns 1 and 2: importance 0.329, shuffled by hand 0.000
#   accuracy of the model on the array: 1.000 before, 0.669 afterwards
#   oob: accuracy 0.900, of single splits 0.771 to 1.000
#   .632: accuracy 0.905, of single splits 0.808 to 0.974
#   .632+: accuracy 0.587, of single splits -61.658 to 1.324
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mlxtend==0.25.0 numpy==2.4.6 scipy==1.17.1 pandas==3.1.1 scikit-learn==1.9.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'END'
import sys

import numpy as np
from mlxtend.evaluate import bootstrap_point632_score, feature_importance_permutation
from sklearn.linear_model import LogisticRegression


def model(features):
    return (features[:, 0] + features[:, 3] > 0).astype(int)


def by_hand(group):
    copy = features.copy()
    for column in group:
        copy[:, column] = rng.permutation(copy[:, column])
    return float(np.mean(model(features) == classes) - np.mean(model(copy) == classes))


rng = np.random.default_rng(0)
features = rng.normal(size=(10000, 4))
classes = model(features)
groups, given = [[0, 3], [1, 2]], features.copy()
found, _ = feature_importance_permutation(
    given, classes, model, "accuracy", num_rounds=10, feature_groups=groups, seed=1
)
right = [by_hand(group) for group in groups]
for group, theirs, ours in zip(groups, found, right):
    print(f"group of columns {group[0]} and {group[1]}: importance {theirs:.3f}, shuffled by hand {ours:.3f}")
before, after = (float(np.mean(model(array) == classes)) for array in (features, given))
print(f"accuracy of the model on the array: {before:.3f} before, {after:.3f} afterwards")

few = np.random.default_rng(0)
labels = (np.arange(100) < 10).astype(int)
rows = few.normal(size=(100, 5)) + 0.5 * labels[:, None]
scores = {}
for method in ("oob", ".632", ".632+"):
    scores[method] = each = bootstrap_point632_score(LogisticRegression(), rows, labels, method=method, random_seed=1)
    print(f"{method}: accuracy {each.mean():.3f}, of single splits {each.min():.3f} to {each.max():.3f}")
swapped = max(abs(found - 1 / 3)) < 0.02 and abs(right[0] - 0.5) < 0.02 and right[1] == 0
spoiled = before == 1 and abs(after - 2 / 3) < 0.02
known = all(0 <= score <= 1 for method in ("oob", ".632") for score in scores[method])
outside = scores[".632+"].min() < 0 and scores[".632+"].max() > 1
sys.exit(0 if swapped and spoiled and known and outside else "the importance or the accuracy is now another one")
END
