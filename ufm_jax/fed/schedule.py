"""Ragged clients packed into lanes (host, numpy).

A lane trains one client after another. Clients are packed longest first, each into the lane that is
free earliest (LPT; Graham, "Bounds on Multiprocessing Timing Anomalies", 1969): the makespan is at
most 4/3 of the best one. What the device receives is an event table: the steps at which clients
start and end. Between two events every lane just steps.
"""

import heapq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Schedule:
    """Which client runs in which lane, when. All arrays are [S], one entry a cohort client.

    Attributes:
        num_devices: D.
        lanes: L, lanes per device.
        client: Client numbers in the population.
        lane: Global lane in 0 .. D * L - 1; device ``lane // L``.
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
    def makespan(self) -> int:
        """Steps of the longest lane."""
        return int((self.first_step + self.num_steps).max(initial=0))

    @property
    def useful_fraction(self) -> float:
        """Share of slots (lane x step, up to the makespan) in which a client trains."""
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
        device: [S] the device to which each client is pinned (its state lives there), or None to
            let any device run any client.

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
    """Assigns every client of the population to the device that holds its state, balanced by steps.

    Args:
        num_steps: [K] local steps a round of each client.
        num_devices: D.

    Returns:
        [K] device of each client.
    """
    steps = np.asarray(num_steps, np.int64)
    packed = pack(np.arange(len(steps)), np.maximum(steps, 1), num_devices=num_devices)
    device = np.empty(len(steps), np.int64)
    device[packed.client] = packed.lane
    return device


class Limits(NamedTuple):
    """Sizes that hold for every cohort of a run, so that one compilation serves them all.

    Attributes:
        clients: P, the most clients that one device trains in a round.
        steps: T, the most steps of a lane.
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
    """Bounds any cohort of ``cohort_size`` of these clients can need.

    A list schedule on G lanes ends at most at ``sum / G + (1 - 1 / G) max`` (Graham 1969); the
    worst cohort holds the longest clients.

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


class Events(NamedTuple):
    """The schedule as the device reads it; every array has the leading axis D.

    A device's clients are listed in the order in which they start. Segment e runs the steps
    ``boundary[e] .. boundary[e + 1]``; before it, the clients ``starts[e] .. starts[e + 1]`` start;
    after it, the clients ``end_order[ends[e] .. ends[e + 1]]`` end.

    Attributes:
        num_segments: [D].
        boundary, starts, ends: [D, P + 1].
        end_order: [D, P] the clients in the order in which they end.
        client: [D, P] number in the population (random keys are folded from it).
        slot: [D, P] where the device keeps this client's state.
        lane: [D, P] lane of the device.
        first_step, num_steps: [D, P].
        weight: [D, P] aggregation weight p_k; zero where unused.
    """

    num_segments: np.ndarray
    boundary: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    end_order: np.ndarray
    client: np.ndarray
    slot: np.ndarray
    lane: np.ndarray
    first_step: np.ndarray
    num_steps: np.ndarray
    weight: np.ndarray


def events(
    schedule: Schedule, weight: npt.ArrayLike, slot: npt.ArrayLike, limits: Limits
) -> Events:
    """Builds the event table of a schedule, padded to ``limits``.

    Args:
        schedule: The packed cohort of S clients.
        weight: [S] aggregation weights, in the schedule's order.
        slot: [S] state slots on the client's device, in the schedule's order.
        limits: Sizes that every round of the run shares.
    """
    devices, most = schedule.num_devices, limits.clients

    def table(*shape: int) -> np.ndarray:
        return np.zeros((devices, *shape), np.int32)

    out = Events(
        num_segments=table(),
        boundary=table(most + 1),
        starts=table(most + 1),
        ends=table(most + 1),
        end_order=table(most),
        client=table(most),
        slot=table(most),
        lane=table(most),
        first_step=table(most),
        num_steps=table(most),
        weight=np.zeros((devices, most), np.float32),
    )
    weights, slots = np.asarray(weight, np.float32), np.asarray(slot)
    end_step = schedule.first_step + schedule.num_steps
    for d in range(devices):
        mine = np.flatnonzero(schedule.lane // schedule.lanes == d)
        first, end = schedule.first_step[mine], end_step[mine]
        # A client starts at 0 or where another one ends, so the ends and 0 are all the events.
        boundary = np.unique(np.concatenate([np.zeros(1, np.int64), end]))
        segments, count = len(boundary) - 1, len(mine)
        end_order = np.argsort(end, kind="stable")
        out.num_segments[d] = segments
        out.boundary[d, : segments + 1] = boundary
        out.starts[d, : segments + 1] = np.searchsorted(first, boundary)
        out.ends[d, : segments + 1] = np.searchsorted(end[end_order], boundary, side="right")
        out.end_order[d, :count] = end_order
        out.client[d, :count] = schedule.client[mine]
        out.slot[d, :count] = slots[mine]
        out.lane[d, :count] = schedule.lane[mine] % schedule.lanes
        out.first_step[d, :count] = first
        out.num_steps[d, :count] = schedule.num_steps[mine]
        out.weight[d, :count] = weights[mine]
    return out
