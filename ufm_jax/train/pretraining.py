"""Federated pretraining: from a checked configuration to a trained model and its report."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ufm_jax.cluster import hosts
from ufm_jax.cluster.hosts import stop_signal
from ufm_jax.config.compatibility import check_personal
from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.config.schema import as_config_errors
from ufm_jax.data.federated import FederatedData, load_federated
from ufm_jax.fed.engine import FederationState
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.keys import fold
from ufm_jax.objectives.reconstruction import FIELDS, init_params, make_loss
from ufm_jax.runs.checkpoint import export_params
from ufm_jax.runs.folder import check_same_run, claim, lanes_begun_with
from ufm_jax.runs.noise_key import noise_words
from ufm_jax.runs.resume import RunCheckpoints
from ufm_jax.train.algorithm import Optimizers
from ufm_jax.train.federation import build_federation, build_placement
from ufm_jax.train.feed import Feed
from ufm_jax.train.lanes.choose import choose_lanes
from ufm_jax.train.optimizers import make_optimizer, warmup_cosine
from ufm_jax.train.participation import check_trace
from ufm_jax.train.progress import decoding
from ufm_jax.train.recorder import Recorder
from ufm_jax.train.rounds import Saving, begin_spending, record_sinks, resume, run_rounds

_log = logging.getLogger(__name__)


class Finished(NamedTuple):
    """How a run ended.

    Attributes:
        federation: What was trained.
        data: On what.
        state: Its state at the end.
        rounds_done: Rounds that the last checkpoint holds.
        stopped_by: The signal that ended it early; 0 where it ran to the end.
        promise: What may be said of its privacy; '' where it makes none.
    """

    federation: Federation
    data: FederatedData
    state: FederationState
    rounds_done: int
    stopped_by: int
    promise: str


def pretrain(config: PretrainConfig, workdir: Path) -> Finished:
    """Trains, from the newest checkpoint in ``workdir`` where there is one.

    Every process of a run calls this, with the same arguments.

    Args:
        config: A checked configuration.
        workdir: Gets the configuration, metrics, checkpoints and the exported model.
    """
    check_trace(config.federation.participation.trace)
    data = load_data(config)
    check_same_run(config, data)
    with as_config_errors():
        mesh = build_placement(with_lanes(config, 1).placement).mesh
    hosts.connect(mesh)
    with as_config_errors():
        config = with_lanes(config, resolve_lanes(config, data, workdir))
        federation = federate(config, data)
    claim(workdir, config, data, federation.placement)
    params = init_params(config.model, fold(jax.random.key(config.seed), "init"))
    check_personal(config.federation.personal, params)
    state = federation.init(params)
    traffic = federation.traffic(state.server.params)
    rounds = config.federation.rounds

    with RunCheckpoints(workdir, config.checkpoint.keep) as checkpoints, stop_signal(mesh) as stop:
        point = resume(checkpoints, state, rounds)
        noise = noise_words(config.federation.privacy, workdir, begun=point.begun)
        federation = replace(federation, noise=noise)
        spending, rounds = begin_spending(config.federation, federation, point.done, point.ledger)
        with record_sinks(workdir, point.done, rounds) as sinks:
            recorder = Recorder(federation, data.names, lr_factor(config), traffic, sinks)
            feed = Feed(config.placement, data, federation, FIELDS)
            saving = Saving(checkpoints, config.checkpoint, rounds)
            point = run_rounds(feed, recorder, saving, stop, point, spending=spending)
    count = federation.compilations
    _log.info("the round was compiled %d time(s) for %d rounds", count, point.done)
    export_params(workdir / "model", point.state.server.params)
    promise = spending.write(workdir, data.names) if spending else ""
    return Finished(federation, data, point.state, point.done, stop.stopped_by, promise)


def load_data(config: PretrainConfig) -> FederatedData:
    """Reads the data, in every process; the first says what it found.

    Raises:
        DataError: If it cannot be used; ConfigError, if another process could not use it.
    """
    share = (jax.process_index(), jax.process_count())
    with hosts.together("reading the data"), decoding(shown=hosts.is_first()) as bar:
        data = load_federated(config.data, bar, share)
    for line in data.issues.summary():
        _log.warning("%s", line)
    return data


def resolve_lanes(config: PretrainConfig, data: FederatedData, workdir: Path) -> int:
    """The lanes of each device: as configured, or as the run began, or as measured.

    Raises:
        ConfigError: If they are to be measured, and not even one fits the memory.
    """
    if config.placement.lanes:
        return config.placement.lanes
    begun = hosts.from_first(lanes_begun_with(workdir) or 0)
    if begun:
        _log.info("placement.lanes=0: the run in %s began with %d and goes on so", workdir, begun)
        return begun
    federation = federate(with_lanes(config, 1), data)
    params = init_params(config.model, fold(jax.random.key(config.seed), "init"))
    row = data.store.read(np.arange(1))
    return choose_lanes(config, federation, params, {name: row[name] for name in FIELDS})


def with_lanes(config: PretrainConfig, lanes: int) -> PretrainConfig:
    """``config`` with another number of lanes."""
    return replace(config, placement=replace(config.placement, lanes=lanes))


def federate(
    config: PretrainConfig, data: FederatedData, memory: float | None = None
) -> Federation:
    """The federation that ``config`` describes over ``data``; see ``build_federation``."""
    batch_size = config.federation.batch_size
    return build_federation(
        config.federation,
        config.placement,
        data,
        make_loss(config.model, config.augment),
        Optimizers(
            make_optimizer(config.client_optimizer, batch_size),
            make_optimizer(config.server_optimizer, batch_size),
            config.client_optimizer,
            config.server_optimizer,
            lr_factor(config),
        ),
        personal=config.federation.personal,
        seed=config.seed,
        memory=memory,
    )


def lr_factor(config: PretrainConfig) -> Callable[[jax.Array], jax.Array]:
    """The learning-rate factor as a function of the progress in rounds."""
    schedule = config.schedule
    return warmup_cosine(config.federation.rounds, schedule.warmup_rounds, schedule.min_factor)
