"""Runs on more than one host: joining, agreeing, stopping together, and ending when one is gone.

Every process runs the same program on its part of the devices. What one of them does alone (reading
its files, writing the run's folder) is followed by an agreement, so that no process waits for
another that has given up. In a run of one process all of this does nothing.
"""

import hashlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ufm_jax.cluster.process import StopSignal
from ufm_jax.cluster.witness import LastWords
from ufm_jax.config.cluster import ClusterConfig
from ufm_jax.door import FAULT, LOST, SYSTEMS, explain, stopped_by
from ufm_jax.errors import ConfigError, UserError, one_line

Number = TypeVar("Number", int, float)

_GONE = ("gloo", "nccl", "unavailable", "coordination", "deadline_exceeded", "heartbeat")
"""Words of XLA's messages when a computation failed for want of another process."""


class SharedStop(StopSignal):
    """A signal to any process stops all of them after the same chunk.

    After every chunk the processes compare what they received and whether they want to save, on the
    devices, behind the chunk's own work. The answer is read a chunk later, so that no device waits
    for it.
    """

    def __init__(self, mesh: Mesh) -> None:
        """Prepares the question for the devices of a mesh."""
        super().__init__()
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._highest = jax.jit(
            partial(jnp.max, axis=0), out_shardings=NamedSharding(mesh, PartitionSpec())
        )
        self._answer: jax.Array | None = None

    def ask(self, late: bool) -> bool:
        """Whether to save now; every process must ask after every chunk, and gets one answer."""
        answer, self._answer = self._answer, self._highest_of(late, self.received)
        if answer is None:
            return False
        save, self.stopped_by = (int(number) for number in answer)
        return bool(save or self.stopped_by)

    def _highest_of(self, *numbers: int) -> jax.Array:
        mine = np.array([numbers], np.int32)
        shape = (self._sharding.mesh.size, len(numbers))
        return self._highest(jax.make_array_from_callback(shape, self._sharding, lambda _: mine))


def stop_signal(mesh: Mesh) -> StopSignal:
    """What turns signals into a wish to stop, in a run of one process or of several."""
    return SharedStop(mesh) if jax.process_count() > 1 else StopSignal()


@contextmanager
def membership(config: ClusterConfig, workdir: Path) -> Iterator[None]:
    """Joins the run's other processes, and leaves them in good order or ends in one line.

    Args:
        config: How to find them.
        workdir: The run's folder.

    Raises:
        ConfigError: If there is nothing to join, as one line that names the keys.
    """
    if not config.distributed:
        yield
        return
    last_words = LastWords(workdir)
    try:
        _join(config, last_words)
        last_words.prepare("another process of this run ended, or this one was killed")
        if not is_first():
            logging.getLogger("ufm_jax").setLevel(logging.ERROR)
        yield
    except UserError:
        _leave(last_words)
        raise
    except (Exception, KeyboardInterrupt) as error:
        words, code = _explain(error)
        last_words.say(words)
        sys.stdout.flush()
        # An ordinary exit would wait for processes that are gone, or that wait for this one.
        os._exit(code)
    _leave(last_words)


def is_first() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def from_first(value: Number) -> Number:
    """The first process's ``value`` (an int below 2^31, or a float in float32), in all of them."""
    if jax.process_count() == 1:
        return value
    kind = np.float32 if isinstance(value, float) else np.int32
    return type(value)(multihost_utils.broadcast_one_to_all(kind(value)))


def first_to_differ(text: str) -> int | None:
    """The first process that has another ``text`` than process 0; None where all agree."""
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    everybodys = multihost_utils.process_allgather(digest).reshape(-1, len(digest))
    different = np.flatnonzero((everybodys != everybodys[0]).any(axis=1))
    return int(different[0]) if len(different) else None


def connect(mesh: Mesh) -> None:
    """Has the devices of a mesh speak to each other once, along each axis and along all of them.

    On CPUs, devices that are to speak for the first time have 30 s to come together; after that
    they wait for each other as long as it takes. The first round would come too late, since one
    process may have to compile what another finds in its cache.

    Raises:
        ConfigError: Naming a process that has no device in the mesh.
    """
    if jax.process_count() == 1:
        return
    used = {device.process_index for device in mesh.devices.flat}
    idle = sorted(set(range(jax.process_count())) - used)
    if idle:
        raise ConfigError(
            f"config.placement.devices={mesh.size}: none of them belongs to process {idle[0]}; "
            "raise it, use 0 for all, or start fewer processes"
        )
    names = mesh.axis_names
    everywhere = NamedSharding(mesh, PartitionSpec(names))
    numbers = np.arange(mesh.size, dtype=np.float32)
    on_devices = jax.make_array_from_callback(
        numbers.shape, everywhere, lambda index: numbers[index]
    )
    from_first(0)  # all are here
    for axes in (*((name,) for name in names), names):
        rest = PartitionSpec(tuple(name for name in names if name not in axes) or None)
        total = jax.shard_map(
            partial(jax.lax.psum, axis_name=axes),
            mesh=mesh,
            in_specs=everywhere.spec,
            out_specs=rest,
        )
        jax.block_until_ready(jax.jit(total)(on_devices))


@contextmanager
def together(doing: str) -> Iterator[None]:
    """Wraps what may fail in one process alone: then it fails in all of them.

    Args:
        doing: What is done, for the message in the other processes.

    Raises:
        ConfigError: If it failed in another process.
    """
    try:
        yield
    except UserError:
        _failures(1)
        raise
    failed = np.flatnonzero(_failures(0))
    if len(failed):
        raise ConfigError(f"process {failed[0]} stopped while {doing}; its log says why")


def _failures(mine: int) -> np.ndarray:
    """[processes] everybody's verdict."""
    return np.atleast_1d(multihost_utils.process_allgather(np.int32(mine)))


def _join(config: ClusterConfig, last_words: LastWords) -> None:
    address = config.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = config.num_processes or _from_environment("JAX_NUM_PROCESSES")
    index = _from_environment("JAX_PROCESS_ID") if config.process_id < 0 else config.process_id
    told = address is not None and count is not None and index is not None
    where = f" at {address}" if address else ""
    # Where a process waits in vain, JAX aborts it.
    last_words.prepare(
        f"config.cluster: the processes of this run did not find each other{where} within "
        f"{config.start_seconds} s"
    )
    try:
        jax.distributed.initialize(
            address,
            count,
            index,
            cluster_detection_method="deactivate" if told else None,
            initialization_timeout=config.start_seconds,
            heartbeat_timeout_seconds=config.heartbeat_seconds,
            shutdown_timeout_seconds=config.shutdown_seconds,
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"config.cluster.distributed=True: {_first_line(error)} No Slurm, Open MPI, Kubernetes "
            "or TPU pod was found: set config.cluster.coordinator, num_processes and process_id, "
            "or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from None
    except RuntimeError as error:
        raise ConfigError(f"config.cluster{where}: {_first_line(error)}") from None
    if jax.device_count() != jax.process_count() * jax.local_device_count():
        raise ConfigError(
            f"config.placement: process {jax.process_index()} has {jax.local_device_count()} of "
            f"{jax.device_count()} devices, and each of {jax.process_count()} processes needs as "
            "many: set config.placement.cpu_devices, or show each the same number of accelerators"
        )
    # JAX would note SIGTERM and go on; before the first round there is nothing to save.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # While all are here: see `connect`.
    from_first(0)
    _failures(0)


def _leave(last_words: LastWords) -> None:
    jax.distributed.shutdown()
    last_words.withdraw()


def _from_environment(name: str) -> int | None:
    value = os.environ.get(name)
    if value is None:
        return None
    if not value.isdecimal():
        raise ConfigError(f"{name}={value!r}: it is a number")
    return int(value)


def _explain(error: BaseException) -> tuple[str, int]:
    """One line on why this process ends, and its exit code; the trace too of a fault."""
    line, mine = _first_line(error), f"process {jax.process_index()}"
    # XLA's errors reach Python as either.
    if isinstance(error, RuntimeError | ValueError) and any(w in line.lower() for w in _GONE):
        return f"another process of this run ended ({line})", LOST
    if isinstance(error, KeyboardInterrupt):
        words, code = stopped_by(error)
        return f"{mine} was {words}", code
    if (failure := explain(error)) is not None:
        return f"{mine}: {one_line(failure)}", SYSTEMS
    traceback.print_exception(error)
    return f"{mine} failed ({type(error).__name__}: {line})", FAULT


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:200]
