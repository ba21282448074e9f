#!/bin/sh
# onnxruntime 1.32.0: static quantization removes a Clip, and with it a bound that 0 lies beyond.
#
# quantize_static takes a Clip or Relu behind a quantized operator away, since 8-bit numbers end where the range of
# the calibration ends, and that is where the Clip ended. (The option QDQKeepRemovableActivations leaves them.) But the
# range of a quantized tensor is widened until it holds 0, and no look is taken at the bounds: a Clip from 0.5 to 4
# becomes a range from 0 to 4, one from -4 to -0.5 a range from -4 to 0, and numbers pass that the network never let
# through. The floor below a divisor is such a Clip. Nothing is said, and the images of the calibration come out wrong
# as well.
#
# Input: y = 1 / Clip(Conv(x)), the convolution an identity, Clip with three pairs of bounds; x from -8 to 8 for the
# calibration as for the run, activations of 8 bits without sign.
#
# Seen with Python 3.11, onnx 1.23.2, numpy 2.4.6:
#   Clip to [0.5, 4]: float32 gives 0.50 to 4.00, 8 bits 0.00 to 4.00, with the option 0.50 to 4.00
#   1 / Clip to [0.5, 4]: at most 2 in float32, inf in 8 bits, 1.99 with the option
#   Clip to [-4, -0.5]: float32 gives -4.00 to -0.50, 8 bits -4.00 to 0.00, with the option -4.00 to -0.50
#   1 / Clip to [-4, -0.5]: at most 2 in float32, inf in 8 bits, 1.99 with the option
#   Clip to [-4, 4]: float32 gives -4.00 to 4.00, 8 bits -4.02 to 3.98, with the option -3.98 to 3.98
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
cat > clip.py <<'END'
import logging
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper, load, save
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

logging.disable(logging.WARNING)  # it advises to simplify the graph first, in which there is nothing to simplify
numbers = np.linspace(-8, 8, 1601, dtype=np.float32).reshape(1, 1, 1, -1)


class Images(CalibrationDataReader):
    def __init__(self):
        self.left = iter([{"x": numbers}])

    def get_next(self):
        return next(self.left, None)


def model(low, high):
    constants = [helper.make_tensor("one", TensorProto.FLOAT, [1, 1, 1, 1], [1.0])]
    for name, end in (("low", low), ("high", high)):
        constants.append(helper.make_tensor(name, TensorProto.FLOAT, [], [end]))
    nodes = [
        helper.make_node("Conv", ["x", "one"], ["same"], name="conv"),
        helper.make_node("Clip", ["same", "low", "high"], ["clipped"], name="clip"),
        helper.make_node("Reciprocal", ["clipped"], ["y"], name="reciprocal"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, numbers.shape) for name in ("x", "y", "clipped")]
    graph = helper.make_graph(nodes, "divides", values[:1], values[1:], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    checker.check_model(made, full_check=True)
    return made


def ends(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    y, clipped = session.run(["y", "clipped"], {"x": numbers})
    return [round(float(end), 2) + 0.0 for end in (clipped.min(), clipped.max(), abs(y).max())]


found = {}
for low, high in ((0.5, 4), (-4, -0.5), (-4, 4)):
    save(model(low, high), "float.onnx")
    for path, keep in (("quantized.onnx", False), ("kept.onnx", True)):
        option = {"QDQKeepRemovableActivations": keep}
        quantize_static("float.onnx", path, Images(), activation_type=QuantType.QUInt8, extra_options=option)
        assert keep == any(node.op_type == "Clip" for node in load(path).graph.node)
    (a, b, most), (c, d, after), (e, f, kept) = map(ends, ("float.onnx", "quantized.onnx", "kept.onnx"))
    bounds = f"Clip to [{low:g}, {high:g}]"
    print(f"{bounds}: float32 gives {a:.2f} to {b:.2f}, 8 bits {c:.2f} to {d:.2f}, with the option {e:.2f} to {f:.2f}")
    if low * high > 0:
        print(f"1 / {bounds}: at most {most:g} in float32, {after:g} in 8 bits, {kept:g} with the option")
    found[low, high] = c < low - 0.1 or d > high + 0.1, e < low - 0.1 or f > high + 0.1
seen = {(0.5, 4): (True, False), (-4, -0.5): (True, False), (-4, 4): (False, False)}
sys.exit(0 if found == seen else "quantization now keeps the bounds")
END
"$folder/venv/bin/python" clip.py
