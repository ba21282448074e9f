"""Random numbers for the inputs of the device's graph, straight from the operating system for every wire.

Nothing is kept between two calls: no seed that could be guessed, and no state that a forked process would share. A
generator of numpy is not used, because whoever sees some of its numbers can compute the others: PCG64 is recovered from
512 bytes of output (Bouillaguet, Martinez, Sauvage, ToSC 2020), MT19937 is linear.
"""

from __future__ import annotations

import os
from math import prod

import numpy as np
from numpy.typing import NDArray

STEP = 2.0**-53
"""Distance of neighboring numbers of 53 bits in [0, 1)."""


def draw(kind: str, shape: tuple[int, ...], high: int | None = None) -> NDArray:
    """Return fresh random numbers, float32 or (whole numbers) int64.

    Args:
        kind: ``normal``, N(0, 1); ``uniform``, in [0, 1); ``exponential``, Exp(1); ``integer``, below ``high``.
        shape: of the result.
        high: for whole numbers, 1 to 2⁵³.

    Raises:
        ValueError: another kind.

    >>> numbers = draw("normal", (2, 3))
    >>> numbers.shape, numbers.dtype
    ((2, 3), dtype('float32'))
    """
    count = prod(shape)
    if kind == "integer":
        return integer(count, high or 1).reshape(shape)
    laws = {"normal": normal, "uniform": uniform, "exponential": exponential}
    if kind not in laws:
        raise ValueError(f"kind {kind!r}; expected one of: {', '.join(laws)}, integer")
    return laws[kind](count).reshape(shape)


def normal(count: int) -> NDArray[np.float32]:
    """Return numbers of N(0, 1) by Box and Muller (1958), whose time does not depend on the numbers.

    √(−2 ln u) · (cos 2πv, sin 2πv) with u in (0, 1] and v in [0, 1) of 53 bits each, in float64 until the end. The
    logarithm never meets 0; the largest number is √(106 ln 2) = 8.57.

    Args:
        count: how many.
    """
    pairs = -(-count // 2)
    bits = _bits(2 * pairs)
    radius = np.sqrt(-2.0 * np.log((bits[:pairs] + np.uint64(1)) * STEP))
    angle = bits[pairs:] * (2.0 * np.pi * STEP)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count].astype(np.float32)


def uniform(count: int) -> NDArray[np.float32]:
    """Return multiples of 2⁻²⁴ in [0, 1): float32 holds each of them, and none is 1.

    Args:
        count: how many.
    """
    bits = np.frombuffer(os.urandom(4 * count), np.uint32) >> np.uint32(8)
    return bits.astype(np.float32) * np.float32(2.0**-24)


def exponential(count: int) -> NDArray[np.float32]:
    """Return numbers of Exp(1), −ln(1 − u) with u in [0, 1) of 53 bits; the largest is 53 ln 2 = 36.7.

    Args:
        count: how many.
    """
    return -np.log1p(-(_bits(count) * STEP)).astype(np.float32)


def integer(count: int, high: int) -> NDArray[np.int64]:
    """Return whole numbers below ``high``, each as likely: bits that make a larger one are drawn again.

    Args:
        count: how many.
        high: 1 to 2⁵³.
    """
    mask = np.uint64((1 << (high - 1).bit_length()) - 1)
    found = np.empty(count, np.int64)
    done = 0
    while done < count:
        some = _words(2 * (count - done) + 8) & mask
        some = some[some < np.uint64(high)][: count - done]
        found[done : done + len(some)] = some
        done += len(some)
    return found


def _words(count: int) -> NDArray[np.uint64]:
    return np.frombuffer(os.urandom(8 * count), np.uint64)


def _bits(count: int) -> NDArray[np.uint64]:
    """Return whole numbers of 53 bits."""
    return _words(count) >> np.uint64(11)
