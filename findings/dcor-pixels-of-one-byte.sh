#!/bin/sh
# dcor 0.7: the distance correlation of pixels in uint8 is another number, and that of two columns of them is 280,016.
#
# Distance correlation lies between 0 and 1; NoPeek (Vepakomma and others, 2020) measures with it how much a feature
# tells about an image. dcor.distances says that SciPy computes the distances wherever the values convert to double
# without loss. Unsigned integers do, but are left out: for them dcor subtracts and squares in their own type, so that
# differences and squares of bytes are taken modulo 256, and no warning says so. Two single columns take another way,
# where the sums overflow as well; the one warning there is about speed. The unbiased estimate suffers more, and is
# nearly 0 here: features that tell much look harmless. With the same numbers as int32, float32 or float64 all is well.
#
# Input: 300 images of 64 random pixels, and features of them: three of their pixels, each with noise within 20 levels.
# The same numbers in both types; beside it the definition in NumPy.
#
# Seen with Python 3.11, numpy 2.4.6, scipy 1.17.1, numba 0.68.1:
#   64 pixels and 3 features: definition 0.516, float64 0.516, uint8 0.450
#   the same, unbiased and squared: float64 0.204, uint8 0.014
#   1 pixel and 1 feature: definition 0.985, float64 0.985, uint8 280016.335
#   warnings of 64 pixels and 3 features in uint8: 0
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q dcor==0.7 numpy==2.4.6 scipy==1.17.1 numba==0.68.1
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys
import warnings

import dcor
import numpy as np


def definition(*both):
    centered = []
    for points in both:
        points = points.astype(float).reshape(len(points), -1)
        distances = np.sqrt(((points[:, None] - points) ** 2).sum(-1))
        centered.append(distances - distances.mean(0) - distances.mean(1)[:, None] + distances.mean())
    one, other = centered
    return float(np.sqrt((one * other).mean() / np.sqrt((one**2).mean() * (other**2).mean())))


def asked(statistic, *both):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        numbers = [float(statistic(*(points.astype(kind) for points in both))) for kind in (np.float64, np.uint8)]
    return *numbers, len(said)


rng = np.random.default_rng(0)
images = rng.integers(0, 256, (300, 64))
features = np.clip(images[:, :3] + rng.integers(-20, 21, (300, 3)), 0, 255)
wide = asked(dcor.distance_correlation, images, features)
unbiased = asked(dcor.u_distance_correlation_sqr, images, features)
narrow = asked(dcor.distance_correlation, images[:, 0], features[:, 0])
truths = definition(images, features), definition(images[:, 0], features[:, 0])
print(f"64 pixels and 3 features: definition {truths[0]:.3f}, float64 {wide[0]:.3f}, uint8 {wide[1]:.3f}")
print(f"the same, unbiased and squared: float64 {unbiased[0]:.3f}, uint8 {unbiased[1]:.3f}")
print(f"1 pixel and 1 feature: definition {truths[1]:.3f}, float64 {narrow[0]:.3f}, uint8 {narrow[1]:.3f}")
print(f"warnings of 64 pixels and 3 features in uint8: {wide[2] + unbiased[2]}")
right = abs(wide[0] - truths[0]) < 1e-6 and abs(narrow[0] - truths[1]) < 1e-6
wrong = wide[1] < wide[0] - 0.05 and unbiased[1] < unbiased[0] / 4 and narrow[1] > 1 and wide[2] + unbiased[2] == 0
sys.exit(0 if right and wrong else "bytes now have another distance correlation")
END
