"""Fano's inequality: what leaks at least where the right one of many candidates is found so often."""

from __future__ import annotations

import math


def fano(success: float, size: int) -> float:
    """Return ln N − h(p) − (1 − p) ln(N − 1) nats, h the binary entropy; 0 where p is no better than chance.

    Args:
        success: p, how often the right one is found.
        size: N, the candidates, at least 2.

    >>> round(fano(1.0, 100), 3), fano(0.005, 100)
    (4.605, 0.0)
    """
    p = max(success, 1 / size)  # below chance it would rise again, and say that something leaks
    entropy = -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)
    return max(0.0, math.log(size) - entropy - (1 - p) * math.log(size - 1))
