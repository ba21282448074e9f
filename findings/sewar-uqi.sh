#!/bin/sh
# sewar 0.4.10: two pictures that have nothing in common have a UQI of 0.74, a picture and its negative one of 0.48.
#
# The universal quality index (Wang and Bovik, 2002) is the mean over windows of 4 cov mx my / ((vx + vy)(mx^2 + my^2)):
# about 0 where the pixels of a window are not correlated, about -1 for a picture and its negative. sewar has it in the
# form for sums over the N pixels of a window, N Sxy - Sx Sy and so on, but fills in means (scipy's uniform_filter):
# N mxy - mx my is nearly N mxy. The covariance is gone, and what is left, about 2 mxy / (mxx + myy), is high for all
# pictures that are not dark. A picture and itself still have 1, so that a quick look finds nothing wrong. A table of
# reconstructions says that an attack has half succeeded where it has not at all.
#
# Input: two pictures of independent random gray levels, 64 by 64, and the negative of the first; beside it the
# definition over the same windows of 8 by 8. (torchmetrics 1.9.0, with its Gaussian window, gives -0.005 and -0.978.)
#
# Seen with Python 3.11, numpy 2.4.6, scipy 1.17.1:
#   two unrelated pictures: sewar 0.737, definition -0.009
#   a picture and its negative: sewar 0.483, definition -0.990
#   a picture and itself: sewar 1.000, definition 1.000
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q sewar==0.4.10 numpy==2.4.6 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sewar import uqi


def definition(x, y, side=8):
    x, y = (sliding_window_view(picture.astype(float), (side, side)).reshape(-1, side * side) for picture in (x, y))
    mx, my = x.mean(1), y.mean(1)
    covariance = (x * y).mean(1) - mx * my
    return float((4 * covariance * mx * my / ((x.var(1) + y.var(1)) * (mx**2 + my**2))).mean())


one, other = np.random.default_rng(0).integers(0, 256, (2, 64, 64)).astype(np.uint8)
pairs = {"two unrelated pictures": other, "a picture and its negative": 255 - one, "a picture and itself": one}
found = {}
for name, second in pairs.items():
    found[name] = float(uqi(one, second)), definition(one, second)
    print(f"{name}: sewar {found[name][0]:.3f}, definition {found[name][1]:.3f}")
unrelated, negative, itself = found.values()
high = unrelated[0] > 0.7 and abs(unrelated[1]) < 0.1 and negative[0] > 0.4 and negative[1] < -0.9
sys.exit(0 if high and min(itself) > 0.999 else "the index is now another one")
END
