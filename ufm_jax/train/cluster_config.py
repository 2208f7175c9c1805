"""How the processes of a run on several hosts find each other, and how patient they are."""

import math
from dataclasses import dataclass

from ufm_jax.errors import ConfigError
from ufm_jax.train.schema import check_range


@dataclass(frozen=True)
class ClusterConfig:
    """Processes on more than one host; every one is started with the same command.

    Attributes:
        distributed: Whether there are others. Slurm, Open MPI, Kubernetes and TPU pods are found.
        coordinator: ``host:port`` of process 0, where they are not; or JAX_COORDINATOR_ADDRESS.
        num_processes: Processes in all; 0 takes JAX_NUM_PROCESSES.
        process_id: This process, from 0; -1 takes JAX_PROCESS_ID.
        start_seconds: Wait so long for the others to start.
        heartbeat_seconds: Others that are silent for so long are taken for dead.
        shutdown_seconds: Wait so long for the others to end.
    """

    distributed: bool = False
    coordinator: str = ""
    num_processes: int = 0
    process_id: int = -1
    start_seconds: int = 300
    heartbeat_seconds: int = 100
    shutdown_seconds: int = 300

    def __post_init__(self) -> None:
        for key in ("start_seconds", "heartbeat_seconds", "shutdown_seconds"):
            check_range(f"cluster.{key}", getattr(self, key), 1, math.inf, "counts seconds")
        check_range("cluster.num_processes", self.num_processes, 0, math.inf, "counts processes")
        last = self.num_processes - 1 if self.num_processes else math.inf
        check_range("cluster.process_id", self.process_id, -1, last, "numbers processes from 0")
        host, _, port = self.coordinator.rpartition(":")
        if self.coordinator and not (host and port.isdecimal()):
            raise ConfigError(f"config.cluster.coordinator={self.coordinator!r}: give 'host:port'")
