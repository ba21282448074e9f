"""The flags of several attacks beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def together(flags: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the flags of several attacks, one that they share only once, with the attacks in front.

    Args:
        flags: of each attack.

    >>> together({"linear": ["the noise repeats"], "decoder": ["the noise repeats", "it was stopped early"]})
    ['every attack: the noise repeats', 'decoder: it was stopped early']
    >>> together({"linear": ["the noise repeats"]})
    ['linear: the noise repeats']
    """
    raised: dict[str, list[str]] = {}
    for label, of_attack in flags.items():
        for flag in of_attack:
            raised.setdefault(flag, []).append(label)
    every = list(flags) if len(flags) > 1 else []
    return [f"{'every attack' if labels == every else ', '.join(labels)}: {flag}" for flag, labels in raised.items()]
