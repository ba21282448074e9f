#!/bin/sh
# image-similarity-measures 0.3.6: FSIM counts the gradients of bytes modulo 65,536, so that a darkened picture is more
# similar than a blurred one; SRE rises by 24 dB when pixels go to 255, and by 3 dB for a picture of twice the side.
#
# FSIM compares the gradients of two pictures, by their magnitude. The package takes them as unsigned 16-bit numbers:
# where a picture gets darker to the right or downward they are cut to 0, and their squares keep only 16 bits. An edge
# of 16 gray levels has 16 * 16 = 256, whose square is 65,536, and thus 0: it is no edge, while one of 15 is. So two
# chessboards that differ by one gray level have an FSIM of 0.79, a picture and its negative, whose gradients are of
# equal magnitude, do not have 1, and in a table the reconstructions stand in another order.
#
# SRE, the signal to reconstruction error ratio, is the power of the signal over that of the error in decibels,
# 10 log10(mean(x)^2 / (|x - y|^2 / n)), the same for pixels to 1 and to 255. The package divides by |x - y| / n, without
# the square. What is left depends on the unit of the pixels and grows with the root of n: of two equally good
# reconstructions that of the larger image seems better, and half of the error is 3 dB more instead of 6. Neither README
# nor docstrings say so.
#
# Input: a smooth random picture of 64 by 64 in color, as bytes, and what became of it; two gray chessboards. Beside
# FSIM the package's own with gradients in floats, beside SRE the formula.
#
# Seen with Python 3.11, numpy 1.26.4, scipy 1.17.1, opencv-python 4.11.0.86, phasepack 1.5, scikit-image 0.20.0:
#   chessboards of 16 and of 15 gray levels: FSIM 0.786, in floats 0.999
#   half as bright: FSIM 0.892, in floats 0.801
#   blurred: FSIM 0.768, in floats 0.842
#   negative: FSIM 0.401, in floats 1.000
#   blurred, bytes: SRE 50.1 dB, formula 22.5 dB
#   blurred, pixels from 0 to 1: SRE 26.1 dB, formula 22.5 dB
#   blurred, two by two copies: SRE 53.1 dB, formula 22.5 dB
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q image-similarity-measures==0.3.6 numpy==1.26.4 scipy==1.17.1 \
  opencv-python==4.11.0.86 phasepack==1.5 scikit-image==0.20.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'END'
import sys
from unittest import mock

import cv2
import numpy as np
from image_similarity_measures import quality_metrics
from scipy.ndimage import gaussian_filter


def in_floats(picture, depth):
    picture = np.ascontiguousarray(picture, dtype=float)
    return np.hypot(cv2.Scharr(picture, cv2.CV_64F, 1, 0), cv2.Scharr(picture, cv2.CV_64F, 0, 1))


def formula(x, y):
    x, y = x.astype(float), y.astype(float)
    return float(10 * np.log10(np.mean(x.mean((0, 1)) ** 2 / ((x - y) ** 2).mean((0, 1)))))


smooth = gaussian_filter(np.random.default_rng(0).normal(size=(64, 64, 3)), (2, 2, 0))
picture = np.round(255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
odd = np.indices((64, 64)) // 16 % 2
squares = (odd[0] != odd[1])[..., None]
blurred = gaussian_filter(picture, (1.5, 1.5, 0))
fsim, sre = {}, {}
for name, pair in {
    "chessboards of 16 and of 15 gray levels": [(100 + step * squares).astype(np.uint8) for step in (16, 15)],
    "half as bright": (picture, picture // 2),
    "blurred": (picture, blurred),
    "negative": (picture, 255 - picture),
}.items():
    with mock.patch.object(quality_metrics, "_gradient_magnitude", in_floats):
        right = float(quality_metrics.fsim(*pair))
    fsim[name] = float(quality_metrics.fsim(*pair)), right
    print(f"{name}: FSIM {fsim[name][0]:.3f}, in floats {right:.3f}")
for name, pair in {
    "bytes": (picture, blurred),
    "pixels from 0 to 1": (picture / 255, blurred / 255),
    "two by two copies": (np.tile(picture, (2, 2, 1)), np.tile(blurred, (2, 2, 1))),
}.items():
    sre[name] = float(quality_metrics.sre(*pair)), formula(*pair)
    print(f"blurred, {name}: SRE {sre[name][0]:.1f} dB, formula {sre[name][1]:.1f} dB")
boards, dark, blur, negative = fsim.values()
order = dark[0] > blur[0] + 0.05 and dark[1] < blur[1] - 0.02
lost = boards[0] < 0.85 and boards[1] > 0.99 and negative[0] < 0.6 and negative[1] > 0.999
(whole, same), (unit, scaled), (tiled, repeated) = sre.values()
more = abs(whole - unit - 24.1) < 0.1 and abs(tiled - whole - 3) < 0.1
ratio = max(abs(same - scaled), abs(same - repeated)) < 0.01
sys.exit(0 if order and lost and more and ratio else "FSIM or SRE is now another one")
END
