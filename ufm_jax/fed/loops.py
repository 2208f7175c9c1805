"""The loop over the steps of a chunk on one device.

    for each segment:
        for each step of the segment:  all lanes take one local step (vmap)
        for each handover after it:    gathered += algorithm.end(lane)
                                       lane <- algorithm.start(server, the next client's state)

The inner loop holds nothing but steps. A client costs about one pass over its parameters when it
begins and one when it ends, however many lanes there are. A device with many lanes does handovers
in groups of a quarter of its lanes, so that many small clients cost few kernels. All trip counts
are data.
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
from ufm_jax.fed.trees import entries, entry, put_entries, with_entry


class Training(NamedTuple):
    """A round in progress on a device; empty between rounds.

    Attributes:
        lanes: The lanes.
        gathered: What the aggregator has of the clients that ended.
        metrics: Theirs, by place: [P].
    """

    lanes: Lanes
    gathered: Tree
    metrics: ClientMetrics


Carry = tuple[Training, Tree]
"""The round in progress, and the states that clients keep."""


def run_chunk(work: Work, training: Training, clients: Tree) -> Carry:
    """Trains a chunk of this device's share of the cohort."""
    todo = work.segments
    group = work.lanes // 2 if work.lanes >= 8 else 1
    hand_over = _hand_over_one if group == 1 else partial(_hand_over_many, group)

    def segment(e: jax.Array, carry: Carry) -> Carry:
        training, clients = carry
        lanes = run_steps(work, training.lanes, todo.boundary[e], todo.boundary[e + 1])
        first, stop = todo.handovers[e], todo.handovers[e + 1]
        return lax.fori_loop(
            0,
            (stop - first + group - 1) // group,
            lambda n, carry: hand_over(work, carry, first + n * group, stop),
            (training._replace(lanes=lanes), clients),
        )

    return lax.fori_loop(0, todo.num_segments, segment, (training, clients))


def _hand_over_one(work: Work, carry: Carry, handover: jax.Array, stop: jax.Array) -> Carry:
    """Ends the client of one lane, and begins the next."""
    del stop
    lane, ends, begins = _handover(work, handover)
    training, clients = lax.cond(
        ends == NOBODY, lambda: carry, lambda: _end_one(work, carry, ends, lane)
    )
    # Where nobody begins, the lane repeats its last client in vain: a branch would cost more.
    place = jnp.where(begins == NOBODY, ends, begins)
    kept = entry(clients, jnp.asarray(work.events.slot)[place])
    lanes = with_entry(training.lanes, lane, start_client(work, kept, place))
    return training._replace(lanes=lanes), clients


def _end_one(work: Work, carry: Carry, place: jax.Array, lane_number: jax.Array) -> Carry:
    """Adds what the client at a place of the table leaves, or refuses what is not finite."""
    training, clients = carry
    lane, slot = entry(training.lanes, lane_number), jnp.asarray(work.events.slot)[place]
    turn = turn_of(work, place)
    metrics = measure_client(work, lane, entry(clients, slot), end_client(work, lane, turn))

    def accept() -> tuple[Tree, Tree]:
        # Inside the branch, since what crosses into it is written to memory first.
        ended = end_client(work, lane, turn)
        gathered = work.aggregator.add(training.gathered, ended.update, turn, work.cohort)
        return gathered, with_entry(clients, slot, ended.kept)

    def refuse() -> tuple[Tree, Tree]:
        return training.gathered, clients

    # A branch: a select for each leaf would repeat the check of all leaves in each of them.
    gathered, clients = lax.cond(metrics.finite, accept, refuse)
    of_clients = with_entry(training.metrics, place, metrics)
    return Training(training.lanes, gathered, of_clients), clients


def _hand_over_many(
    group: int, work: Work, carry: Carry, first: jax.Array, stop: jax.Array
) -> Carry:
    """Ends the clients of up to ``group`` lanes at once, and begins the next ones."""
    training, clients = carry
    handovers = first + jnp.arange(group)
    lane, ends, begins = _handover(work, handovers)
    ending, beginning = ((handovers < stop) & (place != NOBODY) for place in (ends, begins))
    slot = jnp.asarray(work.events.slot)
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
    """The lane of a handover, and the places of who ends and who begins."""
    table = work.segments
    lane, ends, begins = (jnp.asarray(of)[number] for of in (table.lane, table.ends, table.begins))
    return lane, ends, begins
