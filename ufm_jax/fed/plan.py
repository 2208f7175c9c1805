"""A round as the host decides it, and what it reports of each client."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from ufm_jax.fed.engine import RoundMetrics
from ufm_jax.fed.events import Events
from ufm_jax.fed.schedule import IntArray, Schedule


@dataclass(frozen=True)
class HostPlan:
    """A round as the host decides it.

    Attributes:
        round_index: The round.
        schedule: Who trains where and when.
        events: Its clients as the devices read them.
        rows: int32 [D, T, L, B] rows of the federation's examples, -1 where empty.
        late: Clients that were asked and did not answer in time: they are not in the schedule.
        virtual_seconds: What the round takes on the virtual clock; nan without one.
        asked: Clients that were sent the server's state, the late among them.
        after: What is done when its clients have ended, besides the server's update: arrays for
            every device; ``()`` for nothing.
    """

    round_index: int
    schedule: Schedule
    events: Events
    rows: npt.NDArray[np.int32]
    late: IntArray
    virtual_seconds: float
    asked: IntArray
    after: Any = ()


@dataclass(frozen=True)
class ClientResult:
    """What a round reports of one client."""

    client: int
    loss: float
    examples: int
    steps: int
    update_norm: float
    finite: bool
    lane: int
    first_step: int


def client_results(plan: HostPlan, metrics: RoundMetrics) -> list[ClientResult]:
    """Reads a round's metrics (this waits for the round), one entry a client."""
    values: Any = jax.device_get(metrics.clients)
    schedule = plan.schedule
    examples = _examples_seen(plan)
    return [
        ClientResult(
            client=int(schedule.client[i]),
            loss=float(values.loss[d, p]),
            examples=int(examples[i]),
            steps=int(schedule.num_steps[i]),
            update_norm=float(values.update_norm[d, p]),
            finite=bool(values.finite[d, p]),
            lane=int(schedule.lane[i]),
            first_step=int(schedule.first_step[i]),
        )
        for i, (d, p) in enumerate(zip(schedule.device, schedule.place, strict=True))
    ]


def _examples_seen(plan: HostPlan) -> IntArray:
    """[S] examples that each client trains on, epochs counted, in the schedule's order."""
    per_step = (plan.rows >= 0).sum(axis=-1)  # [D, T, L]
    totals = np.concatenate([np.zeros_like(per_step[:, :1]), per_step.cumsum(axis=1)], axis=1)
    schedule = plan.schedule
    device, lane = np.divmod(schedule.lane, schedule.lanes)
    last = schedule.first_step + schedule.num_steps
    return totals[device, last, lane] - totals[device, schedule.first_step, lane]
