"""The loop over a round's steps on one device, in two forms of one meaning.

``by_events``: clients start and end between segments of steps, one lane at a time. The inner loop
holds nothing but steps, and a client costs one pass over its parameters at its start and one at
its end, however many lanes there are. Every trip count is data; a GPU hands such counts to the
host at each turn, which is nothing beside a step of a vision transformer.

``by_steps``: at every step any lane may start or end a client, chosen by a mask. A step costs
passes over the parameters of all lanes, and there is no count for the host to read but one for
each ``CHUNK`` steps: for small models and many short clients, where starting them one at a time
would cost more than training them.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ufm_jax.fed.algorithm import Tree, update_shape
from ufm_jax.fed.lanes import (
    ClientMetrics,
    Lanes,
    Work,
    empty_lanes,
    end_client,
    measure_client,
    run_steps,
    start_client,
    step_lanes,
    turn_of,
    vary,
)
from ufm_jax.fed.placement import CLIENTS
from ufm_jax.fed.trees import entries, entry, put_entries, select, with_entry, zeros

CHUNK = 16


class Totals(NamedTuple):
    """What clients leave behind on a device: their updates, their states, and metrics [P]."""

    gathered: Tree
    clients: Tree
    metrics: ClientMetrics


Carry = tuple[Lanes, Totals]


def by_events(work: Work, clients: Tree) -> Totals:
    """Trains this device's share of the cohort; ``clients`` are the states that clients keep."""
    events = work.events
    end_order = jnp.asarray(events.end_order)

    def start(i: jax.Array, carry: Carry) -> Carry:
        lanes, totals = carry
        lane = start_client(work, entry(totals.clients, events.slot[i]), i)
        return with_entry(lanes, events.lane[i], lane), totals

    def end(j: jax.Array, carry: Carry) -> Carry:
        lanes, totals = carry
        i = end_order[j]
        return lanes, _add_one(work, totals, i, entry(lanes, events.lane[i]))

    def segment(e: jax.Array, carry: Carry) -> Carry:
        lanes, totals = lax.fori_loop(events.starts[e], events.starts[e + 1], start, carry)
        lanes = run_steps(work, lanes, events.boundary[e], events.boundary[e + 1])
        return lax.fori_loop(events.ends[e], events.ends[e + 1], end, (lanes, totals))

    begin = empty_lanes(work, clients), _no_totals(work, clients)
    return lax.fori_loop(0, events.num_segments, segment, begin)[1]


def by_steps(work: Work, clients: Tree) -> Totals:
    """The same totals as ``by_events``, up to the order of their sums."""
    events, num_steps = work.events, len(work.rows)
    last_step = events.first_step + events.num_steps - 1
    occupant, lane_numbers = _occupants(work), jnp.arange(work.lanes)

    def tick(t: jax.Array, carry: Carry) -> Carry:
        lanes, totals = carry
        position = occupant[t]
        # A lane that has had no client yet shows the table's first.
        mine = (events.lane[position] == lane_numbers) & (events.num_steps[position] > 0)
        begins = mine & (events.first_step[position] == t)
        ends = mine & (last_step[position] == t)
        kept = entries(totals.clients, jnp.asarray(events.slot)[position])
        fresh = jax.vmap(lambda client, i: start_client(work, client, i))(kept, position)
        lanes = jax.vmap(select)(begins, fresh, lanes)
        lanes = step_lanes(work, lanes, t)
        return lanes, _add_many(work, totals, lanes, ends)

    def chunk(c: jax.Array, carry: Carry) -> Carry:
        # Past the last step of all, lanes step in vain.
        return lax.fori_loop(0, size, lambda j, inner: tick(c * size + j, inner), carry)

    size = min(CHUNK, num_steps)
    makespan = events.boundary[events.num_segments]
    begin = empty_lanes(work, clients), _no_totals(work, clients)
    return lax.fori_loop(0, (makespan + size - 1) // size, chunk, begin)[1]


def _occupants(work: Work) -> jax.Array:
    """int32 [T, L]: the client, by its place in the table, that each lane has or last had."""
    events, num_steps = work.events, len(work.rows)
    first = jnp.where(events.num_steps > 0, events.first_step, num_steps)  # Unused: out of range.
    table = jnp.zeros((num_steps, work.lanes), jnp.int32)
    started = table.at[first, events.lane].set(jnp.arange(len(first)), mode="drop")
    # The table lists clients as they start, so that the latest has the highest place.
    return lax.cummax(started, axis=0)


def _no_totals(work: Work, clients: Tree) -> Totals:
    places = len(work.events.client)
    update = update_shape(work.algorithm, work.server, entry(clients, 0))
    metrics = ClientMetrics(jnp.float32(0), jnp.float32(0), jnp.bool_(True))
    begin = work.aggregator.empty(update, places), zeros(metrics, places)
    gathered, metrics = vary(begin, CLIENTS)
    return Totals(gathered, clients, metrics)


def _add_one(work: Work, totals: Totals, i: jax.Array, lane: Lanes) -> Totals:
    """Adds what the i-th client of the table leaves, or refuses what is not finite."""
    turn, client = turn_of(work, i), entry(totals.clients, work.events.slot[i])
    metrics = measure_client(work, lane, client, end_client(work, lane, turn))

    def accept() -> tuple[Tree, Tree]:
        # Inside the branch, since what crosses into it is written to memory first.
        ended = end_client(work, lane, turn)
        gathered = work.aggregator.add(totals.gathered, ended.update, turn, work.cohort)
        return gathered, with_entry(totals.clients, work.events.slot[i], ended.kept)

    def refuse() -> tuple[Tree, Tree]:
        return totals.gathered, totals.clients

    # A branch: a select for each leaf would repeat the check of all leaves in each of them.
    gathered, clients = lax.cond(metrics.finite, accept, refuse)
    return Totals(gathered, clients, with_entry(totals.metrics, i, metrics))


def _add_many(work: Work, totals: Totals, lanes: Lanes, ends: jax.Array) -> Totals:
    """Adds what the lanes leave in which a client ends: [L] booleans."""
    turns = jax.vmap(lambda place: turn_of(work, place))(lanes.position)
    slot = jnp.asarray(work.events.slot)[lanes.position]
    ended = jax.vmap(partial(end_client, work))(lanes, turns)
    metrics = jax.vmap(partial(measure_client, work))(lanes, entries(totals.clients, slot), ended)
    good = ends & metrics.finite
    turns = turns._replace(weight=jnp.where(good, turns.weight, 0))
    return Totals(
        work.aggregator.add_many(totals.gathered, ended.update, turns, work.cohort),
        put_entries(totals.clients, slot, good, ended.kept),
        put_entries(totals.metrics, lanes.position, ends, metrics),
    )
