#!/bin/sh
# skl2onnx 1.20.0: nearest neighbors with weights="distance" all weigh the same in the converted model.
#
# KNeighborsClassifier and KNeighborsRegressor with weights="distance" weigh each neighbor by one over its distance.
# Both are among the supported models, and weights that are a function are refused with an error. The converter keeps
# the distances with a minus sign, and then replaces all that are below 1e-6 by 1e-6, against a division by zero: every
# distance becomes 1e-6, and the model answers with the plain mean or the plain majority. This is so for every metric
# and every opset that was tried. There is no warning. Who looks for a picture by the nearest of the features that an
# attacker knows, and finds the very feature that was sent, gets the picture itself from scikit-learn, and from the
# converted model the mean of it and four other pictures.
#
# Input: one number between two others, with distances 1 and 2 and targets 0 and 1: the answer is 1/3. Then the 1,797
# digits of scikit-learn with pixels in [0, 1], and as their feature eight random projections; of the first 1,000 the
# five neighbors tell the pixels and the class. NumPy computes weighted and plain answers: scikit-learn gives the
# weighted ones, the converted model the plain ones.
#
# Seen with Python 3.11, scikit-learn 1.9.1, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, scipy 1.17.1:
#   distances 1 and 2, targets 0 and 1: 0.3333 | converted: 0.5000
#   pixels of known pictures, mean squared error: 0.0000 | converted: 0.0164
#   classes of known pictures, accuracy: 1.000 | converted: 0.898; the same for 0.898
#   pixels of held-out pictures, mean squared error: 0.0333 | converted: 0.0336
#   classes of held-out pictures, accuracy: 0.747 | converted: 0.745; the same for 0.962
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
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor


def converted(model, known, asked):
    options = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
    file = to_onnx(model, known[:1], options=options).SerializeToString()
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"X": asked})


def shares(known, asked, neighbors):
    """Return for every row of asked its neighbors and their weights: one over the distance, or all to an exact copy."""
    distances = np.sqrt(np.square(asked[:, None].astype(float) - known[None]).sum(2))
    nearest = np.argsort(distances, axis=1)[:, :neighbors]
    distances = np.take_along_axis(distances, nearest, axis=1)
    with np.errstate(divide="ignore"):
        weights = np.where((distances == 0).any(1, keepdims=True), distances == 0, 1 / distances)
    return nearest, weights / weights.sum(1, keepdims=True)


def agree(one, other):
    """Return whether 99 % of the rows are the same: two neighbors may be equally far but for rounding."""
    return (np.abs(one - other).max(1) < 1e-3).mean() > 0.99


one, two, asked = np.float32([[0], [3]]), np.array([0.0, 1.0]), np.float32([[1]])
model = KNeighborsRegressor(2, weights="distance").fit(one, two)
by_sklearn, by_onnx = model.predict(asked).item(), converted(model, one, asked)[0].item()
print(f"distances 1 and 2, targets 0 and 1: {by_sklearn:.4f} | converted: {by_onnx:.4f}")
as_seen = abs(by_sklearn - 1 / 3) < 1e-6 and abs(by_onnx - 1 / 2) < 1e-6

digits = load_digits()
pixels, classes = digits.data / 16, digits.target
directions = np.random.default_rng(0).normal(size=(64, 8))
features = (pixels @ directions).astype(np.float32)
known, held_out = features[:1000], features[1000:]
regressor = KNeighborsRegressor(5, weights="distance").fit(known, pixels[:1000])
classifier = KNeighborsClassifier(5, weights="distance").fit(known, classes[:1000])
for name, asked, part in (("known", known, slice(None, 1000)), ("held-out", held_out, slice(1000, None))):
    nearest, weights = shares(known, asked, 5)
    weighted, plain = (weights[..., None] * pixels[nearest]).sum(1), pixels[nearest].mean(1)
    sent, answers = regressor.predict(asked), converted(regressor, known, asked)[0]
    errors = [np.square(one - pixels[part]).mean() for one in (sent, answers)]
    print(f"pixels of {name} pictures, mean squared error: {errors[0]:.4f} | converted: {errors[1]:.4f}")
    as_seen &= agree(sent, weighted) and agree(answers, plain)

    label, probability = converted(classifier, known, asked)
    right = [(labels == classes[part]).mean() for labels in (classifier.predict(asked), label)]
    same = (label == classifier.predict(asked)).mean()
    print(f"classes of {name} pictures, accuracy: {right[0]:.3f} | converted: {right[1]:.3f}; the same for {same:.3f}")
    counted = (classes[nearest][..., None] == np.arange(10)).mean(1)
    as_seen &= agree(probability, counted) and same < 1
sys.exit(0 if as_seen else "the converted model now weighs its neighbors by their distances, or scikit-learn does not")
END
