"""A run of training in rounds: what pretraining and fine-tuning have in common."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ufm_jax.cluster import hosts
from ufm_jax.cluster.hosts import stop_signal
from ufm_jax.config.schema import as_config_errors
from ufm_jax.config.training import TrainingConfig
from ufm_jax.data.federated import FederatedData
from ufm_jax.fed.algorithm import Params
from ufm_jax.fed.engine import FederationState
from ufm_jax.fed.federation import Federation
from ufm_jax.runs.folder import claim
from ufm_jax.runs.history import MetricWriter
from ufm_jax.runs.noise_key import noise_words
from ufm_jax.runs.resume import Point, RunCheckpoints
from ufm_jax.runs.tracking import trackers
from ufm_jax.train.feed import Feed
from ufm_jax.train.judge import Judge, Judging
from ufm_jax.train.optimizers import lr_factor
from ufm_jax.train.privacy_ledger import begin_spending
from ufm_jax.train.progress import Progress
from ufm_jax.train.recorder import Recorder, Sinks
from ufm_jax.train.rounds import Saving, run_rounds

_log = logging.getLogger(__name__)


class Ended(NamedTuple):
    """How training ended.

    Attributes:
        federation: What was trained.
        data: On what.
        state: Its state at the end.
        rounds_done: Rounds that the last checkpoint holds.
        stopped_by: The signal that ended it early; 0 where it ran to the end.
        promise: What may be said of its privacy; '' where it makes none.
        best: The rounds done when the judge found the model best; all where nothing judged it.
    """

    federation: Federation
    data: FederatedData
    state: FederationState
    rounds_done: int
    stopped_by: int
    promise: str
    best: int


def stopped_line(rounds_done: int) -> str:
    """What a command says that a signal ended."""
    return f"stopped with {rounds_done} rounds done; the same command goes on from there"


def train(
    config: TrainingConfig,
    workdir: Path,
    federation: Federation,
    data: FederatedData,
    params: Params,
    fields: tuple[str, ...],
    judging: Judging | None = None,
) -> Ended:
    """Trains, from the newest checkpoint in ``workdir`` where there is one.

    Every process of a run calls this, with the same arguments.

    Args:
        config: A checked configuration.
        workdir: Gets the configuration, metrics and checkpoints.
        federation: What ``config`` describes over ``data``.
        data: The clients' images.
        params: Parameters to begin with.
        fields: What the loss takes of each stored row.
        judging: How the model is judged while it trains; None for not at all.

    Raises:
        ConfigError: If ``workdir`` holds another run, or the privacy budget allows no round.
    """
    claim(workdir, config, data, federation.placement)
    traffic = federation.traffic(params)
    with as_config_errors():
        state = federation.init(params)
    rounds, mesh = config.federation.rounds, federation.placement.mesh
    with RunCheckpoints(workdir, config.checkpoint.keep) as checkpoints, stop_signal(mesh) as stop:
        point = _resume(checkpoints, state, rounds)
        noise = noise_words(config.federation.privacy, workdir, begun=point.begun)
        federation = replace(federation, noise=noise)
        spending, rounds = begin_spending(config.federation, federation, point.done, point.ledger)
        judge = Judge(judging, workdir) if judging else None
        if judge is not None:
            judge.begin(point.done, rounds)
        with _sinks(config, workdir, point.done, rounds, data.names) as sinks:
            factor = lr_factor(config.schedule, config.federation.rounds)
            recorder = Recorder(federation, data.names, factor, traffic, sinks)
            feed = Feed(config.placement, data, federation, fields)
            saving = Saving(checkpoints, config.checkpoint, rounds)
            point = run_rounds(feed, recorder, saving, stop, point, judge, spending)
    _log.info(
        "the round was compiled %d time(s) for %d rounds", federation.compilations, point.done
    )
    promise = spending.write(workdir, data.names) if spending else ""
    best = judge.best.rounds if judge and judge.best else point.done
    return Ended(federation, data, point.state, point.done, stop.stopped_by, promise, best)


def best_state(ended: Ended, workdir: Path, keep: int) -> FederationState:
    """The state that the judge of a run found best, from its checkpoint."""
    if ended.best == ended.rounds_done:
        return ended.state
    with RunCheckpoints(workdir, keep) as checkpoints:
        return checkpoints.restore(ended.best, ended.state)


def _resume(checkpoints: RunCheckpoints, state: FederationState, rounds: int) -> Point:
    """Where to go on: at the newest whole checkpoint, or where ``state`` is the first."""
    point = checkpoints.newest(state)
    if point.begun:
        inside = f", at step {point.step} of the next" if point.step else ""
        _log.warning("resumed after %d of %d rounds%s", point.done, rounds, inside)
    return point


@contextmanager
def _sinks(
    config: TrainingConfig, workdir: Path, done: int, rounds: int, names: Sequence[str]
) -> Iterator[Sinks]:
    """What takes the metrics of rounds from ``done`` on: nothing, but in the first process."""
    if not hosts.is_first():
        yield Sinks((), lambda done, share: None)
        return
    with (
        MetricWriter(workdir, done) as writer,
        trackers(config, workdir, done, names) as tracked,
        Progress(rounds, done) as progress,
    ):
        yield Sinks((writer.write, *tracked, progress.update), progress.advance)
