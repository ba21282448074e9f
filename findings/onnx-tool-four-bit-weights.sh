#!/bin/sh
# onnx-tool 1.0.1: asymmetric quantization to 4 bits drops the top bit of every code; about half the weights are wrong.
#
# The README lists INT4, symmetric and asymmetric, per tensor, channel and block. graph_quantize() computes the codes
# correctly: asymmetric ones are unsigned, 0 to 15, beside a scale and a zero point. pack_4bits(), which puts two of
# them into a byte, takes them for signed all the same: it keeps the three lower bits and fills the fourth with the
# sign, which is 0 for all of them. The codes 8 to 15 are stored as 0 to 7, so that two weights which are half the range
# apart get the same code, and no reader of the file can tell them from each other. No warning is given, and the file
# has the size that it should have. Symmetric codes are signed and survive. With an odd number of inputs, the last
# code of each output is not stored at all, of either kind. Whoever shrinks the device's half of a network this way,
# and then measures what its features give away, measures another network.
#
# Input: a linear layer (Gemm) of 64 inputs and 16 outputs with normally distributed weights, quantized by
# graph_quantize(), saved and read again. A code is unpacked from its half of the byte, and becomes a weight by the
# package's asymmetric_dequant() or symmetric_dequant(). "wrong" is the share of codes that differ from those of the
# package's quantize(), "kinds" is how many different codes the layer has before and after packing, "error" is the RMS
# error of the weights divided by their RMS.
#
# Seen with Python 3.11, onnx 1.23.2, numpy 2.4.6:
#   grid per   kind   bits   wrong       kinds   error
#   tensor     sym       4    0 %    14 to 14   0.168
#   tensor     asym      8    0 %  170 to 170   0.008
#   tensor     asym      4   57 %     16 to 8   2.862
#   output     sym       4    0 %    15 to 15   0.114
#   output     asym      8    0 %  222 to 222   0.006
#   output     asym      4   55 %     16 to 8   2.010
#   32 inputs  sym       4    0 %    15 to 15   0.102
#   32 inputs  asym      8    0 %  236 to 236   0.005
#   32 inputs  asym      4   52 %     16 to 8   1.665
#   of 63 codes of an output are stored: 62 62
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx-tool==1.0.1 onnx==1.23.2 numpy==2.4.6 tabulate==0.10.0 protobuf==7.36.2 \
    ml_dtypes==0.7.0
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx_tool import Model
from onnx_tool.quantization import asymmetric_dequant, graph_quantize, quantize, symmetric_dequant


def write(weights):
    outputs, inputs = weights.shape
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), "layer.onnx")


def quantized(block, kind, bits):
    model = Model("layer.onnx")
    graph_quantize(model.graph, "w", block=block, type=kind, bits=bits)
    model.save_model("quantized.onnx")
    arrays = {one.name: numpy_helper.to_array(one) for one in onnx.load("quantized.onnx").graph.initializer}
    codes = arrays["w_ot_q"]
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(codes), -1)
    codes = codes.astype(int)
    if bits == 4 and kind == "sym":
        codes = (codes ^ 8) - 8
    return codes, arrays["w_ot_s"].astype(float), arrays.get("w_ot_z", np.zeros(1)).astype(int)


def each(values, block):  # the scale or the zero point of each weight
    if values.size == 1:
        return values
    return values[:, None] if block < 0 else np.repeat(values, block, axis=1)


weights = np.random.default_rng(0).normal(0, 0.05, (16, 64)).astype(np.float32)
write(weights)
print("grid per   kind   bits   wrong       kinds   error")
found = {}
for block, name in ((0, "tensor"), (-1, "output"), (32, "32 inputs")):
    for kind, bits in (("sym", 4), ("asym", 8), ("asym", 4)):
        right = quantize(weights, block, kind, bits)[0]
        codes, scale, zero = quantized(block, kind, bits)
        bring_back = asymmetric_dequant if kind == "asym" else symmetric_dequant
        back = bring_back(codes, each(scale, block), each(zero, block))
        wrong = float((codes != right).mean())
        error = float(np.sqrt(((back - weights) ** 2).mean() / (weights**2).mean()))
        kinds = [len(np.unique(one)) for one in (right, codes)]
        found[name, kind, bits] = wrong, error, kinds[1]
        text = f"{kinds[0]} to {kinds[1]}"
        print(f"{name:11}{kind:7}{bits:4}{wrong:6.0%}{text:>12}{error:8.3f}".replace("%", " %"))
write(weights[:, :63])
odd = [quantized(-1, kind, 4)[0].shape[1] for kind in ("sym", "asym")]
print("of 63 codes of an output are stored:", *odd)
sound = all(wrong == 0 and error < 0.2 for key, (wrong, error, _) in found.items() if key[1:] != ("asym", 4))
lost = all(
    wrong > 0.4 and error > 1 and kinds == 8
    for key, (wrong, error, kinds) in found.items()
    if key[1:] == ("asym", 4)
)
sys.exit(0 if sound and lost and odd == [62, 62] else "the codes of 4 bits are now stored otherwise")
END
