"""A schedule as a device reads it: the clients of a round, and their handovers (host, numpy).

Clients follow each other in a lane without a pause. At a handover a client ends in a lane and the
next one begins there. Between two handovers all lanes take local steps, and nothing else happens.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ufm_jax.fed.schedule import Limits, Schedule

NOBODY = -1
"""Stands for the client that ends at a lane's first handover, and that begins at its last."""


class Events(NamedTuple):
    """The clients of a round; every array is [D, P]: a device's clients in the order they begin.

    Attributes:
        client: Number in the population (random keys are folded from it).
        slot: The place of this client's state on the device.
        first_step, num_steps: When it trains, in steps of its lane.
        weight: Aggregation weight p_k; zero where a place is unused.
    """

    client: np.ndarray
    slot: np.ndarray
    first_step: np.ndarray
    num_steps: np.ndarray
    weight: np.ndarray


class Segments(NamedTuple):
    """What a device does in a chunk of a round; every array has the leading axis D.

    Segment e runs the steps ``boundary[e] .. boundary[e + 1]`` in all lanes. The handovers
    ``handovers[e] .. handovers[e + 1]`` lie between the segment before and this one. The clients
    that end where a chunk begins are ended by the chunk before.

    Attributes:
        num_segments: [D].
        boundary: [D, P + 2].
        handovers: [D, P + 3].
        lane: [D, P + L] the lane of each handover.
        ends: [D, P + L] the place in ``Events`` of the client that ends, or ``NOBODY``.
        begins: [D, P + L] the place of the client that begins, or ``NOBODY``.
    """

    num_segments: np.ndarray
    boundary: np.ndarray
    handovers: np.ndarray
    lane: np.ndarray
    ends: np.ndarray
    begins: np.ndarray


def events(
    schedule: Schedule, weight: npt.ArrayLike, slot: npt.ArrayLike, limits: Limits
) -> Events:
    """The table of a schedule's clients, padded to ``limits``.

    Args:
        schedule: The packed cohort of S clients.
        weight: [S] aggregation weights, in the schedule's order.
        slot: [S] places of the clients' states on their devices, in the schedule's order.
        limits: The maxima of the run.
    """
    shape = (schedule.num_devices, limits.clients)
    columns = (schedule.client, slot, schedule.first_step, schedule.num_steps, weight)
    dtypes = (np.int32, np.int32, np.int32, np.int32, np.float32)
    out = Events(*(np.zeros(shape, dtype) for dtype in dtypes))
    at = schedule.device, schedule.place
    for table, column in zip(out, columns, strict=True):
        table[at] = column
    return out


def segments(schedule: Schedule, limits: Limits, begin: int, end: int) -> Segments:
    """The table of what happens in the steps ``begin .. end`` of a round, padded to ``limits``."""
    devices, places = schedule.num_devices, limits.clients

    def table(*shape: int) -> np.ndarray:
        return np.zeros((devices, *shape), np.int32)

    most = places + schedule.lanes
    out = Segments(
        table(), table(places + 2), table(places + 3), table(most), table(most), table(most)
    )
    for d in range(devices):
        step, *columns = _handovers(schedule, d)
        inside = (step >= begin) & (step <= end)
        step = step[inside]
        boundary = np.unique(np.concatenate([[begin], step, [end]]))
        out.num_segments[d] = len(boundary) - 1
        out.boundary[d, : len(boundary)] = boundary
        out.handovers[d, 1 : len(boundary) + 1] = np.searchsorted(step, boundary, side="right")
        for values, column in zip(out[3:], columns, strict=True):
            values[d, : len(step)] = column[inside]
    return out


def _handovers(schedule: Schedule, device: int) -> tuple[np.ndarray, ...]:
    """A device's handovers in order: step, lane, place of who ends, place of who begins."""
    mine = np.flatnonzero(schedule.device == device)
    lane, first = schedule.lane[mine] % schedule.lanes, schedule.first_step[mine]
    by_lane = np.lexsort((first, lane))
    follows = lane[by_lane[1:]] == lane[by_lane[:-1]]
    before = np.full(len(mine), NOBODY)
    before[by_lane[1:][follows]] = by_lane[:-1][follows]
    last = by_lane[np.append(~follows, True)] if len(mine) else by_lane
    step = np.concatenate([first, first[last] + schedule.num_steps[mine[last]]])
    ends = np.concatenate([before, last])
    begins = np.concatenate([np.arange(len(mine)), np.full(len(last), NOBODY)])
    order = np.lexsort((ends, step))
    return step[order], np.concatenate([lane, lane[last]])[order], ends[order], begins[order]
