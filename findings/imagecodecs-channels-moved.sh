#!/bin/sh
# imagecodecs 2026.3.6: HTJ2K without loss gives an array of height x width x channels back with the channels first.
#
# htj2k_encode takes an array of three axes, the first of them longer than 4, as height x width x channels.
# htj2k_decode gives it back as channels x height x width, unless it has 3 or 4 channels. With pictures, on which a
# codec is tried first, all is well; a feature of 64 channels is turned. Where all axes are equally long, the shape
# does not show it. Where the receiver knows the shape and applies it, as Zarr does with every chunk, nearly every
# number comes back in another place: Htj2k, the codec for Zarr in the same package, has the same default. A feature
# with the channels first is taken for one with the channels last, and is turned as well. Nothing is said.
# planar=False keeps the axes, given to the decoder or to the codec. jpeg2k, the codec for plain JPEG 2000 beside it,
# keeps them by default.
#
# Input: random bytes of five shapes, encoded with reversible=True and decoded with the defaults, and the same bytes
# in an array of Zarr with one chunk and the codec, in memory. The share of numbers that are right is counted in what
# Zarr gives back; two random bytes are equal once in 256 times.
#
# Seen with Python 3.11, zarr 3.1.6, numcodecs 0.16.6, numpy 2.4.6:
#   htj2k: (28, 28, 3) -> (28, 28, 3), axes as sent; in Zarr 100.0% right
#   htj2k: (28, 28, 64) -> (64, 28, 28), last axis first; in Zarr 0.4% right
#   htj2k: (64, 28, 28) -> (28, 64, 28), last axis first; in Zarr 0.4% right
#   htj2k: (8, 8, 1280) -> (1280, 8, 8), last axis first; in Zarr 0.4% right
#   htj2k: (64, 64, 64) -> (64, 64, 64), last axis first; in Zarr 0.4% right
#   jpeg2k, htj2k with planar=False: axes as sent, in Zarr 100% right: True
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q imagecodecs==2026.3.6 zarr==3.1.6 numcodecs==0.16.6 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W error - <<'END'
import sys

import imagecodecs
import numcodecs
import numpy as np
import zarr
from imagecodecs.numcodecs import Htj2k, Jpeg2k

for codec in (Htj2k, Jpeg2k):
    numcodecs.register_codec(codec)
shapes = [(28, 28, 3), (28, 28, 64), (64, 28, 28), (8, 8, 1280), (64, 64, 64)]
codecs = {"jpeg2k": (Jpeg2k, {}), "htj2k": (Htj2k, {}), "htj2k, planar=False": (Htj2k, {"planar": False})}
random, right, moved = np.random.default_rng(0), {}, {}
for shape in shapes:
    sent = random.integers(0, 256, shape, dtype=np.uint8)
    for name, (codec, options) in codecs.items():
        encode, decode = (getattr(imagecodecs, f"{name.split(',')[0]}_{way}code") for way in ("en", "de"))
        received = decode(encode(sent, reversible=True), **options)
        moved[name, shape] = np.array_equal(received, np.moveaxis(sent, -1, 0))
        same = moved[name, shape] or np.array_equal(received, sent)
        assert same, "the numbers themselves survive"
        array = zarr.create_array(
            zarr.storage.MemoryStore(),
            shape=shape,
            chunks=shape,
            dtype="uint8",
            zarr_format=2,
            compressors=codec(reversible=True, **options),
        )
        array[:] = sent
        right[name, shape] = (array[:] == sent).mean()
        if name == "htj2k":
            axes = "last axis first" if moved[name, shape] else "axes as sent"
            print(f"{name}: {shape} -> {received.shape}, {axes}; in Zarr {right[name, shape]:.1%} right")
bad = [("htj2k", shape) for shape in shapes[1:]]
turned = all(moved[key] and right[key] < 0.01 for key in bad)
others = all(not moved[key] and right[key] == 1 for key in right if key not in bad)
print(f"jpeg2k, htj2k with planar=False: axes as sent, in Zarr 100% right: {others}")
sys.exit(0 if turned and others else "HTJ2K without loss now keeps the axes")
END
