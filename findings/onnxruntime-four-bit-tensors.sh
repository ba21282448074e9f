#!/bin/sh
# onnxruntime 1.32.0: from Python a tensor of 4-bit numbers is fed wrong without a word, and none can be read.
#
# ONNX has 4-bit integers since opset 21, and a feature of 4 bits is what a split network would like to send. A model with
# such an input or output is loaded. Numpy has no type for them; onnx itself and its reference evaluator use
# ml_dtypes.uint4, one number in a byte. OrtValue.ortvalue_from_numpy_with_onnx_type takes such an array (and plain uint8)
# for a 4-bit tensor of its shape, but the kernels then read two numbers from each byte: the first half of the array is
# taken for all of it, each number with the upper half of its byte, 0, behind it. An array that is packed already is
# refused because of its shape. What a model answers in 4 bits cannot be read in any of the three ways of running it.
#
# Input: y = DequantizeLinear(x, scale 1), which is x in float32, for x = 0 to 7; and its counterpart QuantizeLinear with
# an output of 4 bits, for the same numbers.
#
# Seen with Python 3.11, onnx 1.23.2, ml_dtypes 0.6.0, numpy 2.4.6:
#   reference evaluator: [0, 1, 2, 3, 4, 5, 6, 7]
#   onnxruntime, one number in a byte: [0, 0, 1, 0, 2, 0, 3, 0]
#   onnxruntime, two numbers in a byte: InvalidArgument, invalid dimensions
#   onnxruntime, run() with the array of ml_dtypes.uint4: RuntimeError, it can't be converted
#   an output of 4 bits: run(), an OrtValue and a binding each raise RuntimeError, no corresponding Numpy type
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.23.2 onnxruntime==1.32.0 ml_dtypes==0.6.0 numpy==2.4.6
cd "$folder"
cat > bits.py <<'END'
import sys

import ml_dtypes
import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper
from onnx.reference import ReferenceEvaluator

numbers = np.arange(8)


def model(operator, before, after, constants):
    nodes = [helper.make_node(operator, ["x", *(one.name for one in constants)], ["y"])]
    values = [helper.make_tensor_value_info(name, kind, [8]) for name, kind in (("x", before), ("y", after))]
    graph = helper.make_graph(nodes, "bits", values[:1], values[1:], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    checker.check_model(made)
    return made


def session(made):
    return onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])


def raised(call):
    try:
        return call()
    except Exception as error:
        return type(error).__name__


scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [1.0])
zero = helper.make_tensor("zero", TensorProto.UINT4, [], [0])
reads = model("DequantizeLinear", TensorProto.UINT4, TensorProto.FLOAT, [scale])
writes = model("QuantizeLinear", TensorProto.FLOAT, TensorProto.UINT4, [scale, zero])
fours = numbers.astype(ml_dtypes.uint4)
packed = (numbers[0::2] | numbers[1::2] << 4).astype(np.uint8)


def fed(array):
    value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, TensorProto.UINT4)
    return session(reads).run_with_ort_values(None, {"x": value})[0].numpy().astype(int).tolist()


found = {
    "reference": ReferenceEvaluator(reads).run(None, {"x": fours})[0].astype(int).tolist(),
    "a byte each": raised(lambda: fed(fours)),
    "two in a byte": raised(lambda: fed(packed)),
    "run()": raised(lambda: session(reads).run(None, {"x": fours})),
}
floats = numbers.astype(np.float32)
writer = session(writes)
value = onnxruntime.OrtValue.ortvalue_from_numpy(floats)
binding = writer.io_binding()
binding.bind_cpu_input("x", floats)
binding.bind_output("y")
writer.run_with_iobinding(binding)
found["output of run()"] = raised(lambda: writer.run(None, {"x": floats}))
found["output as OrtValue"] = raised(lambda: writer.run_with_ort_values(None, {"x": value})[0].numpy())
found["output of a binding"] = raised(binding.copy_outputs_to_cpu)
for name, what in found.items():
    print(f"{name}: {what}")
expected = [list(range(8)), [0, 0, 1, 0, 2, 0, 3, 0], "InvalidArgument", *["RuntimeError"] * 4]
sys.exit(0 if list(found.values()) == expected else "tensors of 4 bits are now treated otherwise")
END
"$folder/venv/bin/python" bits.py
