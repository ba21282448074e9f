#!/bin/sh
# pyssim 0.7.1: two pictures that have nothing in common have an SSIM of exactly 1 if their files have an alpha
# channel.
#
# Before it compares, pyssim makes the pixels black that it takes to be transparent. It takes those with an alpha of
# 255 for it, which in PNG and in Pillow are the opaque ones. So of a picture that is opaque everywhere nothing is
# left, all such pictures are equally black, and their SSIM is 1. Its README only says that it computes the SSIM. Many
# PNG files have such a channel though nothing in them is transparent: those of matplotlib's savefig() do, and many
# screenshots. A table of reconstructions that were saved in this way says that every attack succeeded perfectly.
# Pictures without the channel are compared as they should be.
#
# Input: two pictures of independent random colors, 64 by 64, in the modes RGB and RGBA (opaque), saved as PNG; the
# arguments are those of the package's own command. Beside it the SSIM of what one sees, from scikit-image, in gray.
#
# Seen with Python 3.11, Pillow 12.0.0, numpy 2.4.6, scipy 1.17.1, scikit-image 0.26.0:
#   RGB: pyssim 0.011, scikit-image 0.021
#   RGBA: pyssim 1.000, scikit-image 0.021
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pyssim==0.7.1 pillow==12.0.0 numpy==2.4.6 scipy==1.17.1 scikit-image==0.26.0
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity
from ssim import SSIM
from ssim.utils import get_gaussian_kernel

first, second = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
found = {}
for mode in ("RGB", "RGBA"):
    Image.fromarray(first).convert(mode).save("first.png")
    Image.fromarray(second).convert(mode).save("second.png")
    opened = [Image.open(name) for name in ("first.png", "second.png")]
    assert all(picture.mode == mode for picture in opened)
    assert mode == "RGB" or all(picture.getchannel("A").getextrema() == (255, 255) for picture in opened)
    seen = [np.asarray(picture.convert("RGB").convert("L")) for picture in opened]
    own = structural_similarity(*seen, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    found[mode] = float(SSIM("first.png", get_gaussian_kernel(11, 1.5)).ssim_value("second.png")), float(own)
    print(f"{mode}: pyssim {found[mode][0]:.3f}, scikit-image {found[mode][1]:.3f}")
plain, opaque = found["RGB"], found["RGBA"]
right = abs(plain[0]) < 0.05 and abs(plain[1]) < 0.05 and abs(opaque[1]) < 0.05
sys.exit(0 if right and opaque[0] == 1 else "the SSIM of opaque pictures with an alpha channel has changed")
END
