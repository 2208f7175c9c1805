"""A federation without rounds: its plan is a wave of the timeline."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from ufm_jax.fed.algorithm import Algorithm, Params
from ufm_jax.fed.asynchronous.algorithm import (
    Arrivals,
    Asynchronous,
    in_slots,
    take_arrivals,
)
from ufm_jax.fed.asynchronous.timeline import Timeline, Wave
from ufm_jax.fed.engine import After, FederationState
from ufm_jax.fed.events import events
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.plan import HostPlan
from ufm_jax.fed.schedule import IntArray, Limits, limits


@dataclass(frozen=True, kw_only=True)
class AsyncFederation(Federation):
    """A population of clients that come and go.

    ``algorithm`` is FedAvg whose clients keep no state, with the server optimiser. ``plan(r)`` is
    wave r: the clients that train side by side in one dispatch, and the arrivals after it.
    ``clock`` is needed; cohorts, participation and the aggregator are not used.

    Attributes:
        way: Concurrency, buffer and staleness.
    """

    way: Asynchronous

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clock is None:
            raise ValueError("clock=None: a federation without rounds needs a clock")
        if self.algorithm.stateful:
            raise ValueError(
                "a federation without rounds needs an algorithm whose clients keep nothing"
            )
        if not 1 <= self.way.concurrency <= self.num_clients:
            raise ValueError(
                f"concurrency={self.way.concurrency}: there are {self.num_clients} clients"
            )
        if self.way.buffer < 1:
            raise ValueError(f"buffer={self.way.buffer}: it must be 1 arrival or more")

    @cached_property
    def timeline(self) -> Timeline:
        """The waves of the federation."""
        assert self.clock is not None
        way = self.way
        return Timeline(self.clock, self.num_steps, way.concurrency, way.buffer, self.seed)

    @cached_property
    def _compiled_algorithm(self) -> Algorithm:
        return in_slots(self.algorithm)

    @cached_property
    def slots(self) -> tuple[IntArray, int]:
        """[C] the place of each slot on its device, and the number of places a device needs."""
        devices = self.placement.num_devices
        return np.arange(self.way.concurrency) // devices, -(-self.way.concurrency // devices)

    @cached_property
    def limits(self) -> Limits:
        """The maxima over all waves, in which any clients may share a device."""
        most = self.slots[1]
        return limits(self.num_steps, most, num_devices=1, lanes=self.placement.lanes)

    @property
    def _after(self) -> After:
        return partial(take_arrivals, self.algorithm, self.way)

    def client_params(self, state: FederationState, client: int) -> Params:
        """The model that a client would use: the server's."""
        del client
        params: Params = state.server.params
        return params

    def plan(self, round_index: int, cohort: None = None) -> HostPlan:  # type: ignore[override]
        """Wave ``round_index``: its jobs, and its arrivals."""
        del cohort
        wave, devices = self.timeline.wave(round_index), self.placement.num_devices
        slot_of = {job.client: job.slot for job in wave.jobs}
        clients = np.array(list(slot_of), np.int64)
        home = np.array(list(slot_of.values()), np.int64) % devices
        schedule, rows = self._pack(round_index, clients, home)
        slots = np.array([slot_of[int(client)] for client in schedule.client])
        weight = np.full(len(clients), 1 / len(clients))
        table = events(schedule, weight, slots // devices, self.limits)
        lost = [arrival.job.client for arrival in wave.arrivals if arrival.lost]
        return HostPlan(
            round_index,
            schedule,
            table,
            rows,
            np.array(lost, np.int64),
            wave.end - wave.begin,
            clients,
            self._arrivals(wave),
        )

    def _arrivals(self, wave: Wave) -> Arrivals:
        def table(values: list[Any], dtype: type) -> Any:
            padded: Any = np.zeros(self.way.concurrency, dtype)
            padded[: len(values)] = values
            return padded

        slots = [arrival.job.slot for arrival in wave.arrivals]
        number: Any = np.int32(len(slots))
        devices = self.placement.num_devices
        return Arrivals(
            number,
            table([slot % devices for slot in slots], np.int32),
            table([slot // devices for slot in slots], np.int32),
            table([self.way.staleness(a.staleness) for a in wave.arrivals], np.float32),
            table([arrival.lost for arrival in wave.arrivals], np.bool_),
            table([arrival.flush for arrival in wave.arrivals], np.bool_),
        )
