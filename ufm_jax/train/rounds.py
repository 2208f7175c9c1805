"""Rounds, one after another, and when they are saved."""

import math
import time

import jax

from ufm_jax.cluster.process import StopSignal
from ufm_jax.config.training import CheckpointConfig
from ufm_jax.runs.resume import Point, RunCheckpoints
from ufm_jax.train.feed import Feed
from ufm_jax.train.judge import Judge
from ufm_jax.train.privacy_ledger import Spending
from ufm_jax.train.recorder import Recorder


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
        judge: Looks at the model, and says when it is good enough.
        spending: Keeps the privacy ledger.

    Returns:
        Where it ended.
    """
    federation, before = feed.federation, None
    done, step, state, ledger = point
    first_step = step
    while done < saving.rounds and not stop.stopped_by and not (judge and judge.enough):
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
        recorder.flush()
        before = metrics
        point = Point(done, step, state, ledger)
        save = stop.ask(saving.late())
        if not ended:
            recorder.advance(chunk.plan, step)
            if save:
                saving.save(point, math.inf)
            continue
        recorder.put(chunk.plan, metrics, first_step)
        first_step = 0
        save = save or saving.due(done)
        verdict = judge(done, state, save) if judge else None
        if verdict is not None:
            recorder.judged(verdict.figures)
        if save or (verdict and verdict.keep) or (judge and judge.enough):
            record = recorder.flush()
            cost = verdict.cost if verdict else math.inf
            if judge is None and record is not None:
                cost = record.loss
            saving.save(point, cost)
    feed.close()
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
