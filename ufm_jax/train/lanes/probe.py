"""Measures one number of lanes: the memory of its compiled round, and its images a second.

The probe is a federation of equal clients, one a lane, with a few local steps on random pixels. The
loss function, the algorithm and the batch size are the run's own, so that a step is the run's own.
"""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ufm_jax.cluster.hosts import from_first
from ufm_jax.fed.algorithm import Params, Tree, tree_bytes
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import Placement
from ufm_jax.fed.plan import HostPlan

_STEPS = 3
"""Local steps of a probe's client: a client's start and end are a small part of its time."""
_SPAN = 0.2
"""Seconds that a measurement of quick rounds lasts at least: a single one would be noise."""
_MOST_ROUNDS = 50
_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class OutOfDeviceMemoryError(RuntimeError):
    """A probe needed more memory than the device has."""


class RoundProbe:
    """Compiles and times the rounds of probe federations."""

    def __init__(self, federation: Federation, params: Params, example: Tree) -> None:
        """Prepares to probe.

        Args:
            federation: The run's federation, with any number of lanes.
            params: Global parameters.
            example: One of the run's examples, leaves [1, ...]; integers of 8 bits are replaced by
                random ones.
        """
        self._params, self._example = params, example
        self._batch = federation.batching.batch_size
        self._template = replace(
            federation,
            batching=Batching(self._batch, None, _STEPS),
            chunk_steps=None,
            cohort_size=None,
            client_weights="uniform",
        )
        self._federation = cache(self._build)

    def working_bytes(self, lanes: int) -> int:
        """Memory of the compiled round on a device, bytes, less its images and clients' states.

        These two depend on the run's data; see ``search.Load``.

        Raises:
            OutOfDeviceMemoryError: If compiling it exhausts the memory.
        """
        federation, plan, rows = self._federation(lanes)
        state = federation.state_shapes(self._params)
        examples = self._examples(federation, lanes)
        with _exhaustion_named():
            compiled = federation.lower(state, examples, plan, rows).compile()
        devices = federation.placement.num_devices
        shards = devices if federation.examples_sharded else 1
        return (
            compiled_bytes(compiled)
            - tree_bytes(state.clients) // devices
            - tree_bytes(examples) // shards
        )

    def images_per_second(self, lanes: int) -> float:
        """Images a second over all devices: one round to warm up, then rounds without a pause.

        Raises:
            OutOfDeviceMemoryError: If running it exhausts the memory.
        """
        federation, plan, rows = self._federation(lanes)
        with _exhaustion_named():
            shapes = self._examples(federation, lanes)
            examples = federation.placement.put(self._random(shapes), _home(federation))
            state = federation.init(self._params)

            def seconds(rounds: int) -> float:
                nonlocal state
                start = time.perf_counter()
                for _ in range(rounds):
                    state, _ = federation.run_chunk(state, examples, plan, 0, rows)
                jax.block_until_ready(state)
                return from_first(time.perf_counter() - start) / rounds

            seconds(1)
            once = seconds(1)
            rounds = min(int(_SPAN / once), _MOST_ROUNDS)
            a_round = seconds(rounds) if rounds > 1 else once
        return federation.num_clients * _STEPS * self._batch / a_round

    def _build(self, lanes: int) -> tuple[Federation, HostPlan, np.ndarray]:
        """A probe federation, its round, and the rows [D, T, L, B] inside a device's images."""
        placement = replace(self._template.placement, lanes=lanes)
        clients = placement.num_devices * lanes
        federation = replace(
            self._template,
            offsets=np.arange(clients + 1) * self._batch,
            placement=placement,
        )
        plan = federation.plan(0)
        return federation, plan, np.where(plan.rows < 0, -1, plan.rows % (lanes * self._batch))

    def _examples(self, federation: Federation, lanes: int) -> Tree:
        """Shapes of the probe's images: for each home, what its lanes take in a step."""
        homes = federation.placement.num_devices if federation.examples_sharded else 1
        count = homes * lanes * self._batch
        home = _home(federation)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype, sharding=home),
            self._example,
        )

    def _random(self, shapes: Tree) -> Tree:
        """Examples of these shapes: random pixels, all else as in the one that was given."""
        rng = np.random.Generator(np.random.Philox(0))

        def leaf(value: np.ndarray, like: jax.ShapeDtypeStruct) -> np.ndarray:
            if like.dtype == np.uint8:
                return rng.integers(0, 256, like.shape, np.uint8)
            return np.broadcast_to(value, like.shape)

        return jax.tree.map(leaf, self._example, shapes)


def compiled_bytes(compiled: jax.stages.Compiled) -> int:
    """Bytes that a compiled program needs on each device: arguments, temporaries and outputs."""
    memory: Any = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )


def device_memory(placement: Placement) -> float:
    """Bytes of the smallest device: as it tells, or an even share of the machine's memory."""
    devices = placement.mesh.local_devices
    stats = [device.memory_stats() or {} for device in devices]
    share = host_memory() / len(devices)
    return from_first(float(min(s.get("bytes_limit", share) for s in stats)))


def host_memory() -> float:
    """Bytes of memory that this process may use; infinite where the system does not tell."""
    sizes = [math.inf]
    if hasattr(os, "sysconf"):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    if _GROUP_LIMIT.is_file():
        text = _GROUP_LIMIT.read_text(encoding="ascii").strip()
        sizes.append(math.inf if text == "max" else int(text))
    return min(sizes)


def _home(federation: Federation) -> jax.sharding.NamedSharding:
    placement = federation.placement
    return placement.sharded if federation.examples_sharded else placement.replicated


@contextmanager
def _exhaustion_named() -> Iterator[None]:
    """Tells exhausted memory from other failures of the runtime."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfDeviceMemoryError(str(error).splitlines()[0]) from None
