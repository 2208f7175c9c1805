"""How the processes of a run on several hosts find each other, and how patient they are."""

from dataclasses import dataclass
from typing import Annotated

from ufm_jax.errors import ConfigError
from ufm_jax.ranges import AtLeastOne, Checked, Count, Range


@dataclass(frozen=True)
class ClusterConfig(Checked):
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
    num_processes: Count = 0
    process_id: Annotated[int, Range(-1)] = -1
    start_seconds: AtLeastOne = 300
    heartbeat_seconds: AtLeastOne = 100
    shutdown_seconds: AtLeastOne = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_processes and self.process_id >= self.num_processes:
            raise ConfigError(
                f"config.cluster.process_id={self.process_id}: {self.num_processes} processes are "
                "numbered from 0"
            )
        host, _, port = self.coordinator.rpartition(":")
        if self.coordinator and not (host and port.isdecimal()):
            raise ConfigError(f"config.cluster.coordinator={self.coordinator!r}: give 'host:port'")
