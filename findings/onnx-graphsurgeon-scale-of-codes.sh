#!/bin/sh
# onnx-graphsurgeon 0.6.1: fold_constants() cuts the scale of integer codes to an integer, 0.5 to 0.
#
# Codes of a feature are put on another grid by plain arithmetic: cast to float, times a scale, cast back to integers.
# With fold_shapes=True, the default, fold_constants() takes such a pattern for arithmetic on shapes, wherever it is: it
# removes both casts if they are from and to the same type, int32 or int64, and turns the constant between them into an
# integer too. Its description speaks of constants and of Shape nodes; these codes are an input of the graph and no
# shape. Multiplied by 0.5 every code becomes 0, multiplied by 1.5 it stays as it is, and 0.5 that is added or taken
# away has no effect. Nothing is said, and the model is still valid: onnx.checker accepts it and onnxruntime runs it.
#
# Input: a graph of Cast, one operator with a constant, Cast, for eight codes of int32. Beside the folded graph the
# numbers by NumPy, those of onnxruntime before folding, and those after folding with fold_shapes=False.
#
# Seen with Python 3.11, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6 (NumPy, onnxruntime and fold_shapes=False agree):
#   Mul 0.5: 0 0 1 2 50 100 127 -3 | folded: 0 0 0 0 0 0 0 0
#   Mul 1.5: 0 1 3 7 150 300 382 -10 | folded: 0 1 2 5 100 200 255 -7
#   Div 2.5: 0 0 0 2 40 80 102 -2 | folded: 0 0 1 2 50 100 127 -3
#   Add 0.5: 0 1 2 5 100 200 255 -6 | folded: 0 1 2 5 100 200 255 -7
#   Sub 0.5: 0 0 1 4 99 199 254 -7 | folded: 0 1 2 5 100 200 255 -7
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx-graphsurgeon==0.6.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
import onnx_graphsurgeon
import onnxruntime
from onnx import TensorProto, checker, helper

codes = np.array([0, 1, 2, 5, 100, 200, 255, -7], np.int32)
by_numpy = {"Mul": np.multiply, "Div": np.divide, "Add": np.add, "Sub": np.subtract}


def made(operator, constant):
    nodes = [
        helper.make_node("Cast", ["codes"], ["x"], to=TensorProto.FLOAT),
        helper.make_node(operator, ["x", "constant"], ["y"]),
        helper.make_node("Cast", ["y"], ["new"], to=TensorProto.INT32),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.INT32, [8])] for name in ("codes", "new")]
    graph = helper.make_graph(nodes, "grid", *ends, [helper.make_tensor("constant", TensorProto.FLOAT, [], [constant])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def folded(model, **options):
    graph = onnx_graphsurgeon.import_onnx(model)
    return onnx_graphsurgeon.export_onnx(graph.fold_constants(**options).cleanup())


def run(model):
    checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"codes": codes})[0]


as_seen = True
cases = (("Mul", 0.5, 0), ("Mul", 1.5, 1), ("Div", 2.5, 2), ("Add", 0.5, 0), ("Sub", 0.5, 0))
for operator, constant, instead in cases:
    model = made(operator, constant)
    right = np.trunc(by_numpy[operator](codes, np.float32(constant))).astype(int)
    others = [run(model), run(folded(model, fold_shapes=False))]
    wrong = run(folded(model))
    print(f"{operator} {constant}:", *right, "| folded:", *wrong)
    rounded = np.trunc(by_numpy[operator](codes, float(instead)))
    as_seen &= all((other == right).all() for other in others) and (wrong == rounded).all() and (wrong != right).any()
sys.exit(0 if as_seen else "the scale of codes now stays what it is")
END
