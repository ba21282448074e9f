#!/bin/sh
# onnxoptimizer 0.4.2 and onnxsim 0.8.1: two nodes that draw random numbers become one, and share one noise.
#
# The ONNX standard marks RandomNormal, RandomNormalLike, RandomUniformLike, Bernoulli and Dropout with training_mode
# as nondeterministic: two nodes draw two independent noises, also where they are written alike. The elimination of
# common subexpressions, which both tools run by default, merges such nodes, and then one noise is in two places. A
# defense that adds noise of its own to each of two parts of a feature then sends parts whose difference has no noise
# at all. onnxsim's check of its result passes. onnxruntime 1.32.0 keeps the nodes apart at its default level, all but
# Bernoulli.
#
# Input: y = x + a - b, with a and b from two nodes of each operator, checked by onnx.checker. The deviation of y over
# 10,000 values is that of the difference of two noises, and 0 where they are one.
#
# Seen with Python 3.11, onnx 1.19.1:
#   operator            not optimized   onnxruntime   onnxoptimizer   onnxsim
#   RandomNormal        1.4             1.4           0.0             0.0
#   RandomNormalLike    1.4             1.4           0.0             0.0
#   RandomUniformLike   0.4             0.4           0.0             0.0
#   Bernoulli           0.7             0.0           0.0             0.0
#   Dropout             1.4             1.4           0.0             0.0
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.19.1 onnxruntime==1.32.0 onnxoptimizer==0.4.2 onnxsim==0.8.1 numpy==2.4.6
cd "$folder"
cat > merged.py <<'END'
import sys

import numpy as np
import onnx
import onnxoptimizer
import onnxruntime
import onnxsim
from onnx import TensorProto, helper

SHAPE = [1, 10_000]
CONSTANTS = {
    "Bernoulli": helper.make_tensor("half", TensorProto.FLOAT, SHAPE, [0.5] * SHAPE[1]),
    "Dropout": helper.make_tensor("on", TensorProto.BOOL, [], [True]),
}
DRAWING = {
    "RandomNormal": ([], {"shape": SHAPE}),
    "RandomNormalLike": (["x"], {}),
    "RandomUniformLike": (["x"], {}),
    "Bernoulli": (["half"], {}),
    "Dropout": (["x", "", "on"], {}),
}
LEVELS = onnxruntime.GraphOptimizationLevel


def made(operator):
    inputs, attributes = DRAWING[operator]
    nodes = [helper.make_node(operator, inputs, [name], **attributes) for name in ("a", "b")]
    nodes += [helper.make_node("Add", ["x", "a"], ["z"]), helper.make_node("Sub", ["z", "b"], ["y"])]
    about = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("x", "y")]
    constants = [CONSTANTS[operator]] if operator in CONSTANTS else []
    graph = helper.make_graph(nodes, "noise", about[:1], about[1:], initializer=constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def deviation(model, level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": np.ones(SHAPE, np.float32)})[0].std())


def simplified(model):
    simple, same = onnxsim.simplify(model)
    assert same, "onnxsim says that its result is another function"
    return simple


changed = False
for operator, expected in {name: (1, name != "Bernoulli", 0, 0) for name in DRAWING}.items():
    model = made(operator)
    found = (
        deviation(model, LEVELS.ORT_DISABLE_ALL),
        deviation(model, LEVELS.ORT_ENABLE_ALL),
        deviation(onnxoptimizer.optimize(model), LEVELS.ORT_DISABLE_ALL),
        deviation(simplified(model), LEVELS.ORT_DISABLE_ALL),
    )
    print(f"{operator:<20}" + "".join(f"{value:<16.1f}" for value in found))
    changed |= any((value > 0.3) != bool(apart) for value, apart in zip(found, expected))
sys.exit(changed)
END
"$folder/venv/bin/python" merged.py
