"""A progress bar for a run's rounds that stays readable in log files.

On a terminal it is one live line: rounds done, loss, images a second, time left. Elsewhere (a
batch system's log, a pipe, a notebook) it prints a plain line now and then, without control codes.
"""

import math
import statistics
import time
from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

from ufm_jax.errors import printable
from ufm_jax.runs.history import RoundRecord

_RECENT_ROUNDS = 16


class Progress:
    """Shows how far a run is; use it as a context manager."""

    def __init__(
        self,
        total_rounds: int,
        start_round: int = 0,
        *,
        plain_seconds: float = 20.0,
        console: Console | None = None,
    ) -> None:
        """Prepares the display; nothing is written before it is entered.

        Args:
            total_rounds: Rounds of the whole run, R.
            start_round: Rounds done before this process started.
            plain_seconds: Off a terminal, the least time between two lines. The first and the last
                round and rounds in which a client was rejected always have a line.
            console: Where to write; standard error if None.
        """
        if not 0 <= start_round <= total_rounds:
            raise ValueError(
                f"start_round is {start_round}; it must lie in 0..total_rounds = {total_rounds}."
            )
        self._console = Console(stderr=True) if console is None else console
        self._total = total_rounds
        self._plain_seconds = plain_seconds
        self._last_line = -math.inf
        self._recent: deque[float] = deque(maxlen=_RECENT_ROUNDS)
        self._bar: RichProgress | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bar = RichProgress(
                TextColumn("{task.fields[rounds]}/{task.total:.0f} rounds"),
                BarColumn(bar_width=None),
                TextColumn("{task.description}", markup=False),
                console=self._console,
                expand=True,
            )
            self._task = self._bar.add_task(
                "compiling", total=total_rounds, completed=start_round, rounds=start_round
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, record: RoundRecord) -> None:
        """Shows that ``record``'s round is done."""
        done = record.round + 1
        self._recent.append(record.seconds)
        status = describe(record, seconds_left(self._recent, self._total - done))
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rounds=done, description=status)
            if record.rejected:
                self._print(rejection(record))
            return
        if self._due() or done == self._total or record.rejected:
            self._last_line = time.monotonic()
            lines = [f"{done}/{self._total} rounds, {status}"]
            self._print("\n".join(lines + [rejection(record)] * bool(record.rejected)))

    def advance(self, done: int, share: float) -> None:
        """Shows that ``done`` rounds are done, and a share of the next."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done + share)
        elif self._due():
            self._last_line = time.monotonic()
            self._print(f"{done}/{self._total} rounds, and {share:.0%} of the next")

    def _due(self) -> bool:
        return time.monotonic() - self._last_line >= self._plain_seconds

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def describe(record: RoundRecord, left: float) -> str:
    """One round in a few words, e.g. ``loss 0.512, held out 0.498, 153 images/s, 2:05 left``."""
    judged = {"held out": record.held_out_loss, "validation score": record.validation_score}
    seen = "".join(f"{k} {v:.4f}, " for k, v in judged.items() if math.isfinite(v))
    speed = f"{record.images_per_second:,.0f}" if math.isfinite(record.images_per_second) else "?"
    return f"loss {record.loss:.4f}, {seen}{speed} images/s, {clock(left)} left"


def rejection(record: RoundRecord) -> str:
    """Names the clients whose update the round left out."""
    return (
        f"round {record.round}: the update of {printable(', '.join(record.rejected))} was rejected"
    )


def seconds_left(recent: deque[float], rounds: int) -> float:
    """Time for ``rounds`` more rounds: the median of the recent rounds' seconds times ``rounds``.

    The median, because one round of a run compiles and may take a hundred times the others.
    """
    finite = [seconds for seconds in recent if math.isfinite(seconds)]
    if rounds == 0:
        return 0.0
    return statistics.median(finite) * rounds if finite else math.nan


def clock(seconds: float) -> str:
    """Formats a duration as ``m:ss``, ``h:mm:ss`` or ``d days h:mm:ss``; ``?`` if unknown."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if not hours:
        return f"{minute}:{second:02d}"
    prefix = f"{days} days " if days > 1 else "1 day " if days else ""
    return f"{prefix}{hour}:{minute:02d}:{second:02d}"
