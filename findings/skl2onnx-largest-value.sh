#!/bin/sh
# skl2onnx 1.20.0: features that are scaled to [-1, 1] by their largest absolute value leave that range once converted.
#
# Normalizer("max") divides every row by the largest of its absolute values. The file has the operator Normalizer of
# ai.onnx.ml, and onnxruntime divides by the largest value with its sign, as the operator is specified: where the number
# of largest magnitude is negative the row leaves [-1, 1], and a row that is all negative changes its sign. The
# reference implementation in onnx takes absolute values and answers what scikit-learn does, so a comparison with it
# finds nothing. Doubles are refused with an error. (It has been reported: issue 793 of the converter, of 2021, is
# closed, and issue 8452 of onnx, of 2026, is open.) MaxAbsScaler(clip=True) divides every column and clips what it has
# not seen to [-1, 1]; the converter leaves the clip out, where it keeps that of MinMaxScaler(clip=True). Both scalers
# are in the list of supported models, and there is no warning. Who scales features so that they fit a grid of 8 bits
# sends numbers that do not fit it.
#
# Input: two rows of three numbers, and the 1,797 digits of scikit-learn with pixels in [0, 1], less the mean picture,
# by eight random projections. NumPy computes the scaled features.
#
# Seen with Python 3.11, scikit-learn 1.9.1, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, scipy 1.17.1:
#   [1.0, -4.0, 2.0]: scikit-learn [0.25, -1.0, 0.5], reference [0.25, -1.0, 0.5] | converted: [0.5, -2.0, 1.0]
#   [-1.0, -2.0, -4.0]: scikit-learn [-0.25, -0.5, -1.0], reference [-0.25, -0.5, -1.0] | converted: [1.0, 2.0, 4.0]
#   each row: largest 1.00 | converted: 62.46; 48.7% of rows outside
#   columns: largest 1.00 | converted: 1.17; 0.9% of rows outside
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q skl2onnx==1.20.0 scikit-learn==1.9.1 onnx==1.23.2 onnxruntime==1.32.0 \
    numpy==2.4.6 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
import onnxruntime
from onnx.reference import ReferenceEvaluator
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.preprocessing import MaxAbsScaler, Normalizer


def converted(scaler, asked):
    """Return what onnxruntime and the reference implementation answer."""
    file = to_onnx(scaler, asked[:1])
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"X": asked})[0], ReferenceEvaluator(file).run(None, {"X": asked})[0]


as_seen = True
for row in ([1, -4, 2], [-1, -2, -4]):
    row = np.float32([row])
    scaler = Normalizer("max").fit(row)
    by_sklearn, (by_onnx, reference) = scaler.transform(row), converted(scaler, row)
    print("{}: scikit-learn {}, reference {} | converted: {}".format(
        *(one[0].tolist() for one in (row, by_sklearn, reference, by_onnx))))
    as_seen &= np.allclose(by_sklearn, row / np.abs(row).max()) and np.allclose(reference, by_sklearn)
    as_seen &= np.allclose(by_onnx, row / row.max())

pixels = load_digits().data / 16
features = (pixels - pixels.mean(0)) @ np.random.default_rng(0).normal(size=(64, 8))
features = features.astype(np.float32)
known, held_out = features[:1000], features[1000:]
columns = np.clip(held_out / np.abs(known).max(0), -1, 1)
rows = held_out / np.abs(held_out).max(1, keepdims=True)
for name, scaler, expected in (("each row", Normalizer("max"), rows), ("columns", MaxAbsScaler(clip=True), columns)):
    by_sklearn, (by_onnx, reference) = scaler.fit(known).transform(held_out), converted(scaler, held_out)
    largest, outside = np.abs(by_onnx).max(), (np.abs(by_onnx) > 1 + 1e-6).any(1).mean()
    print(f"{name}: largest {np.abs(by_sklearn).max():.2f} | converted: {largest:.2f}; {outside:.1%} of rows outside")
    as_seen &= np.allclose(by_sklearn, expected, atol=1e-5) and outside > 0
sys.exit(0 if as_seen else "the converted scalers now keep to the range, or scikit-learn's do not")
END
