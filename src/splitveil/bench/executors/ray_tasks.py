"""Workers as tasks of Ray, on this machine or on a cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError


@dataclass
class RayJob:
    """One task."""

    ray: Any
    task: Any

    def ended(self) -> bool:
        """Return whether the worker has ended; see `Job`."""
        return bool(self.ray.wait([self.task], timeout=0)[0])

    def problem(self) -> str | None:
        """Return why the worker failed, None where it did not; see `Job`."""
        try:
            self.ray.get(self.task)
        except self.ray.exceptions.RayError as error:  # the worker or its node died, or the code raised
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return lines[-1] if isinstance(error, self.ray.exceptions.RayTaskError) else lines[0]
        return None

    def stop(self) -> None:
        """End the worker; see `Job`."""
        self.ray.cancel(self.task, force=True)


class OnRay:
    """Tasks of Ray. A process of Ray serves one task after the other, so a task is one cell.

    Args:
        address: of a cluster; None: what RAY_ADDRESS says, or a small cluster of this machine's own.
        threads, devices: cores of each process of a cell, and its processes.
        gpus_per_cell: GPUs that a task takes; 0.25: four share one. None: one for each process, where there are any.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """

    limit = 1

    def __init__(self, *, address: str | None, threads: int, devices: int, gpus_per_cell: float | None):
        try:
            import ray
        except ModuleNotFoundError:
            raise UserError("--on ray needs the package ray; pip install 'splitveil[all]'") from None
        self._ray, self._own = ray, not ray.is_initialized()
        if self._own:
            try:
                ray.init(address=address, log_to_driver=False, include_dashboard=None, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = str(error).strip().partition("\n")[0]
                raise UserError(
                    f"no Ray cluster at {address or 'RAY_ADDRESS'}: {reason}; begin one with `ray start --head`, "
                    "or leave --address out for one on this machine"
                ) from None
            except OSError as error:  # its sockets lie in the temporary folder, and a socket's path has 107 bytes
                reason = str(error).strip().partition(":")[0]
                raise UserError(
                    f"Ray cannot begin a cluster in the temporary folder: {reason}; expected a folder that can be "
                    "written and has a short name: set RAY_TMPDIR, e.g. to /tmp"
                ) from None
        there = ray.cluster_resources()
        gpus = devices * (there.get("GPU", 0) > 0) if gpus_per_cell is None else gpus_per_cell
        cores = threads * devices
        needs = {"CPU": cores} | ({"GPU": gpus} if gpus else {})
        self._room = min(int(there.get(kind, 0) / need + 1e-9) for kind, need in needs.items())
        if not self._room:
            self.close()
            raise UserError(
                f"a cell takes {cores} cores and {gpus:g} GPUs, but the Ray cluster has {there.get('CPU', 0):g} and "
                f"{there.get('GPU', 0):g}; lower --threads or --gpus-per-cell"
            )
        pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = {"env_vars": {pool: str(threads) for pool in pools}}
        # The driver counts the attempts of all executors alike, so Ray must not repeat any by itself.
        self._options = {"num_cpus": cores, "num_gpus": gpus, "max_retries": 0, "runtime_env": environment}
        self._task = ray.remote(_call)

    def capacity(self) -> int:
        """As many as the cluster has room for."""
        return self._room

    def start(self, work: Callable[[], Any], name: str, slot: int) -> RayJob:
        """See `local.Executor`."""
        return RayJob(self._ray, self._task.options(**self._options, name=name).remote(work, Path.cwd()))

    def close(self) -> None:
        """Leave the cluster, and end it where it is our own."""
        if self._own:
            self._ray.shutdown()


def _call(work: Callable[[], Any], folder: Path) -> Any:
    os.chdir(folder)  # Ray's processes live elsewhere, and image folders may be named from here
    return work()
