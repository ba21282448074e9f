#!/bin/sh
# imagecodecs 2026.3.6: JPEG XL without loss loses numbers of float16: small ones, and NaN becomes infinity.
#
# Features in float16 look made for JPEG XL, which takes that type and has a mode without loss; imagecodecs encodes
# them with lossless=True. Every number x with 2^-15 <= |x| < 2^-14, which is from 0.00003 to 0.00006, comes back with
# its sign and a size of 2(|x| - 2^-15): too small by up to its whole value, and 2^-15 itself as 0. All other finite
# numbers survive, smaller ones as well. Attention maps, and the probabilities that a tail answers, are full of such
# numbers; the logarithm of one that became 0 is minus infinity. A NaN arrives as infinity, so that a calculation
# which failed on the device looks like one that became too large. In float32 the same numbers survive. The fault lies
# in libjxl 0.11.2, which imagecodecs brings along; neither gives a warning.
#
# Input: all 65536 numbers of float16 as a picture of 256 x 256, NaN among them; and the probabilities of 16 heads
# that look from 64 places at 64 others, a softmax of normal scores times 2.
#
# Seen with Python 3.11, numpy 2.4.6:
#   float16: 1024 of 63488 finite numbers changed, just those named, as said: True
#   float16: of 2046 NaN 2046 become infinity
#   float32: 0 of 63488 finite numbers changed
#   float32: of 2046 NaN 0 become infinity
#   attention: 1219 of 65536 probabilities changed, by 39% on average, lowest logarithm -15.2 before and -inf after
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q imagecodecs==2026.3.6 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W error - <<'END'
import sys

import numpy as np
from imagecodecs import jpegxl_decode, jpegxl_encode


def back(sent):
    received = jpegxl_decode(jpegxl_encode(sent, lossless=True))
    assert received.dtype == sent.dtype and received.shape == sent.shape
    return received


halves = np.arange(65536, dtype=np.uint16).reshape(256, 256).view(np.float16)
finite, nan = np.isfinite(halves), np.isnan(halves)
received = back(halves)
changed = finite & (received != halves)
sizes = np.abs(halves[changed].astype(float))
all_small = finite & (np.abs(halves) >= 2**-15) & (np.abs(halves) < 2**-14)
formula = np.array_equal(changed, all_small) and np.array_equal(
    received[changed], np.copysign(2 * (sizes - 2**-15), halves[changed])
)
infinite = np.isinf(received[nan]).sum()
print(f"float16: {changed.sum()} of {finite.sum()} finite numbers changed, just those named, as said: {formula}")
print(f"float16: of {nan.sum()} NaN {infinite} become infinity")
singles = halves.astype(np.float32)
good = back(singles)
good_changed, good_infinite = (good[finite] != singles[finite]).sum(), np.isinf(good[nan]).sum()
print(f"float32: {good_changed} of {finite.sum()} finite numbers changed")
print(f"float32: of {nan.sum()} NaN {good_infinite} become infinity")

scores = np.exp(2 * np.random.default_rng(0).normal(size=(16 * 64, 64)))
attention = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float16)
seen = back(attention)
differ = seen != attention
share = np.abs(seen.astype(float) - attention)[differ] / attention[differ]
with np.errstate(divide="ignore"):
    lowest = [np.log(values.astype(float)).min() for values in (attention, seen)]
print(
    f"attention: {differ.sum()} of {differ.size} probabilities changed,"
    f" by {share.sum() / max(share.size, 1):.0%} on average,"
    f" lowest logarithm {lowest[0]:.1f} before and {lowest[1]:.1f} after"
)
lost = formula and infinite == nan.sum() and good_changed == good_infinite == 0 and differ.any()
sys.exit(0 if lost else "JPEG XL without loss now keeps every number of float16")
END
