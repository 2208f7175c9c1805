"""The process around a run: devices, compilation cache, signals."""

import logging
import os
import signal
from types import FrameType, TracebackType
from typing import Self

import jax

from ufm_jax.config.training import PlacementConfig
from ufm_jax.door import stop_at_once
from ufm_jax.files import cache_folder, private_folder, user_path

_log = logging.getLogger(__name__)


def configure_jax(placement: PlacementConfig) -> None:
    """Sets what must be set before the first computation.

    A CPU is cut into one device a core, since XLA uses several cores poorly for one client's small
    matmuls. Compiled programs are kept in a private folder between runs.
    """
    jax.config.update("jax_num_cpu_devices", placement.cpu_devices or num_cores())
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    cache = private_folder(user_path(given) if given else cache_folder() / "compiled")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def num_cores() -> int:
    """Cores that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class StopSignal:
    """Turns SIGTERM and SIGINT into a wish to stop after the round; a second one is obeyed at once.

    Attributes:
        received: The signal's number, 0 before.
        stopped_by: The same once ``ask`` has said to stop.
    """

    def __init__(self) -> None:
        self.received = 0
        self.stopped_by = 0

    def ask(self, late: bool) -> bool:
        """Whether to save now; to be asked after every chunk. It may also say to stop.

        Args:
            late: Whether this process finds that a checkpoint is due.
        """
        self.stopped_by = self.received
        return late or bool(self.stopped_by)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            stop_at_once(number, frame)
        self.received = number
        _log.info(
            "stopping after this round, or chunk of it, and saving; another signal stops at once"
        )

    def __enter__(self) -> Self:
        self._previous = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            # None: one that Python did not set, and cannot set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class CompileClock:
    """Counts the seconds that XLA spends compiling, from JAX's own events."""

    _EVENT = "/jax/core/compile/backend_compile_duration"

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == self._EVENT:
            self.seconds += duration_secs
