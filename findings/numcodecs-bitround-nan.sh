#!/bin/sh
# numcodecs 0.16.6: BitRound, which rounds to fewer bits of the mantissa, turns the NaN of a GPU into 0.
#
# The codec adds half a step to the bits of a number and cuts off the rest. A NaN whose bits are all 1 overflows: its
# exponent becomes 0 and its sign the other one, which is minus zero. CUDA gives just this NaN, 0x7fffffff, for
# operations in float32 that have no result (0x7fff in float16), while NumPy gives 0x7fc00000, which survives: a test on
# the processor finds nothing. Features that broke off on a GPU arrive as zeros, and a check for finite numbers after
# the decoder passes.
#
# Input: NaN with the bits that NumPy gives and with those that CUDA gives, in float32 and in float16; keepbits=7, which
# is what bfloat16 keeps. Beside it bfloat16 itself, from ml_dtypes.
#
# Seen with Python 3.11, numpy 2.4.6, ml_dtypes 0.6.0:
#   float32: 0x7fc00000 (nan) -> nan, 0x7fffffff (nan) -> -0.0
#   float16: 0x7e00 (nan) -> nan, 0x7fff (nan) -> -0.0
#   bfloat16: 0x7fffffff (nan) -> nan
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numcodecs==0.16.6 numpy==2.4.6 ml_dtypes==0.6.0
cd "$folder"
"$folder/venv/bin/python" -W error - <<'END'
import sys

import ml_dtypes
import numpy as np
from numcodecs import BitRound

codec, found = BitRound(keepbits=7), {}
for kind, bits in {"float32": (0x7FC00000, 0x7FFFFFFF), "float16": (0x7E00, 0x7FFF)}.items():
    sent = np.array(bits, kind.replace("float", "uint")).view(kind)
    found[kind] = received = codec.decode(codec.encode(sent))
    print(f"{kind}:", ", ".join(f"{b:#x} ({s}) -> {r}" for b, s, r in zip(bits, sent, received)))
other = np.array([0x7FFFFFFF], np.uint32).view(np.float32).astype(ml_dtypes.bfloat16)
print(f"bfloat16: 0x7fffffff (nan) -> {other[0]}")
lost = all(np.isnan(r[0]) and r[1] == 0 and np.signbit(r[1]) for r in found.values())
sys.exit(0 if lost and np.isnan(other.astype(np.float32)[0]) else "the codec now keeps every NaN")
END
