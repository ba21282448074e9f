#!/bin/sh
# flip-evaluator 1.7: a gray picture is compared together with the next two of its batch, and the lowest quarter of a
# picture with an alpha channel is not compared at all.
#
# FLIP is NVIDIA's measure of how different two pictures look when one takes the place of the other: 0 for no difference
# that is seen, 1 at most. evaluate() takes numpy arrays in the layout HxWxC and tests their height and width, but never
# C: it always reads H * W * 3 numbers from where the array begins. From an array with one channel, as the pictures of
# MNIST have, it reads two pictures more, and takes three pixels side by side for red, green and blue. In a batch of
# shape (N, H, W, 1) these are the next two pictures; at the end of the batch it is whatever lies behind it in memory.
# So a perfect reconstruction has an error if the two after it fail, and one that fails has less if these succeed. With
# four channels the reading ends after three quarters of the numbers. There is no warning in either case. Files are not
# affected, since its own load() makes three channels of every picture.
#
# Input: six gray pictures, 28 by 28, of independent random gray levels, and reconstructions which are perfect but for
# the second and the third, where they are unrelated. Beside the error of each that of the same two pictures with their
# gray repeated three times, and that of three pictures in a row written as one of three channels. Then two pictures in
# color, 64 by 64, which are unrelated in the lowest quarter and the same above, without and with an opaque alpha.
#
# Seen with Python 3.11, numpy 2.4.6:
#   gray picture 0, perfect: FLIP 0.356, with its gray repeated 0.000, three pictures as one 0.356
#   gray picture 1, unrelated: FLIP 0.324, with its gray repeated 0.323, three pictures as one 0.324
#   gray picture 2, unrelated: FLIP 0.199, with its gray repeated 0.321, three pictures as one 0.199
#   gray picture 3, perfect: FLIP 0.000, with its gray repeated 0.000, three pictures as one 0.000
#   unrelated in the lowest quarter: FLIP 0.119, with alpha 0.000
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


try:
    rng = np.random.default_rng(0)
    batch = rng.random((6, 28, 28, 1)).astype(np.float32)
    answers = batch.copy()
    answers[1:3] = rng.random((2, 28, 28, 1))
    found = []
    for i in range(4):
        gray = flip(batch[i], answers[i])
        repeated = flip(*(pictures[i].repeat(3, axis=2) for pictures in (batch, answers)))
        three = flip(*(pictures[i : i + 3].reshape(28, 28, 3) for pictures in (batch, answers)))
        found.append((gray, repeated, three))
        name = f"gray picture {i}, {'unrelated' if i in (1, 2) else 'perfect'}"
        print(f"{name}: FLIP {gray:.3f}, with its gray repeated {repeated:.3f}, three pictures as one {three:.3f}")
    color = rng.random((64, 64, 3)).astype(np.float32)
    other = color.copy()
    other[48:] = rng.random((16, 64, 3))
    plain, alpha = flip(color, other), flip(with_alpha(color), with_alpha(other))
    print(f"unrelated in the lowest quarter: FLIP {plain:.3f}, with alpha {alpha:.3f}")
except (RuntimeError, TypeError, ValueError) as error:
    sys.exit(f"pictures that have not three channels are refused now: {error}")
neighbors = found[0][0] > 0.3 and found[0][1] == 0 and found[2][0] < 0.25 < found[2][1]
same = all(abs(gray - three) < 1e-6 for gray, _, three in found)
sys.exit(0 if neighbors and same and alpha == 0 and plain > 0.1 else "the error is now another one")
END
