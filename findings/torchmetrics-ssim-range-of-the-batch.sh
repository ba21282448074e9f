#!/bin/sh
# torchmetrics 1.9.0: the SSIM of an image depends on the other images of its batch.
#
# Unless data_range is given, structural_similarity_index_measure takes it from the values that occur in the whole batch,
# with reduction="none" too, so that one bright image changes the figures of all others. For reconstructions of an attack
# that means: the same image has another SSIM in another batch size, and a dark image a lower one when it is scored alone.
#
# Input: a dark image (random values below 0.05) with a noisy copy of it, scored alone and beside a pair of bright images.
#
# Seen with Python 3.11:
#   alone: 0.538
#   beside a bright image: 0.800
#   with data_range=1: 0.800 alone, 0.800 beside a bright image
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 torchmetrics==1.9.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import torch
from torchmetrics.functional.image import structural_similarity_index_measure

torch.manual_seed(0)
dark, bright = 0.05 * torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
copy, other = (dark + 0.02 * torch.randn_like(dark)).clamp(0, 1), torch.rand(1, 3, 32, 32)


def scores(**more):
    alone = structural_similarity_index_measure(copy, dark, reduction="none", **more)[0]
    pair = torch.cat([copy, other]), torch.cat([dark, bright])
    return float(alone), float(structural_similarity_index_measure(*pair, reduction="none", **more)[0])


alone, beside = scores()
fixed = scores(data_range=1.0)
print(f"alone: {alone:.3f}\nbeside a bright image: {beside:.3f}")
print(f"with data_range=1: {fixed[0]:.3f} alone, {fixed[1]:.3f} beside a bright image")
same = abs(fixed[0] - fixed[1]) < 1e-5
sys.exit(0 if abs(alone - beside) > 0.02 and same else "the batch no longer matters, or data_range no longer helps")
END
