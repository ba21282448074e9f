"""Random generators: streams that differ wherever their descriptions do, and noise that nobody can repeat.

The CPU generator of torch (MT19937) keeps 32 bits of a seed: seeds that agree modulo 2³² give the same numbers, and
anybody who has one wire can try all of them. Here its whole state is filled instead.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

STATE_BYTES, WORDS_AT, WORDS = 5056, 24, 624
"""Layout of a CPU generator's state: its size, and where its 624 words of 32 bits stand, each in 64 bits."""


def fresh_generator(device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator that starts from the operating system's entropy.

    On the CPU that is the whole state of 19,968 bits, on other devices a seed of 64 bits.

    Args:
        device: where the generator is to draw.

    Raises:
        RuntimeError: this version of torch keeps the state of its CPU generator in another layout.
    """
    return _filled(device, os.urandom(4 * WORDS))


def stream(device: torch.device | str, *parts: int) -> torch.Generator:
    """Return the generator that ``parts`` (a seed, a purpose, an epoch, ...) describe.

    Equal parts give equal numbers. Other parts, in value, number or order, give other numbers: the state is the
    SHAKE-256 of all digits of all parts, of which nothing is cut off.

    Args:
        device: where the generator is to draw.
        *parts: whole numbers of any size.

    >>> torch.equal(*(torch.rand(4, generator=stream("cpu", 1, 2)) for _ in range(2)))
    True
    >>> torch.equal(*(torch.rand(4, generator=stream("cpu", seed)) for seed in (1, 1 + 2**32)))
    False
    """
    return _filled(device, _expanded(",".join(str(int(part)) for part in parts).encode()))


def seed_layers(rng: torch.Generator) -> None:
    """Seed torch's global generators, from which layers draw weights and dropout, with numbers drawn for ``rng``.

    Call it inside ``torch.random.fork_rng``, or take `seeded_layers`.

    Args:
        rng: stays as it is.
    """
    entropy = _expanded(b"layers" + rng.get_state().numpy().tobytes())
    torch.manual_seed(_seed(entropy))  # every device; the CPU's whole state follows
    torch.set_rng_state(_filled("cpu", entropy).get_state())


@contextmanager
def seeded_layers(rng: torch.Generator) -> Iterator[None]:
    """Seed torch's global generators as `seed_layers` does; afterwards they are what they were.

    Layers draw their weights and dropout from them, and they are the caller's.

    Args:
        rng: stays as it is.
    """
    with torch.random.fork_rng():
        seed_layers(rng)
        yield


def _expanded(description: bytes) -> bytes:
    return hashlib.shake_256(description).digest(4 * WORDS)


def _seed(entropy: bytes) -> int:
    return int.from_bytes(entropy[:8], "little") >> 1


def _filled(device: torch.device | str, entropy: bytes) -> torch.Generator:
    rng = torch.Generator(device).manual_seed(_seed(entropy))
    if rng.device.type != "cpu":
        return rng  # Philox and its like keep all 64 bits of the seed
    state = rng.get_state()
    if state.shape != (STATE_BYTES,) or state.dtype != torch.uint8:
        raise RuntimeError(
            f"torch {torch.__version__} keeps a CPU generator's state as {state.dtype} {tuple(state.shape)}, expected "
            f"torch.uint8 ({STATE_BYTES},); install a version that pyproject.toml allows"
        )
    words = torch.frombuffer(bytearray(entropy), dtype=torch.int32).long() & 0xFFFFFFFF
    state[WORDS_AT : WORDS_AT + 8 * WORDS] = words.view(torch.uint8)
    return rng.set_state(state)
