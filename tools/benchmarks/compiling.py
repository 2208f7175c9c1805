"""What compiling a round costs, and the memory that the compiled round needs."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache

from tools.benchmarks.workload import Workload
from ufm_jax.train.lanes.probe import compiled_bytes


class Compiled(NamedTuple):
    """What compiling took and gave.

    Attributes:
        cold_seconds: Tracing and compiling, with an empty persistent cache.
        cached_seconds: The same with this very round in the persistent cache, and none in memory.
        device_bytes: Arguments, temporaries and outputs on each device.
    """

    cold_seconds: float
    cached_seconds: float
    device_bytes: int


def compile_twice(workload: Workload) -> Compiled:
    """Compiles the next round with an empty persistent cache and with a full one, and runs it.

    Everything that is compiled in this process is dropped before either, also of others.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-cache-") as folder, cache_in(folder):
        cold, compiled = _compile(workload)
        cached, _ = _compile(workload)
        workload.run()  # Rounds to come find it in memory.
    return Compiled(cold, cached, compiled_bytes(compiled))


def peak_bytes() -> int | None:
    """Most memory in use on any device since the process began; None where no device tells."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return max((s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s), default=None)


def _compile(workload: Workload) -> tuple[float, jax.stages.Compiled]:
    jax.clear_caches()
    begin = time.perf_counter()
    compiled = workload.lower().compile()
    return time.perf_counter() - begin, compiled


@contextmanager
def cache_in(folder: str) -> Iterator[None]:
    """Puts the persistent cache into a folder of its own, and keeps everything there."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    _set(dict(zip(names, (folder, 0), strict=True)))
    try:
        yield
    finally:
        _set(before)


def _set(values: dict[str, Any]) -> None:
    for name, value in values.items():
        jax.config.update(name, value)
    # The cache is opened once, where the folder was then.
    compilation_cache.reset_cache()
