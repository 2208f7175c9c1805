"""Brings each round's plan and images to the devices, from whichever home the images live in."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from ufm_jax.data.federated import FederatedData
from ufm_jax.data.homes import Home, make_home
from ufm_jax.fed.algorithm import Tree
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import Placement
from ufm_jax.fed.plan import HostPlan
from ufm_jax.train.config import PlacementConfig


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
    the next round are gathered while this one trains, and each device gets only its own. In a run
    of several processes each gathers for its own devices alone.
    """

    def __init__(
        self,
        placement: PlacementConfig,
        data: FederatedData,
        federation: Federation,
        fields: tuple[str, ...],
    ) -> None:
        """Opens the home of the images.

        Args:
            placement: ``data_home`` and the number of loader threads.
            data: The images.
            federation: Its lanes and limits decide how much a round may need.
            fields: What the objective reads of a row.
        """
        self.federation, self._fields = federation, fields
        self._mine = _own_groups(federation.placement)
        self._planned: HostPlan | None = None
        self._home: Home | None = None
        if placement.data_home == "device":
            everything = data.store.read(np.arange(data.num_rows))
            self._resident = federation.replicate(self._chosen(everything))
            return
        slots = federation.limits.steps * federation.placement.lanes
        self._capacity = min(slots * federation.batching.capacity, data.num_rows)
        self._home = make_home(
            placement.data_home,
            data.store,
            capacity=self._capacity,
            num_shards=len(self._mine),
            num_threads=placement.loader_threads,
            rows=self._own_rows(),
        )

    def prepare(self, round_index: int) -> None:
        """Plans a round, and starts gathering its images in the background."""
        self._planned = self.federation.plan(round_index)
        if self._home is not None:
            self._home.prefetch(_by_device(self._planned.rows[self._mine]))

    def take(self, round_index: int) -> RoundInput:
        """The input of a round; quick if it was prepared."""
        if self._planned is None or self._planned.round_index != round_index:
            self.prepare(round_index)
        plan = self._planned
        assert plan is not None
        if self._home is None:
            return RoundInput(plan, self._resident, plan.rows)
        own = plan.rows[self._mine]
        loaded = self._home.round(_by_device(own))
        # The rows of other processes' devices are not read here.
        rows = np.full_like(plan.rows, -1)
        rows[self._mine] = loaded.local_rows.reshape(own.shape)
        return RoundInput(plan, self._spread(self._chosen(loaded.examples)), rows)

    def _chosen(self, rows: Mapping[str, np.ndarray]) -> Tree:
        return {name: rows[name] for name in self._fields}

    def _own_rows(self) -> np.ndarray | None:
        """Rows that this process's devices may ever need; None for all.

        Clients that keep a state train on its device; others train on any.
        """
        home = self.federation.home_device
        if home is None:
            return None
        offsets = np.asarray(self.federation.offsets)
        clients = np.flatnonzero(np.isin(home, self._mine))
        return np.concatenate([np.arange(offsets[k], offsets[k + 1]) for k in clients])

    def _spread(self, own: Tree) -> Tree:
        """Puts this process's images [groups * capacity, ...] on its devices."""
        placement = self.federation.placement
        if placement.sharded.is_fully_addressable:
            return jax.device_put(own, placement.sharded)
        place = {group: i for i, group in enumerate(self._mine.tolist())}

        def spread(leaf: np.ndarray) -> jax.Array:
            def part(index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None
                begin = place[(index[0].start or 0) // self._capacity] * self._capacity
                return leaf[begin : begin + self._capacity]

            shape = (placement.num_devices * self._capacity, *leaf.shape[1:])
            return jax.make_array_from_callback(shape, placement.sharded, part)

        return jax.tree.map(spread, own)

    def close(self) -> None:
        """Ends the background work."""
        if self._home is not None:
            self._home.close()


def _own_groups(placement: Placement) -> np.ndarray:
    """Numbers of the groups of devices of which this process has at least one."""
    process = np.array([[d.process_index for d in group] for group in placement.mesh.devices])
    return np.flatnonzero((process == jax.process_index()).any(axis=1))


def _by_device(rows: np.ndarray) -> np.ndarray:
    """[D, T, L, B] -> [D, T * L, B]."""
    return rows.reshape(len(rows), -1, rows.shape[-1])
