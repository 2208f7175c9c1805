"""Judges a model that pretrains, on the images that its clients hold out: on all devices."""

import logging
import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.data.federated import FederatedData
from ufm_jax.errors import ConfigError
from ufm_jax.fed.engine import FederationState
from ufm_jax.fed.federation import Federation
from ufm_jax.objectives.reconstruction import make_held_out_loss
from ufm_jax.train.feature_probe import FeatureProbe, probe_tasks
from ufm_jax.train.image_function import ImageFunction
from ufm_jax.train.judge import Judging

_log = logging.getLogger(__name__)

_MOST_COST = 0.03
"""Share of the training's cost that a look may take, where the configuration leaves it open."""

_FORWARD = 1 / 3
"""A forward pass costs a third of a training step, whose backward pass takes two more."""


def judging(config: PretrainConfig, data: FederatedData, federation: Federation) -> Judging | None:
    """Judges by the loss of the images that are held out; None without any.

    Where clients have parameters of their own, each one's images are judged with these, and those
    of clients that do not train are left out. Probes are then the mean over all clients' encoders.

    Raises:
        ConfigError: If the training shall end by images that nobody holds out.
    """
    held = data.held_out
    own = bool(config.federation.personal_paths)
    if held is not None and own:
        trains = [k for k, name in enumerate(held.names) if name in data.names]
        for name in sorted(set(held.names) - set(data.names)):
            _log.warning("%s: trains nothing, so that no model of its own could be judged", name)
        rows = [np.arange(*held.offsets[k : k + 2]) for k in trains]
        held = held.take(np.concatenate(rows)) if rows else None
    if held is None:
        if config.schedule.patience:
            raise ConfigError(
                f"config.schedule.patience={config.schedule.patience}: no image is held out to "
                "judge by; set config.data.holdout_fraction, or patience=0"
            )
        return None
    most = min(config.evaluation.batch_size, int(held.sizes.max()) if own else held.num_rows)
    losses = ImageFunction(
        make_held_out_loss(config.model),
        held,
        federation.placement,
        most,
        resident=config.placement.data_home == "device",
    )
    rows_of = dict(zip(held.names, pairwise(held.offsets.tolist()), strict=True))
    numbers = {name: k for k, name in enumerate(data.names)}
    rounds, looks = config.federation.rounds, config.evaluation.probe_looks
    tasks = probe_tasks(data) if looks else []
    probe = FeatureProbe(config, data, federation.placement, tasks) if tasks else None

    def probes(done: int) -> bool:
        return probe is not None and (done % math.ceil(rounds / looks) == 0 or done == rounds)

    def look(state: FederationState, done: int) -> Mapping[str, Any]:
        if own:
            by_client = [
                losses(federation.client_params(state, numbers[name]), *rows)
                for name, rows in rows_of.items()
            ]
        else:
            by_client = np.split(losses(state.server.params), held.offsets[1:-1])
        means = [float(found.mean(dtype=np.float64)) for found in by_client]
        figures: dict[str, Any] = {
            "held_out_loss": float(np.average(means, weights=held.sizes)),
            "held_out": dict(zip(held.names, means, strict=True)),
        }
        if probe is not None and probes(done):
            models = (federation.client_params(state, k) for k in range(federation.num_clients))
            figures["probe"] = _mean(map(probe, models if own else (state.server.params,)))
        return figures

    return Judging(
        look,
        "held_out_loss",
        -1,
        config.evaluation.every_rounds or _every(held.num_rows, federation),
        config.schedule.patience,
        saves_best=config.schedule.patience > 0,
        also=probes,
    )


def _mean(probed: Iterable[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The mean of the figures of several encoders."""
    first, *others = probed
    return {
        task: {
            name: float(np.mean([value, *(other[task][name] for other in others)]))
            for name, value in figures.items()
        }
        for task, figures in first.items()
    }


def _every(images: int, federation: Federation) -> int:
    """The fewest rounds between looks at so many images with which they cost little enough."""
    steps = federation.num_steps * federation.batching.batch_size
    seen = np.minimum(steps, federation.sizes * (federation.batching.local_epochs or np.inf))
    a_round = seen.mean() * federation.most_clients
    return max(1, math.ceil(images * _FORWARD / (_MOST_COST * a_round)))
