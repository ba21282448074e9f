#!/bin/sh
# entropy_estimators 0.0.2: with norm="euclidean" the entropy is one bit per dimension too high, and the mutual
# information is too low by an amount that grows with the dimensions.
#
# All estimators here take norm="max" (the default) or norm="euclidean", and the docstrings offer the two as equals.
# They measure distances to nearest neighbors. `get_h` doubles each distance and multiplies by the volume of a ball of
# radius 1. That volume belongs to the distances as they are; only the cube of the maximum norm has sides twice as long
# as them. So every Euclidean entropy of d numbers is d ln 2 nats too high. An entropy h is also a guarantee: nobody can
# guess the d numbers with a mean squared error below exp(2h/d) / (2 pi e). This limit becomes four times too high,
# which looks like privacy that is not there.
#
# `get_mi` takes the neighbors of a pair from one Euclidean ball in the space of both variables, and counts neighbors of
# each variable alone within the same radius. That is right for the maximum norm, where the ball of both is the product
# of the balls of each. The Euclidean ball is smaller than this product, by the factor c(2d) / c(d)^2, where c(d) is the
# volume of the unit ball. The logarithm of the factor is added to the answer: -0.24 nats for d = 1, -1.22 for d = 3.
# Features that tell a lot look harmless. The way by three entropies (estimator="naive") is sound, because what is too
# much in them cancels. Nothing warns. The README advises in general to prefer other estimators, and explains an answer
# below 0 by few samples or by k, which can be estimated by shuffling one variable; it says nothing about the norm.
#
# Input: 2,000 draws of d independent normal numbers x, of a noisy copy x + noise of standard deviation 0.5, and of
# unrelated normal numbers; k = 3. Truths: an entropy of d/2 ln(2 pi e), a squared error of 1, and informations of
# d/2 ln 5 and 0. Entropies and informations are in nats.
#
# Seen with Python 3.11, numpy 2.4.6, scipy 1.17.1:
#   d = 1: entropy 1.42, max 1.44, euclidean 2.13, too high by d ln 2 = 0.69
#     least squared error 1, max 1.04, euclidean 4.15
#     noisy copy: information 0.80, max 0.78, euclidean 0.55, predicted 0.56; by three entropies 0.86
#     unrelated: information 0.00, max -0.05, euclidean -0.29, predicted -0.24; by three entropies -0.00
#   d = 3: entropy 4.26, max 4.23, euclidean 6.32, too high by d ln 2 = 2.08
#     least squared error 1, max 0.98, euclidean 3.95
#     noisy copy: information 2.41, max 2.18, euclidean 1.00, predicted 1.19; by three entropies 2.30
#     unrelated: information 0.00, max -0.02, euclidean -1.22, predicted -1.22; by three entropies 0.02
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q entropy_estimators==0.0.2 numpy==2.4.6 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys
from math import e, exp, gamma, log, pi

import numpy as np
from entropy_estimators.continuous import get_h, get_mi


def volume(d):
    return pi ** (d / 2) / gamma(d / 2 + 1)


rng, sound, wrong = np.random.default_rng(0), [], []
for d in (1, 3):
    x, noise, other = (rng.standard_normal((2000, d)) for _ in range(3))
    truth, surplus = d / 2 * log(2 * pi * e), d * log(2)
    cube, ball = (float(get_h(x, k=3, norm=norm)) for norm in ("max", "euclidean"))
    limits = [exp(2 * h / d) / (2 * pi * e) for h in (cube, ball)]
    print(f"d = {d}: entropy {truth:.2f}, max {cube:.2f}, euclidean {ball:.2f}, too high by d ln 2 = {surplus:.2f}")
    print("  least squared error 1, max {:.2f}, euclidean {:.2f}".format(*limits))
    sound += [abs(cube - truth) < 0.2, abs(ball - surplus - truth) < 0.2]
    wrong.append(limits[1] > 3)
    lack = log(volume(2 * d) / volume(d) ** 2)
    for name, y, truth in (("noisy copy", x + 0.5 * noise, d / 2 * log(5)), ("unrelated", other, 0.0)):
        cube, ball = (float(get_mi(x, y, k=3, norm=norm)) for norm in ("max", "euclidean"))
        naive = float(get_mi(x, y, k=3, norm="euclidean", estimator="naive"))
        text = "  {}: information {:.2f}, max {:.2f}, euclidean {:.2f}, predicted {:.2f}; by three entropies {:.2f}"
        print(text.format(name, truth, cube, ball, truth + lack, naive))
        sound += [abs(cube - truth) < 0.4, abs(naive - truth) < 0.3]
        wrong.append(ball - truth < 0.8 * lack)
sys.exit(0 if all(sound) and all(wrong) else "the Euclidean norm now has another entropy or mutual information")
END
