"""Rounds, one after another: what pretraining and fine-tuning have in common."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ufm_jax.fed.engine import FederationState
from ufm_jax.fed.federation import Federation
from ufm_jax.train import cluster
from ufm_jax.train.checkpoint import Checkpoints
from ufm_jax.train.config import CheckpointConfig, FederationConfig
from ufm_jax.train.feed import Feed
from ufm_jax.train.metrics import MetricWriter, RoundRecord
from ufm_jax.train.privacy import Spending
from ufm_jax.train.progress import Progress
from ufm_jax.train.recorder import Recorder
from ufm_jax.train.runtime import StopSignal

_log = logging.getLogger(__name__)

Judge = Callable[[int, FederationState], float | None]
"""``(rounds done, state) -> score`` where the model is the best so far, None where it is not."""


def run_rounds(
    feed: Feed,
    recorder: Recorder,
    saving: "Saving",
    stop: StopSignal,
    state: FederationState,
    done: int,
    judge: Judge | None = None,
    spending: Spending | None = None,
) -> tuple[FederationState, int]:
    """Trains until the last round, or until a signal.

    Args:
        feed: Plans rounds and has their images; it is closed at the end.
        recorder: Takes the metrics.
        saving: When checkpoints are written, and how many rounds there are.
        stop: Says whether a signal has come.
        state: The state after ``done`` rounds; donated.
        done: Rounds that are done.
        judge: Looks at the model after each round; the best so far is always saved.
        spending: Keeps the privacy ledger.

    Returns:
        The state, and the rounds done.
    """
    stopping = False
    while done < saving.rounds and not stopping:
        plan, examples, rows = feed.take(done)
        state, metrics = feed.federation.run_round(state, examples, plan, rows)
        done += 1
        if spending is not None:
            spending.after(plan)
        # The devices train; meanwhile the host plans, and reads the round before.
        if done < saving.rounds:
            feed.prepare(done)
        recorder.put(plan, metrics)
        score = judge(done, state) if judge else None
        stopping = stop.reached()
        if saving.due(done) or stopping or score is not None:
            cost = recorder.flush().loss
            if judge is not None:
                cost = math.inf if score is None else -score
            saving.save(done, state, cost, spending.stored() if spending else None)
    feed.close()
    return state, done


def begin_spending(
    config: FederationConfig, federation: Federation, checkpoints: Checkpoints, done: int
) -> tuple[Spending | None, int]:
    """The privacy ledger of a run after ``done`` rounds, and the rounds that its budget allows.

    Raises:
        ConfigError: If the budget allows none, or no epsilon can be stated.
    """
    if config.privacy.level == "none":
        return None, config.rounds
    spending = Spending(config, federation)
    # Before anything was spent: a resumed run stops where it would have stopped.
    rounds = spending.rounds_within_budget(config.rounds)
    if done:
        spending.restore(checkpoints.ledger(done))
    return spending, rounds


def resume(
    checkpoints: Checkpoints, state: FederationState, rounds: int
) -> tuple[int, FederationState]:
    """The rounds done and the state to go on from: the newest whole checkpoint's, or the first."""
    done, state = checkpoints.newest(state)
    if done:
        _log.warning("resumed after %d of %d rounds", done, rounds)
    return done, state


class Saving:
    """When a checkpoint is due: by rounds, by time, and after the last round."""

    def __init__(self, checkpoints: Checkpoints, config: CheckpointConfig, rounds: int) -> None:
        """Starts the clock.

        Args:
            checkpoints: Where they go.
            config: How often.
            rounds: Rounds of the run.
        """
        self.rounds = rounds
        self._checkpoints, self._config = checkpoints, config
        self._last = time.monotonic()

    def due(self, done: int) -> bool:
        """Whether the state after ``done`` rounds is to be saved."""
        config = self._config
        late = 0 < config.every_seconds < time.monotonic() - self._last
        return late or done % config.every_rounds == 0 or done == self.rounds

    def save(
        self,
        done: int,
        state: FederationState,
        cost: float,
        ledger: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts saving; the checkpoint of least ``cost`` is kept to the end."""
        self._checkpoints.save(done, state, cost, ledger)
        self._last = time.monotonic()


@contextmanager
def record_sinks(
    workdir: Path, done: int, rounds: int
) -> Iterator[list[Callable[[RoundRecord], None]]]:
    """What takes the records of rounds from ``done`` on: nothing, but in the first process."""
    if not cluster.is_first():
        yield []
        return
    with MetricWriter(workdir, done) as writer, Progress(rounds, done) as progress:
        yield [writer.write, progress.update]
