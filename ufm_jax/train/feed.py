"""Brings each round's plan and images to the devices, from whichever home the images live in."""

from typing import NamedTuple

import jax
import numpy as np

from ufm_jax.data.federated import FederatedData
from ufm_jax.data.homes import Home, make_home
from ufm_jax.fed.algorithm import Tree
from ufm_jax.fed.federation import Federation, HostPlan
from ufm_jax.train.config import PlacementConfig

FIELDS = ("image", "extent", "geometry")
"""What the objective reads of a row."""


class RoundInput(NamedTuple):
    """What a round needs.

    Attributes:
        plan: Who trains where, when and on what.
        examples: The images, on the devices.
        rows: The plan's rows as numbers inside ``examples``.
    """

    plan: HostPlan
    examples: Tree
    rows: np.ndarray


class Feed:
    """Plans rounds one ahead, and has their images ready.

    With the images in device memory nothing of them is sent after the start. Otherwise the rows of
    the next round are gathered while this one trains, and each device gets only its own.
    """

    def __init__(
        self, placement: PlacementConfig, data: FederatedData, federation: Federation
    ) -> None:
        """Opens the home of the images.

        Args:
            placement: ``data_home`` and the number of loader threads.
            data: The images.
            federation: Its lanes and limits decide how much a round may need.
        """
        self._federation = federation
        self._planned: HostPlan | None = None
        self._home: Home | None = None
        if placement.data_home == "device":
            everything = data.store.read(np.arange(data.num_rows))
            self._resident = federation.replicate(_fields(everything))
            return
        slots = federation.limits.steps * federation.placement.lanes
        self._home = make_home(
            placement.data_home,
            data.store,
            capacity=min(slots * federation.batching.batch_size, data.num_rows),
            num_shards=federation.placement.num_devices,
            num_threads=placement.loader_threads,
        )

    def prepare(self, round_index: int) -> None:
        """Plans a round, and starts gathering its images in the background."""
        self._planned = self._federation.plan(round_index)
        if self._home is not None:
            self._home.prefetch(_by_device(self._planned.rows))

    def take(self, round_index: int) -> RoundInput:
        """The input of a round; quick if it was prepared."""
        if self._planned is None or self._planned.round_index != round_index:
            self.prepare(round_index)
        plan = self._planned
        assert plan is not None
        if self._home is None:
            return RoundInput(plan, self._resident, plan.rows)
        loaded = self._home.round(_by_device(plan.rows))
        examples = jax.device_put(_fields(loaded.examples), self._federation.placement.sharded)
        return RoundInput(plan, examples, loaded.local_rows.reshape(plan.rows.shape))

    def close(self) -> None:
        """Ends the background work."""
        if self._home is not None:
            self._home.close()


def _fields(rows: dict[str, np.ndarray]) -> Tree:
    return {name: rows[name] for name in FIELDS}


def _by_device(rows: np.ndarray) -> np.ndarray:
    """[D, T, L, B] -> [D, T * L, B]."""
    return rows.reshape(len(rows), -1, rows.shape[-1])
