#!/bin/sh
# onnxscript 0.7.2: the optimizer takes 1e-8 and less for 0, so that the epsilon that guards a division disappears.
#
# Models that divide by a norm or take a logarithm first add a small number, such as 1e-8 or 1e-12, to what may be 0.
# onnxscript.optimizer.optimize() and onnxscript.rewriter.rewrite() remove x + 0, x - 0, x * 1 and x / 1. They compare
# the constant with an absolute tolerance of 1e-8 and a relative one of 1e-5: every scalar from -1e-8 to 1e-8 is a 0,
# and 1.000009 is a 1. The descriptions of both functions and the tutorial on the optimizer speak of no tolerance.
# There is no warning, the result is a valid model, and it agrees with the original on usual images. But for a black
# image, or a feature that is all zeros after a ReLU, it answers NaN or minus infinity where the original is finite.
# torch.onnx.export(dynamo=True) runs this optimizer unless optimize=False is given: with torch 2.14.1, which this
# script does not install, z / (z.norm(dim=1, keepdim=True) + 1e-9) of zeros is 0 in Python and NaN from the file.
#
# Input: graphs of one to three nodes with a scalar constant, for four zeros or four numbers, run by onnxruntime before
# and after optimizing; before, NumPy agrees. A scalar of 1.1e-8, and 1e-8 in a tensor of one axis, stay in the graph.
#
# Seen with Python 3.11, onnx 1.23.2, onnx-ir 1.1.0, onnxruntime 1.32.0, numpy 2.4.6:
#   x / (norm(x) + 1e-12): 0 0 0 0 | optimized: nan nan nan nan
#   log(x + 1e-8): -18.4207 -16.0228 -6.90775 0 | optimized: -inf -16.1181 -6.90776 0
#   log(x - -1e-9): -20.7233 -16.1081 -6.90775 0 | optimized: -inf -16.1181 -6.90776 0
#   x * 1.000009: 0 1.00001e-07 0.00100001 1.00001 | optimized: 0 1e-07 0.001 1
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxscript==0.7.2 onnx==1.23.2 onnx-ir==1.1.0 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
import onnxruntime
from onnx import checker, parser
from onnxscript import optimizer, rewriter

zeros, numbers = np.zeros(4, np.float32), np.array([0, 1e-7, 1e-3, 1], np.float32)
exact = numbers.astype(float)
DIVIDED, ADDED = "n = ReduceL2(x) d = Add(n, c) y = Div(x, d)", "s = Add(x, c) y = Log(s)"
TAKEN, SCALED = "s = Sub(x, c) y = Log(s)", "y = Mul(x, c)"
CLOSE = {"rtol": 1e-6, "atol": 2e-8}


def made(nodes, constant, shape=""):
    head = '<ir_version: 10, opset_import: ["" : 21]> graph (float[4] x) => (float[4] y)'
    return parser.parse_model(f"{head} <float{shape} c = {{{constant}}}> {{ {nodes} }}")


def run(model, x):
    checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def shown(values):
    return " ".join(f"{value:.6g}" for value in values)


as_seen = True
with np.errstate(all="ignore"):
    cases = (
        ("x / (norm(x) + 1e-12)", DIVIDED, "1e-12", zeros, zeros / 1e-12, zeros / 0),
        ("log(x + 1e-8)", ADDED, "1e-8", numbers, np.log(exact + 1e-8), np.log(exact)),
        ("log(x - -1e-9)", TAKEN, "-1e-9", numbers, np.log(exact + 1e-9), np.log(exact)),
        ("x * 1.000009", SCALED, "1.000009", numbers, exact * 1.000009, exact),
    )
for name, nodes, constant, x, right, without in cases:
    original, rewritten = run(made(nodes, constant), x), run(rewriter.rewrite(made(nodes, constant)), x)
    optimized = run(optimizer.optimize(made(nodes, constant)), x)
    print(f"{name}: {shown(original)} | optimized: {shown(optimized)}")
    as_seen &= np.allclose(original, right, **CLOSE) and not np.allclose(optimized, right, **CLOSE)
    as_seen &= all(np.allclose(one, without, **CLOSE, equal_nan=True) for one in (optimized, rewritten))
for constant, shape in (("1.1e-8", ""), ("1e-8", "[1]")):
    kept = run(optimizer.optimize(made(ADDED, constant, shape)), numbers)
    as_seen &= np.allclose(kept, np.log(exact + float(constant)), **CLOSE)
sys.exit(0 if as_seen else "the optimizer now keeps small constants, or takes others for 0 or 1")
END
