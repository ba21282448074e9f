#!/bin/sh
# pytorch-msssim 1.0.0: two pictures that have nothing in common have an SSIM of nearly 1.
#
# ssim() and ms_ssim() take a data_range of 255 unless they are told otherwise, also for float tensors whose values lie
# between 0 and 1, as those of torchvision do. The constants of the formula are then far above all variances, and cover
# them. A table of reconstructions says that the attack has succeeded, or a loss of 1 - SSIM that there is nothing to learn.
#
# Input: two images of independent random pixels in [0, 1], and an image with itself.
#
# Seen with Python 3.11:
#   two unrelated images: 0.9967 as called, 0.0346 with data_range=1
#   an image with itself: 1.0000 as called, 1.0000 with data_range=1
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 pytorch-msssim==1.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import torch
from pytorch_msssim import ssim

torch.manual_seed(0)
one, other = torch.rand(2, 1, 3, 32, 32)
found = {}
for name, pair in (("two unrelated images", (one, other)), ("an image with itself", (one, one))):
    found[name] = float(ssim(*pair)), float(ssim(*pair, data_range=1))
    print(f"{name}: {found[name][0]:.4f} as called, {found[name][1]:.4f} with data_range=1")
called, told = found["two unrelated images"]
sys.exit(0 if called > 0.99 and told < 0.1 else "the default range has changed")
END
