"""Judges a model that pretrains, on the images that its clients hold out: on all devices."""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.data.federated import FederatedData
from ufm_jax.errors import ConfigError
from ufm_jax.fed.algorithm import Params, Tree
from ufm_jax.fed.engine import FederationState
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import Placement
from ufm_jax.objectives.reconstruction import make_held_out_loss
from ufm_jax.train.judge import Judging

_FIELDS = ("image", "extent")

_MOST_COST = 0.03
"""Share of the training's cost that a look may take, where the configuration leaves it open."""

_FORWARD = 1 / 3
"""A forward pass costs a third of a training step, whose backward pass takes two more."""


class Losses:
    """The loss of each image of some data, by one program on all devices.

    Where images live in device memory these do too, cut over the devices.
    """

    def __init__(
        self,
        loss_fn: Callable[[Params, Tree], jax.Array],
        data: FederatedData,
        placement: Placement,
        batch_size: int,
        resident: bool,
    ) -> None:
        """Compiles nothing yet.

        Args:
            loss_fn: ``(params, batch) -> losses [B]``.
            data: The images, R in all.
            placement: The devices.
            batch_size: Images at once; it is made a multiple of the devices.
            resident: Whether batches stay on the devices once they are there.
        """
        mesh = placement.mesh
        self._data, self._placement, self._resident = data, placement, resident
        self._size = math.ceil(batch_size / mesh.size) * mesh.size
        self._split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._losses = jax.jit(loss_fn, out_shardings=placement.replicated)
        self._held: dict[int, Tree] = {}

    @property
    def compilations(self) -> int:
        """How often the program was compiled so far."""
        return self._losses._cache_size()  # type: ignore[attr-defined]

    def __call__(self, params: Params, begin: int = 0, end: int | None = None) -> np.ndarray:
        """The losses of rows ``begin`` to ``end``, float32 [end - begin]."""
        end = self._data.num_rows if end is None else end
        # All batches are on their way before the first result is waited for.
        found = [self._losses(params, batch) for batch in self._batches(begin, end)]
        return np.concatenate(jax.device_get(found))[: end - begin]

    def _batches(self, begin: int, end: int) -> Iterator[Tree]:
        for first in range(begin, end, self._size):
            batch = self._held.get(first)
            if batch is None:
                # The last row fills up the last batch, so that one shape serves all.
                rows = self._data.store.read(
                    np.minimum(np.arange(first, first + self._size), end - 1)
                )
                batch = self._placement.put({name: rows[name] for name in _FIELDS}, self._split)
            if self._resident:
                self._held[first] = batch
            yield batch


def judging(config: PretrainConfig, data: FederatedData, federation: Federation) -> Judging | None:
    """Judges by the loss of the images that are held out; None without any.

    Where clients have parameters of their own, each one's images are judged with these, and those
    of clients that do not train are left out.

    Raises:
        ConfigError: If the training shall end by images that nobody holds out.
    """
    held = data.held_out
    own = bool(config.federation.personal_paths)
    if held is not None and own:
        trains = [k for k, name in enumerate(held.names) if name in data.names]
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
    losses = Losses(
        make_held_out_loss(config.model),
        held,
        federation.placement,
        most,
        resident=config.placement.data_home == "device",
    )
    rows_of = dict(zip(held.names, pairwise(held.offsets.tolist()), strict=True))
    numbers = {name: k for k, name in enumerate(data.names)}

    def look(state: FederationState) -> Mapping[str, Any]:
        if own:
            by_client = [
                losses(federation.client_params(state, numbers[name]), *rows)
                for name, rows in rows_of.items()
            ]
        else:
            by_client = np.split(losses(state.server.params), held.offsets[1:-1])
        means = [float(found.mean(dtype=np.float64)) for found in by_client]
        return {
            "held_out_loss": float(np.average(means, weights=held.sizes)),
            "held_out": dict(zip(held.names, means, strict=True)),
        }

    return Judging(
        look,
        "held_out_loss",
        -1,
        config.evaluation.every_rounds or _every(held.num_rows, federation),
        config.schedule.patience,
        saves_best=config.schedule.patience > 0,
    )


def _every(images: int, federation: Federation) -> int:
    """The fewest rounds between looks at so many images with which they cost little enough."""
    steps = federation.num_steps * federation.batching.batch_size
    seen = np.minimum(steps, federation.sizes * (federation.batching.local_epochs or np.inf))
    a_round = seen.mean() * federation.most_clients
    return max(1, math.ceil(images * _FORWARD / (_MOST_COST * a_round)))
