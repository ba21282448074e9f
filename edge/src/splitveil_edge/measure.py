"""What an image costs the device, and how long an answer takes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from . import bundle, noise, protocol
from .client import Client
from .encode import Wires
from .errors import UserError
from .pixels import Images

MOST_PIXELS = 2**30
"""Most numbers of the random images of a measurement."""
WORDS = {
    "images": "random images",
    "cpu_ms": "CPU of encoder, noise and packing, ms an image",
    "noise_cpu_ms": "of that the noise, ms",
    "wire_bytes": "wire of an image, bytes",
    "body_bytes": "request for one image without HTTP headers, bytes",
    "answer_p50_ms": "answer to one image, median, ms",
    "answer_p99_ms": "answer to one image, 99 of 100, ms",
    "answer_cpu_ms": "CPU of a whole request on the device, ms",
}
"""The figures in words."""
FIRST = 10
"""Images that are encoded before the clock starts."""


def device(path: str | Path, images: int) -> dict[str, float]:
    """Return the CPU time of random images that are encoded one by one, and the bytes of a wire.

    Args:
        path: BUNDLE/device, or BUNDLE.
        images: how many.

    Raises:
        UserError: no bundle, or less than 1 image.
    """
    if images < 1:
        raise UserError(f"{images} images; expected 1 or more")
    found = bundle.read(path)
    wires = Wires(found, 0)
    pictures = random_images(images, found.image)

    def draw() -> None:
        for each in found.draws:
            noise.draw(each.kind, (1, *each.shape), each.high)

    for i in range(FIRST):
        wires.of(pictures[i % images][None])
    asked = protocol.request(found, wires.of(pictures[:1]), "0" * 16)
    return {
        "images": images,
        "cpu_ms": _cpu_ms(lambda i: wires.of(pictures[i][None]), images),
        "noise_cpu_ms": _cpu_ms(lambda _: draw(), images),
        "wire_bytes": found.bytes_per_image,
        "body_bytes": len(asked.body),
    }


def answers(client: Client, images: int) -> dict[str, float]:
    """Return how long the answers to random images take that are sent one by one over a kept connection.

    Args:
        client: that remembers nothing.
        images: how many.

    Raises:
        UserError: a request that the server refuses.
        ServerError: a server that fails or does not answer.
    """
    pictures = random_images(images, client.device.image)
    client.classify(pictures[:1])
    seconds = []
    processor = time.process_time()
    for picture in pictures:
        start = time.perf_counter()
        client.classify(picture[None])
        seconds.append(time.perf_counter() - start)
    processor = time.process_time() - processor
    p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1000
    return {"answer_p50_ms": float(p50), "answer_p99_ms": float(p99), "answer_cpu_ms": 1000 * processor / images}


def random_images(images: int, shape: tuple[int, int, int]) -> Images:
    """Return images of random pixels, uint8 (B, H, W, C).

    Args:
        images: how many.
        shape: height, width and channels.
    """
    count = images * math.prod(shape)
    if count > MOST_PIXELS:
        raise UserError(f"{images} images have {count:,} numbers; expected at most {MOST_PIXELS:,}: measure fewer")
    return np.frombuffer(os.urandom(count), np.uint8).reshape(images, *shape)


def _cpu_ms(work: Callable[[int], object], times: int) -> float:
    start = time.process_time()
    for i in range(times):
        work(i)
    return 1000 * (time.process_time() - start) / times
