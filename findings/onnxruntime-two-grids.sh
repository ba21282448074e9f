#!/bin/sh
# onnxruntime 1.32.0: two quantizations in a row become one, on the finer of their grids.
#
# A pair of QuantizeLinear and DequantizeLinear rounds numbers to a grid. Of two pairs in a row, both of 8 bits with a
# sign or both without, onnxruntime removes the inner half of each and gives the pair that stays a new scale, from the
# range that both hold (DoubleQDQPairsRemover, at the basic level of optimization already). It does not ask which grid
# is the coarser one: with steps of 1/4 in one pair and of 1/255 in the other, 256 values come out instead of 5,
# whichever is first. The two halves of a split network meet so when they are joined into one file: either half is right
# alone, and so are both in turn, but what is measured on the joined file is what an undefended feature gives. A first
# grid of 4-bit numbers is left alone.
#
# Input: a head and a tail of one pair each, with zero point 0, joined by onnx.compose.merge_models and accepted by
# onnx.checker; 1,001 numbers from 0 to 1. Counted are the values that come out.
#
# Seen with Python 3.11, onnx 1.23.2, numpy 2.4.6:
#   steps                 reference   in turn   joined, not optimized   joined   joined, without the remover
#   1/4, then 1/255               5         5                       5      256                             5
#   1/255, then 1/4               5         5                       5      256                             5
#   4 bits, then 1/255           16        16                      16       16                            16
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
cat > grids.py <<'END'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, checker, compose, helper
from onnx.reference import ReferenceEvaluator

numbers = np.linspace(0, 1, 1001, dtype=np.float32)


def half(step, kind):
    constants = [helper.make_tensor("step", TensorProto.FLOAT, [], [step]), helper.make_tensor("zero", kind, [], [0])]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [numbers.size]) for name in "xy"]
    graph = helper.make_graph(nodes, "half", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def joined(head, tail):
    model = compose.merge_models(head, tail, io_map=[("y", "x")], prefix1="head_", prefix2="tail_")
    checker.check_model(model, full_check=True)
    return model


def run(model, x, level="ENABLE_ALL", without=()):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(without)
    )
    return session.run(None, {session.get_inputs()[0].name: x})[0]


cases = {
    "1/4, then 1/255": ((1 / 4, TensorProto.UINT8), (1 / 255, TensorProto.UINT8)),
    "1/255, then 1/4": ((1 / 255, TensorProto.UINT8), (1 / 4, TensorProto.UINT8)),
    "4 bits, then 1/255": ((1 / 15, TensorProto.UINT4), (1 / 255, TensorProto.UINT8)),
}
names = ("reference", "in turn", "joined, not optimized", "joined", "joined, without the remover")
print("   ".join([f"{'steps':19}", *names]))
found = {}
for name, (first, second) in cases.items():
    head, tail = half(*first), half(*second)
    both = joined(head, tail)
    answers = (
        ReferenceEvaluator(both).run(None, {"head_x": numbers})[0],
        run(tail, run(head, numbers)),
        run(both, numbers, "DISABLE_ALL"),
        run(both, numbers),
        run(both, numbers, without=["DoubleQDQPairsRemover"]),
    )
    found[name] = [len(np.unique(answer)) for answer in answers]
    print("   ".join([f"{name:19}", *(f"{many:{len(title)}}" for title, many in zip(names, found[name]))]))
seen = {"1/4, then 1/255": [5, 5, 5, 256, 5], "1/255, then 1/4": [5, 5, 5, 256, 5], "4 bits, then 1/255": [16] * 5}
sys.exit(0 if found == seen else "two grids in a row are now treated otherwise")
END
"$folder/venv/bin/python" grids.py
