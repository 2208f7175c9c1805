"""Rounds, one after another: what pretraining and fine-tuning have in common."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from ufm_jax.cluster import hosts
from ufm_jax.cluster.process import StopSignal
from ufm_jax.config.pretraining import CheckpointConfig, FederationConfig
from ufm_jax.fed.engine import FederationState
from ufm_jax.fed.federation import Federation
from ufm_jax.runs.history import MetricWriter
from ufm_jax.runs.resume import Point, RunCheckpoints
from ufm_jax.train.feed import Feed
from ufm_jax.train.privacy_ledger import Spending
from ufm_jax.train.progress import Progress
from ufm_jax.train.recorder import Recorder, Sinks

_log = logging.getLogger(__name__)

Judge = Callable[[int, FederationState], float | None]
"""``(rounds done, state) -> score`` where the model is the best so far, None where it is not."""


def run_rounds(
    feed: Feed,
    recorder: Recorder,
    saving: "Saving",
    stop: StopSignal,
    point: Point,
    judge: Judge | None = None,
    spending: Spending | None = None,
) -> Point:
    """Trains until the last round, or until a signal.

    Args:
        feed: Plans rounds and has their images; it is closed at the end.
        recorder: Takes the metrics.
        saving: When checkpoints are written, and how many rounds there are.
        stop: Says whether a signal has come.
        point: Where to begin; its state is donated.
        judge: Looks at the model after each round; the best so far is always saved.
        spending: Keeps the privacy ledger.

    Returns:
        Where it ended.
    """
    federation, before = feed.federation, None
    done, step, state, ledger = point
    while done < saving.rounds and not stop.stopped_by:
        chunk = feed.take(done, step)
        state, metrics = federation.run_chunk(state, *chunk)
        done, step = feed.following(chunk)
        ended = step == 0
        if ended and spending is not None:
            spending.after(chunk.plan)
            ledger = spending.stored()
        # The devices train; meanwhile the host plans, and reads the round before.
        if done < saving.rounds:
            feed.prepare(done, step)
        # Images of two chunks are on the devices at most: this one's, and next those of the next.
        jax.block_until_ready(before)
        before = metrics
        point = Point(done, step, state, ledger)
        save = stop.ask(saving.late())
        if ended:
            recorder.put(chunk.plan, metrics)
            score = judge(done, state) if judge else None
            if save or saving.due(done) or score is not None:
                cost = recorder.flush().loss
                if judge is not None:
                    cost = math.inf if score is None else -score
                saving.save(point, cost)
        else:
            recorder.advance(chunk.plan, step)
            if save:
                saving.save(point, math.inf)
    feed.close()
    return point


def begin_spending(
    config: FederationConfig, federation: Federation, done: int, ledger: Mapping[str, Any]
) -> tuple[Spending | None, int]:
    """The privacy ledger of a run after ``done`` rounds, and the rounds that its budget allows.

    Args:
        config: The method.
        federation: What is trained.
        done: Rounds that are done.
        ledger: What was spent in them, as a checkpoint holds it.

    Raises:
        ConfigError: If the budget allows none, or no epsilon can be stated.
    """
    if config.privacy.level == "none":
        return None, config.rounds
    spending = Spending(config, federation)
    # Before anything was spent: a resumed run stops where it would have stopped.
    rounds = spending.rounds_within_budget(config.rounds)
    if done:
        spending.restore(ledger)
    return spending, rounds


def resume(checkpoints: RunCheckpoints, state: FederationState, rounds: int) -> Point:
    """Where to go on: at the newest whole checkpoint, or where ``state`` is the first."""
    point = checkpoints.newest(state)
    if point.begun:
        inside = f", at step {point.step} of the next" if point.step else ""
        _log.warning("resumed after %d of %d rounds%s", point.done, rounds, inside)
    return point


class Saving:
    """When a checkpoint is due: by rounds, by time, and after the last round."""

    def __init__(self, checkpoints: RunCheckpoints, config: CheckpointConfig, rounds: int) -> None:
        """Starts the clock.

        Args:
            checkpoints: Where they go.
            config: How often.
            rounds: Rounds of the run.
        """
        self.rounds = rounds
        self._checkpoints, self._config = checkpoints, config
        self._last = time.monotonic()

    def late(self) -> bool:
        """Whether the last checkpoint is older than may be."""
        return 0 < self._config.every_seconds < time.monotonic() - self._last

    def due(self, done: int) -> bool:
        """Whether the state after ``done`` rounds is to be saved, however late it is."""
        return done % self._config.every_rounds == 0 or done == self.rounds

    def save(self, point: Point, cost: float) -> None:
        """Starts saving; the checkpoint of least ``cost`` is kept to the end."""
        self._checkpoints.save(point, cost)
        self._last = time.monotonic()


@contextmanager
def record_sinks(workdir: Path, done: int, rounds: int) -> Iterator[Sinks]:
    """What takes the metrics of rounds from ``done`` on: nothing, but in the first process."""
    if not hosts.is_first():
        yield Sinks((), lambda done, share: None)
        return
    with MetricWriter(workdir, done) as writer, Progress(rounds, done) as progress:
        yield Sinks((writer.write, progress.update), progress.advance)
