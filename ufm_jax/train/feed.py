"""Brings each round's plan and images to the devices, from whichever home the images live in."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from ufm_jax.config.training import PlacementConfig
from ufm_jax.data.cache.homes import Home, make_home
from ufm_jax.data.federated import FederatedData
from ufm_jax.fed.algorithm import Tree
from ufm_jax.fed.batches import EMPTY
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import Placement
from ufm_jax.fed.plan import HostPlan


class Chunk(NamedTuple):
    """What a chunk of a round needs; a round may be one.

    Attributes:
        examples: The images, on the devices.
        plan: Who trains where, when and on what.
        begin: The chunk's first step.
        rows: The chunk's rows as numbers inside ``examples``.
    """

    examples: Tree
    plan: HostPlan
    begin: int
    rows: np.ndarray


class Feed:
    """Plans rounds one ahead, and has the images of their chunks ready.

    With the images in device memory nothing of them is sent after the start. Otherwise the rows of
    the next chunk are gathered while this one trains, and each device gets only its own. In a run
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
            federation: Its lanes and limits decide how much a chunk may need.
            fields: What the objective reads of a row.
        """
        self.federation, self._fields = federation, fields
        self._mine = _own_groups(federation.placement)
        self._plan: HostPlan | None = None
        self._home: Home | None = None
        self._capacity = images_at_once(federation, placement.data_home)
        if placement.data_home == "device":
            self._resident, self._place = self._settle(data)
            return
        self._home = make_home(
            placement.data_home,
            data.store,
            capacity=self._capacity,
            num_shards=len(self._mine),
            num_threads=placement.loader_threads,
            rows=self._own_rows(),
        )

    def prepare(self, round_index: int, begin: int = 0) -> None:
        """Plans a round, and starts gathering the images of a chunk in the background."""
        plan = self._planned(round_index)
        if self._home is not None:
            rows = self.federation.rows(plan, begin)
            self._home.prefetch(_by_device(rows[self._mine]))

    def take(self, round_index: int, begin: int = 0) -> Chunk:
        """The input of the chunk that begins at a step of a round; quick if it was prepared."""
        plan = self._planned(round_index)
        rows = self.federation.rows(plan, begin)
        if self._home is None:
            return Chunk(self._resident, plan, begin, np.where(rows < 0, rows, self._place[rows]))
        loaded = self._home.round(_by_device(rows[self._mine]))
        # The rows of other processes' devices are not read here.
        local = np.full_like(rows, EMPTY)
        local[self._mine] = loaded.local_rows.reshape(rows[self._mine].shape)
        return Chunk(self._spread(self._chosen(loaded.examples)), plan, begin, local)

    def following(self, chunk: Chunk) -> tuple[int, int]:
        """The round and the first step of the chunk after one."""
        if self.federation.is_last(chunk.plan, chunk.begin):
            return chunk.plan.round_index + 1, 0
        return chunk.plan.round_index, chunk.begin + self.federation.steps_at_once

    def _planned(self, round_index: int) -> HostPlan:
        if self._plan is None or self._plan.round_index != round_index:
            self._plan = self.federation.plan(round_index)
        return self._plan

    def _settle(self, data: FederatedData) -> tuple[Tree, np.ndarray]:
        """Puts all images on the devices to stay; also the place of each row there, int32 [R].

        Where clients are pinned to devices, each device gets its own clients' images alone.
        """
        homes = _row_homes(self.federation)
        place = np.arange(data.num_rows, dtype=np.int32)
        if homes is None:
            return self.federation.replicate(self._chosen(data.store.read(place))), place
        own = np.full((len(self._mine), self._capacity), EMPTY)
        for shard, group in zip(own, self._mine, strict=True):
            rows = np.flatnonzero(homes == group)
            shard[: len(rows)] = rows
        for group in range(self.federation.placement.num_devices):
            rows = np.flatnonzero(homes == group)
            place[rows] = np.arange(len(rows))
        home = Home(data.store.read, self._capacity, len(self._mine))
        loaded = home.round(own)
        home.close()
        return self._spread(self._chosen(loaded.examples)), place

    def _chosen(self, rows: Mapping[str, np.ndarray]) -> Tree:
        return {name: rows[name] for name in self._fields}

    def _own_rows(self) -> np.ndarray | None:
        """Rows that this process's devices may ever need; None for all.

        Clients that keep a state train on its device; others train on any.
        """
        homes = _row_homes(self.federation)
        return None if homes is None else np.flatnonzero(np.isin(homes, self._mine))

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


def images_at_once(federation: Federation, data_home: str) -> int:
    """Images that a device is sent at once: of a chunk, or all that it will ever need."""
    if data_home == "device":
        homes = _row_homes(federation)
        return int(federation.sizes.sum() if homes is None else np.bincount(homes).max())
    slots = federation.steps_at_once * federation.placement.lanes * federation.batching.capacity
    return min(slots, int(federation.sizes.sum()))


def _row_homes(federation: Federation) -> np.ndarray | None:
    """[R] the device on which the client of each row trains; None where any may train it."""
    home = federation.home_device
    return None if home is None else np.repeat(home, federation.sizes)


def _own_groups(placement: Placement) -> np.ndarray:
    """Numbers of the groups of devices of which this process has at least one."""
    process = np.array([[d.process_index for d in group] for group in placement.mesh.devices])
    return np.flatnonzero((process == jax.process_index()).any(axis=1))


def _by_device(rows: np.ndarray) -> np.ndarray:
    """[D, C, L, B] -> [D, C * L, B]."""
    return rows.reshape(len(rows), -1, rows.shape[-1])
