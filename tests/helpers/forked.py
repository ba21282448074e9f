"""An executor of the bench room whose workers are forked: real processes that are there at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

FORK = multiprocessing.get_context("fork")


class Forked:
    """An executor of forked processes."""

    limit = None

    def start(self, work: Callable[[], Any], name: str, slot: int) -> ForkedJob:
        process = FORK.Process(target=work)
        process.start()
        return ForkedJob(process)

    def capacity(self) -> int:
        return 2

    def close(self) -> None: ...


class ForkedJob:
    def __init__(self, process: Any):
        self.process = process

    def ended(self) -> bool:
        return not self.process.is_alive()

    def problem(self) -> str | None:
        return f"exit code {self.process.exitcode}" if self.process.exitcode else None

    def stop(self) -> None:
        self.process.kill()
