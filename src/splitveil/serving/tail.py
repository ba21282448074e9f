"""The model of the cloud in one thread, and the batcher before it: it takes what waits, and never waits for more."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .refusals import Kind, Refusal

Run = Callable[[np.ndarray], Sequence[np.ndarray]]
"""Answer wires (B, ...) with the outputs of the model, (B, ...) each, row by row."""
Answer = list[np.ndarray] | Refusal


def session(model: bytes) -> Run:
    """Return an ONNX model as a function that runs on one thread, in little memory.

    onnxruntime keeps bytes that it is given, beside the weights that it makes of them, and not a file that it reads;
    without its arena it gives memory back to the system, which costs no measurable time.

    Args:
        model: content of an ONNX file with one input.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # its messages go around the log
    options.enable_cpu_mem_arena = False
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(model)
        file.flush()
        opened = onnxruntime.InferenceSession(file.name, options, providers=["CPUExecutionProvider"])
    name = opened.get_inputs()[0].name

    def run(wires: np.ndarray) -> Sequence[np.ndarray]:
        return opened.run(None, {name: wires})  # type: ignore[return-value]

    return run


@dataclass(eq=False)
class _Job:
    wires: np.ndarray
    future: asyncio.Future[list[np.ndarray]]
    taken: int = 0
    rows: list[list[np.ndarray]] = field(default_factory=list)


class Tail:
    """A queue of requests and the thread that answers them, first come, first served.

    One batch takes the images that wait, at most ``batch`` of them; a request of more goes through several batches.
    Images are independent of each other, so an answer does not depend on what was beside it in the batch.

    Args:
        run: the model.
        batch: most images of a batch.
        queue: most images that wait.
        seen: called with the number of images of each batch that was answered, in the thread of the model.
        failed: called with the exception of a batch that failed, in the thread of the model.
    """

    def __init__(
        self,
        run: Run,
        batch: int = 64,
        queue: int = 1024,
        seen: Callable[[int], None] = lambda images: None,
        failed: Callable[[Exception], None] = lambda error: None,
    ):
        self._run, self._batch, self._queue, self._seen, self._failed = run, batch, queue, seen, failed
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="tail", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Return the number of images that wait."""
        return self._waiting

    @property
    def alive(self) -> bool:
        """Return whether requests are answered."""
        return self._thread.is_alive() and not self._closed

    def submit(self, wires: np.ndarray) -> asyncio.Future[list[np.ndarray]]:
        """Return a future of the outputs, (B, ...) each; cancel it to leave the queue.

        Args:
            wires: checked wires, (B, values), which nobody changes later.

        Raises:
            Refusal: too many images wait, or the server stops.
        """
        job = _Job(wires, asyncio.get_running_loop().create_future())
        with self._changed:
            if self._closed:
                raise Refusal(Kind.draining)
            if self._waiting + len(wires) > self._queue:
                raise Refusal(Kind.busy)
            self._jobs.append(job)
            self._waiting += len(wires)
            self._changed.notify()
        job.future.add_done_callback(lambda future: self._leave(job))
        return job.future

    def close(self) -> None:
        """Take no more requests, refuse those that wait, and end the thread after the batch that it answers."""
        with self._changed:
            self._closed = True
            self._settle([(job, Refusal(Kind.draining)) for job in self._jobs])
            self._jobs.clear()
            self._waiting = 0
            self._changed.notify()
        self._thread.join()

    def _leave(self, job: _Job) -> None:
        """Take a request off the queue whose future is done: its client has left, or a part of it failed."""
        with self._changed:
            if job.taken < len(job.wires) and job in self._jobs:
                self._jobs.remove(job)
                self._waiting -= len(job.wires) - job.taken

    def _loop(self) -> None:
        while parts := self._next():
            self._answer(parts)

    def _next(self) -> list[tuple[_Job, int, int]]:
        """Return the rows (job, from, to) of the next batch; none where the tail is closed and nothing waits."""
        parts: list[tuple[_Job, int, int]] = []
        room = self._batch
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            while room and self._jobs:
                job = self._jobs[0]
                start, job.taken = job.taken, min(job.taken + room, len(job.wires))
                parts.append((job, start, job.taken))
                room -= job.taken - start
                self._waiting -= job.taken - start
                if job.taken == len(job.wires):
                    self._jobs.popleft()
        return parts

    def _answer(self, parts: list[tuple[_Job, int, int]]) -> None:
        try:
            wires = [job.wires[start:end] for job, start, end in parts]
            outputs = self._run(wires[0] if len(wires) == 1 else np.concatenate(wires))
        except Exception as error:
            self._failed(error)
            for job, _, _ in parts:
                self._leave(job)
            self._settle([(job, Refusal(Kind.internal)) for job, _, _ in parts])
            return
        self._seen(sum(map(len, wires)))
        done: list[tuple[_Job, Answer]] = []
        at = 0
        for job, start, end in parts:
            job.rows.append([output[at : at + end - start] for output in outputs])
            at += end - start
            if end == len(job.wires):
                columns = zip(*job.rows, strict=True)
                done.append((job, job.rows[0] if len(job.rows) == 1 else [np.concatenate(part) for part in columns]))
        self._settle(done)

    def _settle(self, done: list[tuple[_Job, Answer]]) -> None:
        """Hand answers over to the event loops of those who asked."""
        for loop in {job.future.get_loop() for job, _ in done}:
            own = [(job.future, value) for job, value in done if job.future.get_loop() is loop]
            try:
                loop.call_soon_threadsafe(_deliver, own)
            except RuntimeError:  # the loop is closed, so nobody waits for the answer
                continue


def _deliver(own: list[tuple[asyncio.Future[list[np.ndarray]], Answer]]) -> None:
    for future, value in own:
        if future.done():  # who asked has left
            continue
        if isinstance(value, Refusal):
            future.set_exception(value)
        else:
            future.set_result(value)
