"""Several workers on one port: started, watched, started again, told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Callable

from . import metrics
from .metrics import Log
from .settings import Settings, bound, taken
from .worker import GOODBYE, metrics_server

COMMAND = (sys.executable, "-P", "-m", "splitveil.serving")
"""How a process of the server is started; -P keeps the current folder out of what is imported."""
SLOWEST = 10.0
"""Most seconds before a worker that ends at once is started again."""
STEADY = 5.0
"""Seconds after which a worker counts as one that has worked."""
READY = b"ready\n"
MISTAKE = 2
"""Exit code of a mistake that the user can repair."""


def reserve(settings: Settings) -> tuple[int, int]:
    """Return the port, and a socket that keeps it for the workers.

    Args:
        settings: checked settings.

    Raises:
        UserError: the port is taken.
    """
    with bound(settings, settings.port, several=False) as probe:  # a port of others may be shared, so ask for it alone
        try:
            probe.listen(1)
        except OSError as error:
            raise taken(settings, settings.port, error) from None
        port = probe.getsockname()[1]
    return port, bound(settings, port, several=True).detach()


class Supervisor:
    """Keeps the workers running.

    Args:
        settings: checked settings.
        port: the port that is reserved.
        log: the log.
    """

    def __init__(self, settings: Settings, port: int, log: Log):
        self._settings, self._port, self._log = settings, port, log
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process)
        self._file.truncate(8 * metrics.WIDTH * settings.workers)
        self._numbers = metrics.shared(self._file.fileno(), settings.workers)
        self._stopping = asyncio.Event()
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._code = 0

    async def run(self, ready: Callable[[], None]) -> int:
        """Run until SIGTERM or SIGINT; return the exit code: 0, or 2 where a worker could not start.

        Args:
            ready: called when all workers answer.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._tell, signal.SIGHUP)
        server = None
        if self._settings.metrics_port is not None:
            server = await metrics_server(self._settings, lambda: metrics.text(self._numbers))
        started = [asyncio.Event() for _ in range(self._settings.workers)]
        keeping = [asyncio.ensure_future(self._keep(place, event)) for place, event in enumerate(started)]
        waiting = asyncio.ensure_future(_all(started))
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not self._stopping.is_set():
            ready()
        await stopping
        waiting.cancel()
        self._tell(signal.SIGTERM)
        await asyncio.wait(keeping, timeout=self._settings.limits.drain_seconds + 2 * GOODBYE)
        self._tell(signal.SIGKILL)
        await asyncio.gather(*keeping)
        if server is not None:
            server.close()
        return self._code

    async def _keep(self, place: int, started: asyncio.Event) -> None:
        """Start a worker again and again, later each time while it ends at once."""
        loop, pause = asyncio.get_running_loop(), 0.1
        while not self._stopping.is_set():
            began = loop.time()
            code = await self._one(place, started)
            if self._stopping.is_set():
                return
            if code == MISTAKE and not started.is_set():  # it has said why
                self._code = code
                self._stopping.set()
                return
            pause = 0.1 if loop.time() - began > STEADY else min(2 * pause, SLOWEST)
            self._log.write("worker ended", worker=place, code=code, again=pause)
            try:
                await asyncio.wait_for(self._stopping.wait(), pause)
            except TimeoutError:
                continue

    async def _one(self, place: int, started: asyncio.Event) -> int:
        """Run a worker to its end and return its exit code; negative: the signal that killed it."""
        files = [self._file.fileno(), *([self._settings.page] if self._settings.page is not None else [])]
        worker = await asyncio.create_subprocess_exec(
            *COMMAND,
            self._settings.to_json(),
            str(self._port),
            str(self._file.fileno()),
            str(place),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=files,
        )
        self._running[place] = worker
        if self._stopping.is_set():
            worker.terminate()
        assert worker.stdout is not None
        if await worker.stdout.readline() == READY:
            started.set()
        code = await worker.wait()
        del self._running[place]
        return code

    def _tell(self, number: signal.Signals) -> None:
        for worker in self._running.values():
            if worker.returncode is None:
                worker.send_signal(number)


async def _all(events: list[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


def tell_ready() -> None:
    """Tell the supervisor that this worker answers."""
    os.write(1, READY)
