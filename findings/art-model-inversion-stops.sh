#!/bin/sh
# adversarial-robustness-toolbox 1.20.1: MIFace gives up after one step where the class is unlikely at the start.
#
# MIFace inverts a classifier: it moves an image until the classifier takes it for the wanted class (Fredrikson and
# others, 2015). In the paper the descent ends when the cost, 1 minus the confidence, has fallen to a threshold, or no
# longer falls. Here both conditions are turned around: an image is worked on as long as its cost is at most the
# threshold (0.99) or at least the largest of the last 100 costs. An image whose class has a confidence below 1 % after
# the first step is left as it is, which is the rule with a good classifier or many classes. An image that has reached a
# confidence of 1 is worked on until max_iter (10,000). Nothing is said. A table of inverted classes says that the model
# resists, and a more confident model seems to resist better. With threshold=1.0 the attack succeeds.
#
# Input: a small network that knows scikit-learn's digits; for each of the ten classes 300 steps at most from the mean
# digit. Counted are the steps, and the confidence after them.
#
# Seen with Python 3.11, torch 2.14.1, numpy 2.4.6, scikit-learn 1.9.1:
#   threshold 0.99: 6 of 10 classes end after one step, with a confidence of at most 0.01
#   threshold 0.99: the other classes take 300 steps, and end with a confidence of at least 1.00
#   threshold 1.0: 0 of 10 classes end after one step; the least confidence is 1.00
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q adversarial-robustness-toolbox==1.20.1 torch==2.14.1 numpy==2.4.6 \
  scikit-learn==1.9.1 packaging==26.3
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import numpy as np
import torch
from art.attacks.inference.model_inversion import MIFace
from art.estimators.classification import PyTorchClassifier
from sklearn.datasets import load_digits
from torch import nn


class Counting(PyTorchClassifier):
    steps = 0

    def class_gradient(self, *given, **more):
        self.steps += 1
        return super().class_gradient(*given, **more)


digits, labels = load_digits(return_X_y=True)
digits = (digits / 16).astype(np.float32)
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(network.parameters(), 0.01)
for _ in range(300):
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(torch.tensor(digits)), torch.tensor(labels)).backward()
    optimizer.step()
model, start = nn.Sequential(network, nn.Softmax(1)).eval(), digits.mean(0, keepdims=True)
victim = Counting(model=model, loss=nn.NLLLoss(), input_shape=(64,), nb_classes=10, clip_values=(0.0, 1.0))
found = {}
for threshold in (0.99, 1.0):
    attack, found[threshold] = MIFace(victim, max_iter=300, threshold=threshold, verbose=False), []
    for label in range(10):
        victim.steps = 0
        image = attack.infer(start.copy(), np.array([label]))
        found[threshold].append((victim.steps, float(victim.predict(image)[0, label])))
early = [each for each in found[0.99] if each[0] == 1]
late = [each for each in found[0.99] if each[0] > 1]
alike = [each for each in found[1.0] if each[0] == 1]
print(f"threshold 0.99: {len(early)} of 10 classes end after one step, ", end="")
print(f"with a confidence of at most {max(p for _, p in early):.2f}")
print(f"threshold 0.99: the other classes take {min(n for n, _ in late)} steps, ", end="")
print(f"and end with a confidence of at least {min(p for _, p in late):.2f}")
print(f"threshold 1.0: {len(alike)} of 10 classes end after one step; ", end="")
print(f"the least confidence is {min(p for _, p in found[1.0]):.2f}")
wrong = len(early) >= 3 and max(p for _, p in early) < 0.05 and min(n for n, _ in late) == 300
sys.exit(0 if wrong and not alike and min(p for _, p in found[1.0]) > 0.9 else "the descent now ends otherwise")
END
