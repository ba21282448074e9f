#!/bin/sh
# onnxslim 0.1.98: nodes that draw random numbers become constants, and dropout in training mode disappears.
#
# The ONNX standard marks RandomNormal, Bernoulli and Dropout with training_mode as nondeterministic: they draw anew at
# every run. onnxslim takes a node without inputs, or with constant inputs only, for a constant, computes it once and
# stores the result; of Dropout it looks at no input and removes it. So a graph whose defense adds noise in it sends the
# same noise with every image afterwards, or none, while the tool's own comparison of nodes shows only that there are
# fewer. RandomNormalLike of the graph's input stays. onnxsim 0.8.1 leaves all four as they were.
#
# Input: y = x + n, with n from each of four operators, checked by onnx.checker; x = 1 is run twice in one session.
#
# Seen with Python 3.11, onnx 1.19.1, onnxruntime 1.32.0:
#   operator            as made       onnxsim       onnxslim
#   RandomNormal        two draws     two draws     one draw, stored
#   Bernoulli           two draws     two draws     one draw, stored
#   Dropout             two draws     two draws     removed
#   RandomNormalLike    two draws     two draws     two draws
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.19.1 onnxruntime==1.32.0 onnxslim==0.1.98 onnxsim==0.8.1 numpy==2.4.6
cd "$folder"
cat > random_nodes.py <<'END'
import sys

import numpy as np
import onnx
import onnxruntime
import onnxsim
import onnxslim
from onnx import TensorProto, helper

SHAPE = [1, 1000]
half, on = ([helper.make_tensor(*about)] for about in (("half", TensorProto.FLOAT, [], [0.5]), ("on", TensorProto.BOOL, [], [True])))
chance = [helper.make_tensor("chance", TensorProto.FLOAT, SHAPE, [0.5] * SHAPE[1])]
DRAWS = {
    "RandomNormal": (helper.make_node("RandomNormal", [], ["n"], shape=SHAPE), []),
    "Bernoulli": (helper.make_node("Bernoulli", ["chance"], ["n"]), chance),
    "Dropout": (helper.make_node("Dropout", ["x", "half", "on"], ["n"]), half + on),
    "RandomNormalLike": (helper.make_node("RandomNormalLike", ["x"], ["n"]), []),
}


def made(operator):
    node, constants = DRAWS[operator]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy")
    graph = helper.make_graph([node, helper.make_node("Add", ["x", "n"], ["y"])], "noisy", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def seen(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    first, second = (session.run(None, {"x": np.ones(SHAPE, np.float32)})[0] for _ in range(2))
    if (first != second).any():
        return "two draws"
    return "one draw, stored" if len(np.unique(first)) > 1 else "removed"


found = {name: (seen(made(name)), seen(onnxsim.simplify(made(name))[0]), seen(onnxslim.slim(made(name)))) for name in DRAWS}
for row in (("operator", ("as made", "onnxsim", "onnxslim")), *found.items()):
    print(f"{row[0]:20}" + "".join(f"{cell:14}" for cell in row[1]).rstrip())
same = [("two draws",) * 2 + (last,) for last in ("one draw, stored", "one draw, stored", "removed", "two draws")]
sys.exit(0 if list(found.values()) == same else "the tools now treat random nodes otherwise")
END
"$folder/venv/bin/python" random_nodes.py
