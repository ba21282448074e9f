"""Workers as processes of this machine or jobs of Slurm, both through submitit."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...errors import UserError, shown, unknown
from ...ranges import whole

MINUTES = 24 * 60
"""Time limit of a Slurm job, unless --slurm time=MINUTES says otherwise; what is not done then goes on in the next."""
FOREVER = 10 * 365 * 24 * 60
"""Minutes: submitit ends a local process after two unless told otherwise."""
NO_END = 10_000
"""Times that Slurm may put a job back into the queue."""
QUEUED = 16
"""Jobs of Slurm at once, unless --jobs says otherwise."""
ASK_EVERY = 30.0
"""Seconds between two questions to Slurm how the jobs are."""
NETWORK = 10.0
"""Seconds after which a network disk shows what another machine wrote."""
LISTS = ("setup", "teardown", "srun_args")
"""Parameters of sbatch that are lists."""


class Job(Protocol):
    """A worker that was started."""

    def ended(self) -> bool:
        """Return whether its process is gone."""
        ...

    def problem(self) -> str | None:
        """Return, after the end, the last line that it printed where it failed."""
        ...

    def stop(self) -> None:
        """End it now; what it was doing goes on from its checkpoint another time."""
        ...


class Executor(Protocol):
    """Where workers run."""

    @property
    def limit(self) -> int | None:
        """Cells that one worker takes; None: until there are none."""
        ...

    def capacity(self) -> int:
        """Return how many workers there is room for."""
        ...

    def start(self, work: Callable[[], Any], name: str, slot: int, /) -> Job:
        """Start a worker; ``slot`` is the lowest number that no other one has."""
        ...

    def close(self) -> None:
        """Clean up after all jobs have ended."""
        ...


RULE = f"\n{'-' * 22}\n"
"""What submitit writes before and after the trace of a worker."""


@dataclass
class SubmititJob:
    """A job of submitit, in a folder of its own."""

    job: Any
    folder: Path
    local: bool
    ask: Callable[[], bool] = bool
    """Tells whether it is time to ask Slurm anew."""
    stopped: bool = False

    def ended(self) -> bool:
        """Return whether the worker has ended; see `Job`."""
        return self.job.done(force_check=self.ask())

    def problem(self) -> str | None:
        """Return why the worker failed, None where it did not; see `Job`."""
        result, log = self.job.paths.result_pickle, self.job.paths.stdout
        deadline = time.monotonic() + (0 if self.local or self.stopped else NETWORK)
        while not result.exists() and time.monotonic() < deadline:
            time.sleep(0.5)
        failed = self.job.exception() if result.exists() else None
        if self.stopped or (result.exists() and failed is None):
            shutil.rmtree(self.folder, ignore_errors=True)  # pickles, and a log that says that all went well
            return None
        # The result has the trace at once; the log, of a worker that ends otherwise, may lack its last lines still.
        lines = str(failed).rpartition(RULE)[0].splitlines()
        if not lines and log.exists():
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it was killed before its first word")
        return f"{last} (all of it: {log})"

    def stop(self) -> None:
        """End the worker; see `Job`."""
        self.stopped = True
        if not self.local:
            self.job.cancel(check=False)
        elif not self.job.done():
            # This number is of the process between driver and worker; the worker notices its end and ends itself.
            os.kill(int(self.job.job_id), signal.SIGKILL)


class Local:
    """Processes of this machine.

    Args:
        folder: for what submitit keeps of each.
        devices: GPUs, or processes, that one cell needs.
    """

    limit = None

    def __init__(self, folder: Path, *, threads: int, devices: int):
        self._submitit, self._folder, self._threads, self._devices = submitit(), folder, threads, devices
        self._gpus = gpus_here()

    def capacity(self) -> int:
        """See `room`."""
        return room(self._threads, self._devices)

    def start(self, work: Callable[[], Any], name: str, slot: int) -> SubmititJob:
        """See `Executor`; GPUs are dealt out to the slots in turn."""
        executor = self._submitit.LocalExecutor(self._folder / name, python=_python(self._threads))
        executor.update_parameters(timeout_min=FOREVER, stderr_to_stdout=True)
        some = [self._gpus[(slot * self._devices + i) % len(self._gpus)] for i in range(self._devices) if self._gpus]
        with _deaf_to_ctrl_c():
            job = executor.submit(_On(work, ",".join(dict.fromkeys(some))))
        return SubmititJob(job, self._folder / name, local=True)

    def close(self) -> None:
        """See `Executor`."""


class Slurm:
    """Jobs of Slurm.

    Args:
        folder: for what submitit keeps of each; all nodes must see it.
        parameters: ``key=value`` of sbatch as submitit names them: time (in minutes), partition, gpus_per_node, ...

    Raises:
        UserError: no Slurm here, or a parameter that there is not.
    """

    limit = None

    def __init__(self, folder: Path, *, threads: int, parameters: Sequence[str]):
        self._submitit, self._folder, self._threads = submitit(), folder, threads
        own = {"time": MINUTES, "cpus_per_task": threads, "job_name": "splitveil", "stderr_to_stdout": True}
        self._parameters = own | slurm_parameters(parameters)
        if not (shutil.which("sbatch") and shutil.which("srun")):
            raise UserError("there is no Slurm here: sbatch and srun are not on the PATH; use --on local or --on ray")
        self._asked = time.monotonic()

    def capacity(self) -> int:
        """Slurm has a queue of its own."""
        return QUEUED

    def start(self, work: Callable[[], Any], name: str, slot: int) -> SubmititJob:
        """See `Executor`.

        Raises:
            UserError: Slurm refuses the job.
        """
        executor = self._submitit.SlurmExecutor(
            self._folder / name, python=_python(self._threads), max_num_timeout=NO_END
        )
        executor.update_parameters(**self._parameters)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it then raises
                job = executor.submit(work)
        except self._submitit.core.utils.FailedJobError as error:
            raise UserError(f"Slurm refuses the job: {' '.join(str(error).split())}; see --slurm") from None
        return SubmititJob(job, self._folder / name, local=False, ask=self._due)

    def close(self) -> None:
        """See `Executor`."""

    def _due(self) -> bool:
        due = time.monotonic() - self._asked > ASK_EVERY
        self._asked = time.monotonic() if due else self._asked
        return due


def submitit() -> Any:
    """Return the package submitit.

    Raises:
        UserError: it is not installed.
    """
    try:
        import submitit
    except ModuleNotFoundError:
        raise UserError("grids need the package submitit; pip install 'splitveil[all]'") from None
    return submitit


def slurm_parameters(texts: Sequence[str]) -> dict[str, Any]:
    """``key=value`` as submitit takes it; those that are lists may be given several times.

    Raises:
        UserError: no ``key=value``, an unknown key, or a time that is no number of minutes.

    >>> slurm_parameters(["time=90", "partition=gpu", "setup=module load cuda", "setup=ulimit -n 4096"])
    {'time': 90, 'partition': 'gpu', 'setup': ['module load cuda', 'ulimit -n 4096']}
    """
    known = submitit().SlurmExecutor._valid_parameters() - {"additional_parameters", "num_gpus"}
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not value:
            raise UserError(f"--slurm got '{text}'; expected key=value, such as partition=gpu")
        if key not in known:
            raise unknown("parameter of Slurm", key, known)
        if key == "time" and not (whole(value)):
            raise UserError(f"--slurm time is {shown(value)}; expected minutes as a whole number, such as time=1440")
        if key in LISTS:
            found.setdefault(key, []).append(value)
        else:
            number = whole(value)
            found[key] = number if number is not None else True if value == "true" else value
    return found


def room(threads: int, devices: int) -> int:
    """Return how many cells fit on this machine: one for each GPU or core, as far as one is enough.

    Args:
        threads: cores of each process of a cell.
        devices: GPUs, or processes, of a cell.
    """
    gpus = len(gpus_here())
    return max(1, gpus // devices if gpus else cores() // (threads * devices))


def cores() -> int:
    """Return the cores of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus_here() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES names, or would name if it were set."""
    import torch

    count = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    return names[:count]


@dataclass(frozen=True)
class _On:
    """Work that sees these GPUs: submitit hides all, and names them by numbers only."""

    work: Callable[[], Any]
    gpus: str

    def __call__(self) -> Any:
        os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus
        return self.work()


def _python(threads: int) -> str:
    """Return the command that starts Python: the number of threads must be known before numpy is imported."""
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return shlex.join(["env", *(f"{pool}={threads}" for pool in pools), sys.executable])


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Keep Ctrl-C from what is started inside: the driver gets it, and stops the rest without tracebacks."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
