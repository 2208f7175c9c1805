"""The loop over the steps of a chunk on one device.

    for each segment between two handovers:
        lane <- algorithm.start(server, client's state)  for each client that begins
        for each step of the segment:  all lanes take one local step (vmap)
        gathered += algorithm.end(lane)                   for each client that ends

The inner loop holds steps alone. A client costs about one pass over its parameters when it begins
and one when it ends, however many lanes there are. A device with many lanes ends clients and begins
the next ones in groups, so that many small clients cost few kernels. All trip counts are data.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ufm_jax.fed.algorithm import Tree
from ufm_jax.fed.events import NOBODY
from ufm_jax.fed.lanes import (
    ClientMetrics,
    Lanes,
    Work,
    end_client,
    measure_client,
    run_steps,
    start_client,
    turn_of,
)
from ufm_jax.fed.placement import MANY_LANES
from ufm_jax.fed.trees import entries, entry, put_entries, select, with_entry


class Training(NamedTuple):
    """A round in progress on a device; empty between rounds.

    Attributes:
        lanes: The lanes.
        gathered: What the aggregator has gathered from the clients that ended.
        metrics: [P] the metrics of the clients that ended, by place.
    """

    lanes: Lanes
    gathered: Tree
    metrics: ClientMetrics


Carry = tuple[Training, Tree]
"""The round in progress, and the states that clients keep."""


def handovers_at_once(lanes: int) -> int:
    """How many lanes of a device hand over together: half of many lanes, or one of a few."""
    return lanes // 2 if lanes >= MANY_LANES else 1


def run_chunk(work: Work, training: Training, clients: Tree) -> Carry:
    """Trains a chunk of this device's share of the cohort."""
    run = _run_in_groups if handovers_at_once(work.lanes) > 1 else _run_one_by_one
    return run(work, (training, clients))


def _run_one_by_one(work: Work, carry: Carry) -> Carry:
    """Trains a chunk; clients begin and end one after another."""
    todo = work.plan.segments

    def segment(e: jax.Array, carry: Carry) -> Carry:
        before, here, after = (todo.handovers[e + i] for i in range(3))
        carry = lax.fori_loop(before, here, partial(_begin_one, work), carry)
        carry = _steps(work, e, carry)
        return lax.fori_loop(here, after, partial(_end_one, work), carry)

    return lax.fori_loop(0, todo.num_segments, segment, carry)


def _run_in_groups(work: Work, carry: Carry) -> Carry:
    """Trains a chunk; clients end together, and the next ones begin at once."""
    todo, group = work.plan.segments, handovers_at_once(work.lanes)

    def boundary(b: jax.Array, carry: Carry) -> Carry:
        carry = _steps(work, b - 1, carry)
        first, stop = todo.handovers[b], todo.handovers[b + 1]
        act = partial(_hand_over_many, work, first, stop)
        return lax.fori_loop(0, (stop - first + group - 1) // group, act, carry)

    # No steps come before a round's first boundary; the chunk before did a later chunk's first.
    begin = (work.plan.first_step > 0).astype(jnp.int32)
    return lax.fori_loop(begin, todo.num_segments + 1, boundary, carry)


def _steps(work: Work, e: jax.Array, carry: Carry) -> Carry:
    """Runs the local steps of segment e; segment -1 has no steps."""
    training, clients = carry
    begin, end = (jnp.asarray(work.plan.segments.boundary)[jnp.maximum(i, 0)] for i in (e, e + 1))
    lanes = run_steps(work, training.lanes, begin, end)
    return training._replace(lanes=lanes), clients


def _begin_one(work: Work, handover: jax.Array, carry: Carry) -> Carry:
    """Begins the next client of one lane."""
    training, clients = carry
    lane, ends, begins = _handover(work, handover)
    # A lane in which nobody begins repeats its last client in vain: a branch would cost more.
    place = jnp.where(begins == NOBODY, ends, begins)
    fresh = start_client(work, entry(clients, jnp.asarray(work.plan.events.slot)[place]), place)
    return training._replace(lanes=with_entry(training.lanes, lane, fresh)), clients


def _end_one(work: Work, handover: jax.Array, carry: Carry) -> Carry:
    """Ends the client of one lane: adds its update, or refuses it if it is not finite."""
    training, clients = carry
    lane_number, place, _ = _handover(work, handover)
    slot = jnp.asarray(work.plan.events.slot)[place]
    lane, before = entry(training.lanes, lane_number), entry(clients, slot)
    turn = turn_of(work, place)
    metrics = measure_client(work, lane, before, end_client(work, lane, turn))

    def accept() -> tuple[Tree, Tree]:
        # Computed inside the branch: what crosses into it would be written to memory first.
        ended = end_client(work, lane, turn)
        gathered = work.aggregator.add(training.gathered, ended.update, turn, work.cohort)
        # Selected to get the type of ``before``, which varies over devices; a constant does not.
        return gathered, select(metrics.finite, ended.kept, before)

    def refuse() -> tuple[Tree, Tree]:
        return training.gathered, before

    # A select for each leaf would repeat the check of all leaves in each of them: hence a branch.
    # The other clients' states stay outside, since a branch copies what it passes on.
    gathered, kept = lax.cond(metrics.finite, accept, refuse)
    of_clients = with_entry(training.metrics, place, metrics)
    return Training(training.lanes, gathered, of_clients), with_entry(clients, slot, kept)


def _hand_over_many(
    work: Work, first: jax.Array, stop: jax.Array, n: jax.Array, carry: Carry
) -> Carry:
    """Does the n-th group of the handovers ``first .. stop``."""
    training, clients = carry
    group = handovers_at_once(work.lanes)
    handovers = first + n * group + jnp.arange(group)
    lane, ends, begins = _handover(work, handovers)
    ending, beginning = ((handovers < stop) & (place != NOBODY) for place in (ends, begins))
    slot = jnp.asarray(work.plan.events.slot)
    held = entries(training.lanes, lane)
    turns = jax.vmap(partial(turn_of, work))(ends)
    ended = jax.vmap(partial(end_client, work))(held, turns)
    metrics = jax.vmap(partial(measure_client, work))(held, entries(clients, slot[ends]), ended)
    good = ending & metrics.finite
    turns = turns._replace(weight=jnp.where(good, turns.weight, 0))
    gathered = work.aggregator.add_many(training.gathered, ended.update, turns, work.cohort)
    clients = put_entries(clients, slot[ends], good, ended.kept)
    of_clients = put_entries(training.metrics, ends, ending, metrics)
    fresh = jax.vmap(partial(start_client, work))(entries(clients, slot[begins]), begins)
    lanes = put_entries(training.lanes, lane, beginning, fresh)
    return Training(lanes, gathered, of_clients), clients


def _handover(work: Work, number: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The lane of a handover, and the places of the clients that end and begin there."""
    table = work.plan.segments
    lane, ends, begins = (jnp.asarray(of)[number] for of in (table.lane, table.ends, table.begins))
    return lane, ends, begins
