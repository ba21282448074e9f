#!/bin/sh
# flip-evaluator 1.7: of pictures with an alpha channel the lowest quarter is not compared, and the rest not pixel by
# pixel.
#
# FLIP is NVIDIA's measure of how different two pictures look when one takes the place of the other: 0 for no difference
# that is seen, 1 at most. evaluate() takes numpy arrays in the layout HxWxC and tests their height and width, but not
# C: it reads the first H * W * 3 numbers of the array in any case. With four channels these are the numbers of the
# upper three quarters, which it takes for a whole picture: the alpha of one pixel becomes the red of the next, and
# every row begins in the middle of another one. So a reconstruction which fails in the lowest quarter only is perfect,
# and an error elsewhere has another size. There is no warning. Files are not affected, since the package's own load()
# makes three channels of every picture; arrays of other readers of PNG files have four if the file has them.
#
# Input: two pictures in color, 64 by 64, of independent random colors in some rows and the same in the others; without
# and with an opaque alpha. Beside it the first three quarters of the numbers with alpha, written as a picture of three
# channels.
#
# Seen with Python 3.11, numpy 2.4.6:
#   unrelated in the lowest quarter: FLIP 0.125, with alpha 0.000, three quarters of its numbers 0.000
#   unrelated in the highest quarter: FLIP 0.123, with alpha 0.131, three quarters of its numbers 0.131
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q flip-evaluator==1.7 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
from flip_evaluator import evaluate


def flip(one, other):
    return float(evaluate(one, other, "LDR", applyMagma=False)[1])


def with_alpha(picture):
    return np.concatenate([picture, np.ones_like(picture[..., :1])], axis=2)


def three_quarters(picture):
    return with_alpha(picture).ravel()[: picture.size].reshape(picture.shape)


rng = np.random.default_rng(0)
color = rng.random((64, 64, 3)).astype(np.float32)
found = {}
for place, rows in {"lowest": slice(48, 64), "highest": slice(0, 16)}.items():
    other = color.copy()
    other[rows] = rng.random((16, 64, 3))
    try:
        alpha = flip(with_alpha(color), with_alpha(other))
    except (RuntimeError, TypeError, ValueError) as error:
        sys.exit(f"pictures that have not three channels are refused now: {error}")
    plain, part = flip(color, other), flip(three_quarters(color), three_quarters(other))
    print(f"unrelated in the {place} quarter: FLIP {plain:.3f}, with alpha {alpha:.3f}, ", end="")
    print(f"three quarters of its numbers {part:.3f}")
    found[place] = plain > 0.1 and abs(alpha - part) < 1e-6 and (alpha == 0) == (place == "lowest")
sys.exit(0 if all(found.values()) else "the error is now another one")
END
