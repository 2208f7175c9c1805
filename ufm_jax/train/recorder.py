"""Reads a round's metrics while the next one runs, so that the devices never wait for the host."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.fed.engine import RoundMetrics
from ufm_jax.fed.federation import Federation, Traffic
from ufm_jax.fed.plan import ClientResult, HostPlan
from ufm_jax.runs.history import ClientRecord, RoundRecord


class Sinks(NamedTuple):
    """What takes the metrics of a run.

    Attributes:
        records: Each takes the record of every round; none in a process that writes nothing.
        advance: Takes the rounds done and the share of the next, where a round has chunks.
    """

    records: Sequence[Callable[[RoundRecord], None]]
    advance: Callable[[int, float], None]


class Recorder:
    """Turns metrics on the devices into records, and hands them on."""

    def __init__(
        self,
        federation: Federation,
        names: tuple[str, ...],
        lr_factor: Callable[[jax.Array], jax.Array],
        traffic: Traffic,
        sinks: Sinks,
    ) -> None:
        """Starts the clock.

        Args:
            federation: Reads its metrics.
            names: The clients' names.
            lr_factor: Learning-rate factor as a function of the round.
            traffic: Bytes of a client in a round.
            sinks: What takes the records.
        """
        self._federation, self._names, self._lr_factor = federation, names, lr_factor
        self._traffic, self._sinks = traffic, sinks
        self._pending: tuple[HostPlan, RoundMetrics, int] | None = None
        self._figures: Mapping[str, Any] = {}
        self._clock = time.perf_counter()

    def put(self, plan: HostPlan, metrics: RoundMetrics, first_step: int = 0) -> None:
        """Takes a dispatched round; the one before it has been recorded by ``flush``.

        Args:
            plan: What was planned.
            metrics: On the devices.
            first_step: Where this process took the round up, above 0 in one that another began.
        """
        if self._pending is not None:
            raise RuntimeError("a round is pending: flush it before the next one is put")
        self._pending = plan, metrics, first_step

    def judged(self, figures: Mapping[str, Any]) -> None:
        """Takes what a judge found after the pending round, as fields of its record."""
        self._figures = figures

    def flush(self) -> RoundRecord | None:
        """Waits for the pending round, records it, and returns the record; None if none is."""
        if self._pending is None:
            return None
        plan, metrics, first_step = self._pending
        self._pending, figures, self._figures = None, self._figures, {}
        results = self._federation.results(plan, metrics)
        now = time.perf_counter()
        seconds, self._clock = now - self._clock - figures.get("judging_seconds", 0.0), now
        share = 1 - first_step / max(plan.schedule.makespan, 1)
        record = replace(self._record(plan, results, metrics, seconds, share), **figures)
        for sink in self._sinks.records:
            sink(record)
        return record

    def advance(self, plan: HostPlan, step: int) -> None:
        """Tells how far a round is: at a step of its longest lane."""
        self._sinks.advance(plan.round_index, step / plan.schedule.makespan)

    def _record(
        self,
        plan: HostPlan,
        results: list[ClientResult],
        metrics: RoundMetrics,
        seconds: float,
        share: float,
    ) -> RoundRecord:
        """The record of a round of which ``share`` was trained in ``seconds``."""
        images = sum(result.examples for result in results)
        accepted = [result for result in results if result.finite]
        return RoundRecord(
            round=plan.round_index,
            loss=self._mean_loss(accepted),
            lr_factor=float(self._lr_factor(jnp.float32(plan.round_index + 0.5))),
            seconds=seconds,
            images=images,
            images_per_second=share * images / seconds,
            useful_fraction=plan.schedule.useful_fraction,
            update_norm=float(metrics.update_norm),
            cohort=len(results),
            rejected=[self._names[result.client] for result in results if not result.finite],
            clients=[self._client_record(result) for result in results],
            bytes_down=self._traffic.down * len(plan.asked),
            bytes_up=self._traffic.up * len(results),
            late=[self._names[client] for client in plan.late],
            virtual_seconds=plan.virtual_seconds,
            skipped=not float(metrics.share) > 0,
        )

    def _mean_loss(self, results: list[ClientResult]) -> float:
        """The clients' losses, weighted as their updates are."""
        if not results:
            return float("nan")
        weights = self._federation.client_weight([result.client for result in results])
        return float(np.average([result.loss for result in results], weights=weights))

    def _client_record(self, result: ClientResult) -> ClientRecord:
        return ClientRecord(
            client=self._names[result.client],
            loss=result.loss,
            examples=result.examples,
            steps=result.steps,
            update_norm=result.update_norm,
            finite=result.finite,
            lane=result.lane,
            begin=result.first_step,
            end=result.first_step + result.steps,
        )
