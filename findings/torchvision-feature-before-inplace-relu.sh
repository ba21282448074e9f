#!/bin/sh
# torchvision 0.29.1: a feature of create_feature_extractor depends on which other features are asked for beside it.
#
# The networks of torchvision rectify in place. A layer before such a ReLU is given back as it left the layer where it is
# the only or the last one that is asked for; where a later layer is asked for too, the ReLU writes into the same memory,
# and the feature is the rectified one, without a word. A forward hook on the layer holds the same memory and sees the
# rectified one as well. Who cuts a network there and looks at several layers at once to choose the cut measures another
# feature than the one that is later sent.
#
# Input: resnet18 with random weights, layer1.0.bn1 of one random image of 64 by 64, asked for in three ways.
#
# Seen with Python 3.11:
#   asked for alone: least value -2.1
#   asked for with layer1.0.relu: least value 0.0
#   from a forward hook: least value 0.0
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 torchvision==0.29.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import torch
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

torch.manual_seed(0)
model, image, name = resnet18(weights=None).eval(), torch.randn(1, 3, 64, 64), "layer1.0.bn1"
found = {}
with torch.no_grad():
    found["asked for alone"] = create_feature_extractor(model, [name])(image)[name]
    found["asked for with layer1.0.relu"] = create_feature_extractor(model, [name, "layer1.0.relu"])(image)[name]
    model.get_submodule(name).register_forward_hook(lambda layer, given, z: found.update({"from a forward hook": z}))
    model(image)
for how, feature in found.items():
    print(f"{how}: least value {float(feature.min()):.1f}")
negative = [bool((feature < 0).any()) for feature in found.values()]
sys.exit(0 if negative == [True, False, False] else "the three ways now give another result")
END
