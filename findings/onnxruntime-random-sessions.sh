#!/bin/sh
# onnxruntime 1.32.0: without a seed, the random operators of all sessions of a process draw the same numbers.
#
# The ONNX standard says of RandomNormalLike that a seed is made up where none is given. onnxruntime makes it up once for
# each operator from a generator of the process whose state is the same at every session: two sessions of one file, which
# stand for two users or two requests of a server, add the same noise, so that the difference of their outputs has none.
# Whoever exports a defense that adds noise in the graph meets this; a second process draws other numbers.
#
# Input: y = x + noise of a standard normal distribution, for x = 0 and x = 1, each in a session of its own, and the
# first again in a second process.
#
# Seen with Python 3.11, onnx 1.23.2, numpy 2.4.6:
#   two sessions: y(1) - y(0) has mean 1.000 and standard deviation 0.000 (independent noise: 1.414)
#   two calls of one session: standard deviation 1.4
#   two processes: standard deviation 1.4
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
cat > noise.py <<'END'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

shape = [1, 10_000]
nodes = [
    helper.make_node("RandomNormalLike", ["x"], ["noise"]),
    helper.make_node("Add", ["x", "noise"], ["y"]),
]
values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
graph = helper.make_graph(nodes, "noisy", values[:1], values[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def session():
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


one, other = session(), session()
first = one.run(None, {"x": np.zeros(shape, np.float32)})[0]
second = other.run(None, {"x": np.ones(shape, np.float32)})[0]
third = one.run(None, {"x": np.ones(shape, np.float32)})[0]
if len(sys.argv) > 1:
    np.save(sys.argv[1], first)
    sys.exit(0)
elsewhere = np.load("elsewhere.npy")
spreads = [float((b - first).std()) for b in (second, third, elsewhere)]
print(f"two sessions: y(1) - y(0) has mean {(second - first).mean():.3f} and standard deviation {spreads[0]:.3f}")
print(f"two calls of one session: standard deviation {spreads[1]:.1f}")
print(f"two processes: standard deviation {spreads[2]:.1f}")
sys.exit(0 if spreads[0] < 1e-3 and min(spreads[1:]) > 1 else "the sessions now draw otherwise")
END
"$folder/venv/bin/python" noise.py elsewhere.npy
"$folder/venv/bin/python" noise.py
