"""The server without its doors: HTTP and gRPC ask one service, which checks, queues, answers, counts and logs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..deploy.bundle import Bundle
from ..errors import UserError
from ..storage.files import temporary
from .limits import Limits
from .metrics import Log, Metrics
from .refusals import Gone, Kind, Refusal
from .served import INPUT, Served, fresh_id
from .tail import Run, Tail, session
from .tokens import Tokens

PATIENCE = 0.05
"""Seconds after which a door begins to watch whether its client is still there; most answers are quicker."""


@dataclass
class Entry:
    """What the log and the metrics keep of an inference request.

    Attributes:
        id: the request's.
        token: name of its token.
        images: images that were answered.
        bytes: bytes of its body.
        started: when its headers had come, in seconds of `time.perf_counter`.
    """

    id: str = field(default_factory=fresh_id)
    token: str = ""
    images: int = 0
    bytes: int = 0
    started: float = field(default_factory=time.perf_counter)


class Service:
    """A bundle's model with its queue, tokens, counters and log.

    Args:
        bundle: a bundle or its cloud part.
        limits: its limits.
        tokens: who may ask; None: everybody.
        metrics: counters.
        log: the log.
        run: answers wires; the bundle's model unless a test gives another.

    Raises:
        UserError: the bundle has no cloud part, or its model does not do what wire.json says.
    """

    def __init__(
        self,
        bundle: Bundle,
        limits: Limits | None = None,
        tokens: Tokens | None = None,
        metrics: Metrics | None = None,
        log: Log | None = None,
        run: Run | None = None,
    ):
        self.limits, self.tokens = limits or Limits(), tokens
        self.metrics, self.log = metrics or Metrics(), log or Log()
        self.served = Served.of(bundle, self.limits)
        self.most_bytes = self.limits.most_bytes(self.served.wire_bytes)
        if self.most_bytes < (one := self.served.wire_bytes):
            raise UserError(
                f"the wire of one image has {one:,} bytes and a request at most {self.most_bytes:,}; raise --max-body "
                f"to {one + 2**14} or more, or export with a smaller codec"
            )
        self.draining = False
        self.active = 0
        """Requests that are being answered."""
        self.connections = 0
        self._model = run or _model_of(bundle)
        self._warm_up()
        self.tail = Tail(self._run, self.limits.max_batch, self.limits.max_queue, self.metrics.batch, self._failed)

    @property
    def ready(self) -> bool:
        """Return whether inference requests are taken."""
        return not self.draining and self.tail.alive

    def caller(self, authorization: str | None) -> str:
        """Return the name of the token of a request; empty where everybody may ask.

        Args:
            authorization: its ``Authorization``.

        Raises:
            Refusal: the token is missing or unknown.
        """
        return "" if self.tokens is None else self.tokens.name_of(authorization)

    def check_ready(self) -> None:
        """Refuse a request while the server stops.

        Raises:
            Refusal: it does.
        """
        if self.draining:
            raise Refusal(Kind.draining)

    async def answer(
        self, wires: np.ndarray, gone: Callable[[], Awaitable[object]] | None = None
    ) -> Sequence[np.ndarray]:
        """Return the outputs for wires, (B, ...) each.

        Args:
            wires: wires that `Served.wire` has checked.
            gone: returns when the client has left; the request then leaves the queue.

        Raises:
            Refusal: the queue is full, the server stops, the deadline has passed, the model failed, or its answer is
                not finite.
            Gone: the client has left.
        """
        future = self.tail.submit(wires)
        watching: asyncio.Future[object] | None = None
        try:
            limit = self.limits.answer_seconds
            await asyncio.wait({future}, timeout=min(PATIENCE, limit) if gone else limit)
            if not future.done() and gone:
                watching = asyncio.ensure_future(gone())
                await asyncio.wait({future, watching}, timeout=limit - PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                if watching and watching.done():
                    raise Gone
                raise Refusal(Kind.deadline)
            outputs = future.result()
        finally:
            future.cancel()
            if watching:
                watching.cancel()
        if not all(np.isfinite(output).all() for output in outputs):
            raise Refusal(Kind.malformed, "the model's answer to this wire is not finite; send numbers of usual size")
        return outputs

    def refusal(self, error: Exception, entry: Entry) -> Refusal:
        """Return what a client is told about an exception: of our own faults no more than an id, which is logged.

        Args:
            error: what was raised.
            entry: what is known of the request.
        """
        if isinstance(error, Refusal) and error.kind is not Kind.internal:
            return error
        if not isinstance(error, Refusal):  # the model's failure was logged where it happened
            self.log.failed("error", error, id=entry.id)
        return Refusal(Kind.internal, f"{Refusal(Kind.internal)}; its log says more under the id {entry.id}")

    def finished(self, entry: Entry, why: Refusal | Gone | None = None) -> None:
        """Count and log an inference request.

        Args:
            entry: what is known of it.
            why: why it was refused; None: it was answered.
        """
        seconds = time.perf_counter() - entry.started
        code = why.kind.http if isinstance(why, Refusal) else None if why else 200
        reason = why.kind.name if isinstance(why, Refusal) else "gone" if why else None
        self.metrics.request(code, 0 if why else entry.images, seconds)
        if reason:
            self.metrics.rejected(reason)
        self.log.write(
            "request",
            id=entry.id,
            token=entry.token,
            status=code,
            reason=reason,
            images=entry.images,
            bytes=entry.bytes,
            ms=round(1000 * seconds, 3),
        )

    def gauge(self) -> None:
        """Note the length of the queue and the number of connections in the metrics."""
        self.metrics.gauges(self.tail.waiting, self.connections)

    async def drain(self, at_least: float = 0.5) -> None:
        """Take no more requests, and wait until those that were taken are answered, as long as the limits allow.

        Args:
            at_least: seconds during which new requests are still told to go elsewhere.
        """
        self.draining = True
        started = asyncio.get_running_loop().time()
        while (passed := asyncio.get_running_loop().time() - started) < self.limits.drain_seconds:
            if not self.active and passed >= at_least:
                break
            await asyncio.sleep(0.02)

    def close(self) -> None:
        """End the thread of the model."""
        self.draining = True
        self.tail.close()

    def _run(self, wires: np.ndarray) -> Sequence[np.ndarray]:
        outputs = self._model(wires)
        self.served.check_answer(outputs, len(wires))
        return outputs

    def _failed(self, error: Exception) -> None:
        self.metrics.failure()
        self.log.failed("batch failed", error)

    def _warm_up(self) -> None:
        """Answer one batch of the largest size, which also takes the memory that the model needs."""
        shape = [min(self.limits.max_batch, self.limits.max_queue), self.served.values]
        try:
            self._run(np.zeros(shape, self.served.dtype))
        except Exception as error:
            reason = str(error).partition("\n")[0][:200]
            raise UserError(
                f"the model of {self.served.model} does not take {self.served.datatype} of {shape} "
                f"({reason}); export the run again"
            ) from None


def cloud_of(bundle: Bundle) -> bytes:
    """Return the model that is served.

    Args:
        bundle: a bundle or its cloud part.

    Raises:
        UserError: it is the part of the device.
    """
    if "cloud" not in bundle.models:
        raise UserError("this is the device part of a bundle; serve the bundle, or its folder cloud")
    return bundle.models["cloud"]


def _model_of(bundle: Bundle) -> Run:
    model = cloud_of(bundle)
    try:
        return session(model)
    except ImportError:
        raise UserError("onnxruntime is not installed; pip install 'splitveil[deploy]'") from None
    except OSError as error:
        raise temporary(error) from None
    except Exception as error:
        reason = str(error).partition("\n")[0][:200]
        raise UserError(f"the {INPUT}'s model cannot be read ({reason}); export the run again") from None
