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
        late: Clients that were asked and did not answer in time; the schedule leaves them out.
        virtual_seconds: Duration of the round on the virtual clock; nan without a clock.
        asked: Clients that were sent the server's state, including the late ones.
        after: Arrays for ``engine.After``, the same on every device; ``()`` for nothing.
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
    """The result of each client, in the schedule's order; waits until the round is done."""
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
    """[S] examples that each client trains on, summed over epochs, in the schedule's order."""
    per_step = (plan.rows >= 0).sum(axis=-1)  # [D, T, L]
    totals = np.concatenate([np.zeros_like(per_step[:, :1]), per_step.cumsum(axis=1)], axis=1)
    schedule = plan.schedule
    device, lane = np.divmod(schedule.lane, schedule.lanes)
    last = schedule.first_step + schedule.num_steps
    return totals[device, last, lane] - totals[device, schedule.first_step, lane]
