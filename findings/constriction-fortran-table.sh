#!/bin/sh
# constriction 0.5.0: a table of probabilities in Fortran order is read along the wrong axis.
#
# The entropy coders take a table with a row of probabilities for each symbol of the message. They read its memory from
# the first number to the last, as if it were in C order. An array with gaps is refused with a TypeError; one in Fortran
# order is contiguous as well, passes, and gives each symbol probabilities of other symbols. Its shape is right, and
# nothing is said. Such a table comes about by itself: a network that predicts the levels of a feature has them as its
# first axis, and reshape() and .T then make a view and no copy. If both ends do the same, the message survives but
# takes more bits than codes of fixed length, and the codec looks worthless. If one end has the same numbers in C
# order, another feature is decoded.
#
# Input: random scores for 8 levels at 32 x 32 places, their softmax over the levels, and one level drawn at each place
# from its probabilities. The best possible is the sum of -log2 of the probability of each symbol; codes of fixed length
# take 3 bits. The coders round up to words of 32 bits.
#
# Seen with Python 3.11, numpy 2.4.6 (share of right symbols when decoded with a table of the same, and of C order):
#   best possible 1738 bits, fixed length 3072 bits
#   range coder, table in C order: 1760 bits, 100% and 100% right
#   range coder, table in Fortran order: 4960 bits, 100% and 44% right
#   ANS, table in C order: 1760 bits, 100% and 100% right
#   ANS, table in Fortran order: 4992 bits, 100% and 47% right
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q constriction==0.5.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W error - <<'END'
import sys

import constriction
import numpy as np

Categorical, AnsCoder = constriction.stream.model.Categorical, constriction.stream.stack.AnsCoder
RangeEncoder, RangeDecoder = constriction.stream.queue.RangeEncoder, constriction.stream.queue.RangeDecoder

random = np.random.default_rng(0)
weights = np.exp(random.normal(scale=2, size=(8, 32, 32)))
levels_first = (weights / weights.sum(axis=0)).astype(np.float32)
view = levels_first.reshape(8, -1).T
tables = {"C": np.ascontiguousarray(view), "Fortran": view}
assert np.array_equal(tables["C"], view) and view.shape == (1024, 8)
sums = np.cumsum(view, axis=1, dtype=float)
symbols = (random.random((1024, 1)) * sums[:, -1:] >= sums).sum(axis=1).astype(np.int32)
best = -np.log2(view[np.arange(1024), symbols].astype(float)).sum()
print(f"best possible {best:.0f} bits, fixed length {3 * symbols.size} bits")

family, found = Categorical(perfect=False), {}
for name in ("range coder", "ANS"):
    for order, table in tables.items():
        if name == "ANS":
            coder = AnsCoder()
            coder.encode_reverse(symbols, family, table)
        else:
            coder = RangeEncoder()
            coder.encode(symbols, family, table)
        words = coder.get_compressed()
        decoder = AnsCoder if name == "ANS" else RangeDecoder
        right = [(decoder(words).decode(family, other) == symbols).mean() for other in (table, tables["C"])]
        found[name, order] = (bits := 32 * words.size, *right)
        print(f"{name}, table in {order} order: {bits} bits, {right[0]:.0%} and {right[1]:.0%} right")
good = all(bits < best + 96 and other == 1 for (_, order), (bits, _, other) in found.items() if order == "C")
bad = all(bits > 3 * 1024 and same == 1 and other < 0.8 for (_, o), (bits, same, other) in found.items() if o != "C")
sys.exit(0 if good and bad else "a table in Fortran order is now read as it is, or refused")
END
