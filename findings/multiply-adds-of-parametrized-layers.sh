#!/bin/sh
# torchinfo 1.8.0, thop 0.1.1.post2209072238 and ptflops 0.7.5: a convolution whose weight is parametrized costs nothing.
#
# The three count multiply-adds layer by layer, by the layer's exact class. Weight norm and spectral norm, as
# torch.nn.utils.parametrizations has them, give the layer a class of its own, and so does a subclass: its multiply-adds
# are then left out of the sum, without a word. A transposed convolution is counted at the size of its output by two of
# them, which is four times too much at stride 2. The counter that torch has itself looks at the operators and is right.
# Who compares the cost of an encoder on a device before and after such a norm sees it become free.
#
# Input: a convolution of 8 channels, 3 by 3, on 16 by 16 places (147,456 multiply-adds, 2,048 additions of the bias), as
# it is, with weight norm, with spectral norm; a transposed one of 4 by 4 at stride 2 (262,144; 8,192).
#
# Seen with Python 3.11, torch 2.14.1:
#   plain: torchinfo 149504, thop 147456, ptflops 149504, torch 147456
#   weight norm: torchinfo 0, thop 0, ptflops 0, torch 147456
#   spectral norm: torchinfo 0, thop 0, ptflops 0, torch 147456
#   transposed: torchinfo 1056768, thop 1048576, ptflops 270336, torch 262144
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 torchinfo==1.8.0 thop==0.1.1.post2209072238 ptflops==0.7.5 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import torch
from ptflops import get_model_complexity_info
from thop import profile
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode
from torchinfo import summary


def convolution():
    return nn.Conv2d(8, 8, 3, padding=1)


layers = {
    "plain": convolution(),
    "weight norm": parametrizations.weight_norm(convolution()),
    "spectral norm": parametrizations.spectral_norm(convolution()),
    "transposed": nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1),
}
image, found = torch.zeros(1, 8, 16, 16), {}
for name, layer in layers.items():
    layer.eval()
    with FlopCounterMode(display=False) as counter:
        layer(image)
    torchs = counter.get_total_flops() // 2
    by_torchinfo = summary(layer, input_data=image, verbose=0).total_mult_adds
    by_ptflops, _ = get_model_complexity_info(layer, (8, 16, 16), False, False, backend="pytorch")
    by_thop, _ = profile(layer, (image,), verbose=False)
    found[name] = [int(by_torchinfo), int(by_thop), int(by_ptflops), torchs]
    print(f"{name}: torchinfo {found[name][0]}, thop {found[name][1]}, ptflops {found[name][2]}, torch {torchs}")
seen = {
    "plain": [149504, 147456, 149504, 147456],
    "weight norm": [0, 0, 0, 147456],
    "spectral norm": [0, 0, 0, 147456],
    "transposed": [1056768, 1048576, 270336, 262144],
}
sys.exit(0 if found == seen else "the counters now give other numbers")
END
