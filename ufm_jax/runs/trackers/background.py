"""Rounds on their way to a tracker that may be slow or away: training never waits for it."""

import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping

from ufm_jax.errors import one_line
from ufm_jax.runs.history import HISTORY_FILE, RoundRecord
from ufm_jax.runs.trackers.tracker import Tracker

PATIENCE = 30.0
"""Seconds that the end of a run waits for a tracker; its own time-outs are shorter."""
_LOGIN = re.compile(r"//[^/@\s]+@")
"""User and password in an address."""
_SHOWN = 200
"""Characters of a library's error that the warning shows."""

_log = logging.getLogger(__name__)


class Background:
    """Writes to a tracker from a thread.

    The tracker gets the rounds that it does not hold. What fails is tried again with the next round
    and at the end, after the tracker has been opened anew and asked again what it holds.
    """

    def __init__(
        self,
        name: str,
        opened: Callable[[], Tracker],
        scalars: Callable[[RoundRecord], Mapping[str, float]],
    ) -> None:
        """Starts the thread, which opens the tracker.

        Args:
            name: The tracker, for messages.
            opened: Opens it, or raises.
            scalars: What it is told of a round.
        """
        self._name, self._opened, self._scalars = name, opened, scalars
        self._tracker: Tracker | None = None
        self._pending: deque[RoundRecord] = deque()
        self._news = threading.Event()
        self._ending = self._finished = self._warned = False
        self._news.set()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def write(self, record: RoundRecord) -> None:
        """Takes a record and returns at once."""
        self._pending.append(record)
        self._news.set()

    def close(self, finished: bool) -> None:
        """Sends what is left, if that can be done soon; ``finished`` as for ``Tracker.close``."""
        self._finished, self._ending = finished, True
        self._news.set()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._warn(f"it has not answered for {PATIENCE:g} seconds")

    def _work(self) -> None:
        ending = False
        while not ending:
            self._news.wait()
            self._news.clear()
            ending = self._ending
            try:
                self._send(ending)
            except Exception as error:  # Whatever the library raises, the run goes on.
                self._tracker = None
                self._warn(f"{type(error).__name__}: {error}")

    def _send(self, ending: bool) -> None:
        tracker = self._tracker = self._tracker or self._opened()
        while self._pending:
            record = self._pending[0]
            if record.round >= tracker.next_round:
                tracker.write(record.round, self._scalars(record))
            self._pending.popleft()
        if ending:
            tracker.close(self._finished)

    def _warn(self, problem: str) -> None:
        if not self._warned:
            _log.warning(
                "%s is away (%s). Training goes on, and %s has every round; what is missing is "
                "sent when it is back, or when the same command is started again",
                *(self._name, _LOGIN.sub("//", one_line(problem))[:_SHOWN], HISTORY_FILE),
            )
        self._warned = True
