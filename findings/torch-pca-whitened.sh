#!/bin/sh
# torch-pca 1.1.0: with whiten=True inverse_transform() does not bring the data back, even with every component kept.
#
# With whiten=True transform() divides each component by its standard deviation. inverse_transform() does not multiply by
# it again: it is the same product with the components as without whitening. So with all components kept the answer has
# the identity as its covariance, around the right mean, whatever the data were. The README says that the class is used
# exactly like scikit-learn's, and that one brings the data back. Who judges what a projection on principal components
# keeps of a feature, or inverts it as an attacker would, finds an error that is none of the projection, and that does
# not go to 0 with more components. Multiplying the whitened numbers by sqrt(explained_variance_) first gives the data.
#
# Input: 2,000 samples of 8 normal numbers, with standard deviations from 0.05 to 0.4 and turned at random, around 0.5;
# all 8 components are kept. Beside it scikit-learn's PCA.
#
# Seen with Python 3.11, torch 2.14.1, numpy 2.4.6, scikit-learn 1.9.1:
#   whiten=False: error of all 8 components 0.00, of scikit-learn 0.00
#   whiten=True: error of all 8 components 0.78, of scikit-learn 0.00
#   standard deviations: data 0.20 to 0.33, whitened and brought back 1.00 to 1.00
#   multiplied by the standard deviations of the components first: error of all 8 components 0.00
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch-pca==1.1.0 torch==2.14.1 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
import torch
from sklearn.decomposition import PCA as Reference
from torch_pca import PCA

rng = np.random.default_rng(0)
turned = np.linalg.qr(rng.standard_normal((8, 8)))[0]
x = torch.from_numpy(0.5 + rng.standard_normal((2000, 8)) * np.linspace(0.05, 0.4, 8) @ turned)


def error(restored):
    return float((torch.as_tensor(restored) - x).square().mean().sqrt())


found = {}
for whiten in (False, True):
    ours, theirs = PCA(whiten=whiten).fit(x), Reference(whiten=whiten).fit(x.numpy())
    sent = ours.transform(x)
    restored = ours.inverse_transform(sent)
    reference = theirs.inverse_transform(theirs.transform(x.numpy()))
    found[whiten] = error(restored), error(reference)
    print("whiten={}: error of all 8 components {:.2f}, of scikit-learn {:.2f}".format(whiten, *found[whiten]))
off = float((torch.cov(restored.T) - torch.eye(8)).abs().max())
print(f"standard deviations: data {x.std(0).min():.2f} to {x.std(0).max():.2f}, ", end="")
print(f"whitened and brought back {restored.std(0).min():.2f} to {restored.std(0).max():.2f}")
scaled = error(ours.inverse_transform(sent * ours.explained_variance_.sqrt()))
print(f"multiplied by the standard deviations of the components first: error of all 8 components {scaled:.2f}")
right = max(*found[False], found[True][1], scaled) < 1e-6
sys.exit(0 if right and found[True][0] > 0.5 and off < 1e-6 else "whitened data are now brought back otherwise")
END
