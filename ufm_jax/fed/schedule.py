"""Ragged clients packed into lanes (host, numpy).

A lane trains one client after another. Clients are packed longest first, each into the lane that is
free earliest (LPT; Graham, "Bounds on Multiprocessing Timing Anomalies", 1969): the makespan is at
most 4/3 of the best one. ``events`` turns a schedule into what the device receives.
"""

import heapq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Schedule:
    """Which client runs in which lane, when. All arrays are [S], one entry for each client.

    Attributes:
        num_devices: D.
        lanes: L, lanes per device.
        client: Client numbers in the population.
        lane: Global lane in 0 .. D * L - 1.
        first_step: The step of its lane at which the client starts.
        num_steps: T_k, its number of local steps.
    """

    num_devices: int
    lanes: int
    client: IntArray
    lane: IntArray
    first_step: IntArray
    num_steps: IntArray

    @property
    def device(self) -> IntArray:
        """[S] the device on which each client trains."""
        return self.lane // self.lanes

    @property
    def place(self) -> IntArray:
        """[S] the place of each client among those of its device."""
        return rank_within(self.device)

    @property
    def makespan(self) -> int:
        """Steps of the longest lane."""
        return int((self.first_step + self.num_steps).max(initial=0))

    @property
    def useful_fraction(self) -> float:
        """Share of the slots (lane x step, up to the makespan) in which a client trains."""
        slots = self.makespan * self.lanes * self.num_devices
        return float(self.num_steps.sum() / slots) if slots else 1.0


def pack(
    client: npt.ArrayLike,
    num_steps: npt.ArrayLike,
    *,
    num_devices: int = 1,
    lanes: int = 1,
    device: npt.ArrayLike | None = None,
) -> Schedule:
    """Packs clients into lanes, longest first.

    The result does not depend on the order in which the cohort is given.

    Args:
        client: [S] client numbers.
        num_steps: [S] local steps of each; at least one.
        num_devices: D.
        lanes: L, lanes per device.
        device: [S] the device to which each client is pinned, since it holds the client's state;
            None lets any device run any client.

    Raises:
        ValueError: If a client has no step, or appears twice.
    """
    clients = np.asarray(client, np.int64)
    steps = np.asarray(num_steps, np.int64)
    if (steps < 1).any():
        raise ValueError(
            f"client {clients[steps < 1][0]} has no local step: leave it out of the cohort"
        )
    if len(np.unique(clients)) != len(clients):
        raise ValueError("a client appears twice in the cohort: sample without replacement")
    pinned = np.zeros_like(clients) if device is None else np.asarray(device, np.int64)
    pools = 1 if device is None else num_devices
    lanes_per_pool = num_devices * lanes // pools
    free = [
        [(0, pool * lanes_per_pool + lane) for lane in range(lanes_per_pool)]
        for pool in range(pools)
    ]

    order = np.lexsort((clients, -steps))
    lane, first = np.empty_like(clients), np.empty_like(clients)
    for i in order:
        pool = free[pinned[i]]
        first[i], lane[i] = pool[0]
        heapq.heapreplace(pool, (int(first[i] + steps[i]), int(lane[i])))
    # Time order, so that the sums on a device do not depend on the cohort's order either.
    order = np.lexsort((lane, first))
    return Schedule(num_devices, lanes, clients[order], lane[order], first[order], steps[order])


def pin(num_steps: npt.ArrayLike, num_devices: int) -> IntArray:
    """[K] the device that holds the state of each client, balanced by their local steps [K]."""
    steps = np.asarray(num_steps, np.int64)
    packed = pack(np.arange(len(steps)), np.maximum(steps, 1), num_devices=num_devices)
    device = np.empty(len(steps), np.int64)
    device[packed.client] = packed.lane
    return device


def rank_within(group: IntArray) -> IntArray:
    """[N] the number of earlier entries in the group of each of N entries; groups count from 0."""
    counts = np.bincount(group)
    rank = np.empty_like(group)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    rank[np.argsort(group, kind="stable")] = np.arange(len(group)) - first
    return rank


class Limits(NamedTuple):
    """Maxima over all cohorts of a run, so that one compilation serves them all.

    Attributes:
        clients: P, the most clients that one device trains in a round.
        steps: T, the most steps of a lane in a round.
    """

    clients: int
    steps: int


def limits(
    num_steps: npt.ArrayLike,
    cohort_size: int,
    *,
    num_devices: int = 1,
    lanes: int = 1,
    device: npt.ArrayLike | None = None,
) -> Limits:
    """The maxima over all cohorts of ``cohort_size`` of these clients.

    A list schedule on G lanes ends at ``sum / G + (1 - 1 / G) max`` at the latest (Graham 1969),
    and the worst cohort holds the longest clients.

    Args:
        num_steps: [K] local steps of every client of the population.
        cohort_size: S, the most clients in a round.
        num_devices: D.
        lanes: L.
        device: [K] pinned devices, or None.
    """
    steps = np.asarray(num_steps, np.int64)
    if device is None:
        pools, pool_lanes = [steps], num_devices * lanes
    else:
        pools, pool_lanes = [steps[np.asarray(device) == d] for d in range(num_devices)], lanes
    most_clients = max(min(cohort_size, len(pool)) for pool in pools)
    bounds = []
    for pool in pools:
        longest = np.sort(pool)[::-1][:cohort_size]
        total, most = int(longest.sum()), int(longest.max(initial=0))
        bounds.append(most + (total - most + pool_lanes - 1) // pool_lanes)
    return Limits(most_clients, max(*bounds, 1))
