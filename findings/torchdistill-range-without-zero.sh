#!/bin/sh
# torchdistill 1.1.5: features whose range does not contain 0 come back from 8 bits wrong by up to their whole value.
#
# The quantizer quantize_tensor() takes the scale from the least and the greatest value and the zero point from the
# least one, and then clips the zero point to what 8 bits can hold. Where all values are above 0 the zero point becomes
# 0, so that the codes end at greatest minus least: everything above comes back as this number. The method that it
# names widens the range until it contains 0, as torch's observers do. sc2bench, which compares codecs of split
# networks, quantizes the wire with it (SimpleQuantizer). A feature behind a ReLU has its 0; one behind a sigmoid has
# none and loses its greatest values, and one that is far from 0 comes back as a constant, without a word. Accuracy and
# an attacker's error are then those of another wire.
#
# Input: 10,000 numbers of each range, quantized and brought back; beside it torch's quantization with torch's
# observer.
#
# Seen with Python 3.11, torch 2.14.1:
#   values          greatest  greatest brought back  largest error  of torch
#   -1 to 1            1.000                  0.996          0.004     0.004
#   0 to 1             1.000                  1.000          0.002     0.002
#   0.2 to 0.9         0.900                  0.700          0.200     0.002
#   10 to 11          11.000                  1.000         10.000     0.022
#   -11 to -10       -10.000                 -1.000         10.000     0.022
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torchdistill==1.1.5 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys
import warnings

warnings.simplefilter("ignore")  # torch announces another interface for its quantization

import torch
from torch.ao.quantization import MinMaxObserver
from torchdistill.common.tensor_util import dequantize_tensor, quantize_tensor

found = []
for low, high in ((-1, 1), (0, 1), (0.2, 0.9), (10, 11), (-11, -10)):
    x = torch.linspace(low, high, 10_000)
    back = dequantize_tensor(quantize_tensor(x))
    observer = MinMaxObserver(torch.quint8)
    observer(x)
    scale, zero = observer.calculate_qparams()
    other = torch.quantize_per_tensor(x, float(scale), int(zero), torch.quint8).dequantize()
    errors = [float((one - x).abs().max()) for one in (back, other)]
    found.append(errors)
    print(f"{low} to {high}".ljust(20), "".join(f"{value:13.3f}" for value in (x.max(), back.max(), *errors)))
as_seen = all(mine < 0.01 for mine, _ in found[:2]) and all(mine > 20 * other for mine, other in found[2:])
sys.exit(not as_seen)
END
