"""Federated pretraining: from a checked configuration to a trained model."""

import logging
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import numpy.typing as npt

from ufm_jax.bars import progress_bar
from ufm_jax.cluster import hosts
from ufm_jax.config.compatibility import check_personal
from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.config.schema import as_config_errors
from ufm_jax.data.federated import FederatedData
from ufm_jax.data.holdout import describe, load_with_holdout
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.keys import fold
from ufm_jax.objectives.reconstruction import FIELDS, init_params, make_loss
from ufm_jax.runs.checkpoint import export_params
from ufm_jax.runs.folder import check_same_run, lanes_begun_with
from ufm_jax.train.federation import build_placement, describe_federation, fitted
from ufm_jax.train.held_out import judging
from ufm_jax.train.lanes.choose import choose_lanes
from ufm_jax.train.optimizers import make_optimizer
from ufm_jax.train.participation import check_trace
from ufm_jax.train.run import Ended, best_state, train

CLIENT_MODELS = "client_models"
"""The folder of the models of a local run, by the clients' numbers in the order of data.json."""

_log = logging.getLogger(__name__)


def pretrain(config: PretrainConfig, workdir: Path) -> Ended:
    """Trains, from the newest checkpoint in ``workdir`` where there is one.

    Every process of a run calls this, with the same arguments.

    Args:
        config: A checked configuration.
        workdir: Gets the configuration, metrics, checkpoints and the exported model.
    """
    check_trace(config.federation.participation.trace)
    data = load_data(config)
    if config.federation.training == "centralised":
        data = data.together()
    check_same_run(config, data)
    with as_config_errors():
        mesh = build_placement(with_lanes(config, 1).placement).mesh
    hosts.connect(mesh)
    with as_config_errors():
        config = with_lanes(config, resolve_lanes(config, data, workdir))
        federation = federate(config, data)
    params = init_params(config.model, fold(jax.random.key(config.seed), "init"))
    check_personal(config.federation.personal, params)
    judge = judging(config, data, federation)
    ended = train(config, workdir, federation, data, params, FIELDS, judge)
    if config.schedule.patience and not ended.stopped_by:
        ended = ended._replace(state=best_state(ended, workdir, config.checkpoint.keep))
    _export(config, ended, workdir)
    return ended


def _export(config: PretrainConfig, ended: Ended, workdir: Path) -> None:
    """Exports the shared model, or those of the clients where nothing is shared."""
    if config.federation.training != "local":
        export_params(workdir / "model", ended.state.server.params)
        return
    for k in range(ended.data.num_clients):
        params = ended.federation.client_params(ended.state, k)
        export_params(workdir / CLIENT_MODELS / str(k), params)


def load_data(config: PretrainConfig) -> FederatedData:
    """Reads the data, in every process; the first says what it found.

    Raises:
        DataError: If it cannot be used; ConfigError, if another process could not use it.
    """
    share = (jax.process_index(), jax.process_count())
    with (
        hosts.together("reading the data"),
        progress_bar("decoding", shown=hosts.is_first()) as bar,
    ):
        data = load_with_holdout(config.data, bar, share)
    for line in data.issues.summary():
        _log.warning("%s", line)
    if data.held_out is not None:
        _log.info("%s", describe(data))
    elif config.data.holdout_fraction or config.data.holdout_splits:
        _log.warning("%s", describe(data))
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
    return fitted(federation_of(config, data.names, data.offsets), config.placement, data, memory)


def federation_of(
    config: PretrainConfig, names: tuple[str, ...], offsets: npt.ArrayLike
) -> Federation:
    """The federation that ``config`` describes, wherever its images are."""
    batch_size = config.federation.batch_size
    return describe_federation(
        config,
        names,
        offsets,
        make_loss(config.model, config.augment),
        make_optimizer(config.client_optimizer, batch_size),
        make_optimizer(config.server_optimizer, batch_size),
    )
