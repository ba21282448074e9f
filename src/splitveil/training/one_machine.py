"""The way in which the processes of one training find each other, independent of environment variables."""

from __future__ import annotations

import os

from .fabric import LightningEnvironment, find_free_network_port


class OneMachine(LightningEnvironment):
    """The processes of one training, all on this machine and all started by it.

    Variables that a scheduler or launcher has left (SLURM_NTASKS, RANK, WORLD_SIZE, MASTER_PORT, NODE_RANK and the
    like) describe how *this* process was started, and are not read.
    """

    def __init__(self) -> None:
        super().__init__()
        self._parent = os.getpid()
        self._main_port = find_free_network_port()
        self.set_global_rank(0)  # its default is read from the surroundings

    @property
    def creates_processes_externally(self) -> bool:
        """Return False: the training starts its processes itself."""
        return False

    @property
    def main_address(self) -> str:
        """Return the address of this machine for itself."""
        return "127.0.0.1"

    def local_rank(self) -> int:
        """Return 0 in the process that trains alone or starts the others, else the number that it was started with."""
        return 0 if os.getpid() == self._parent else super().local_rank()

    def node_rank(self) -> int:
        """Return 0: there is one machine."""
        return 0
