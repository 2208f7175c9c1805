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

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ufm_jax.fed.algorithm import Tree
from ufm_jax.fed.lanes import (
    ClientMetrics,
    Lanes,
    Work,
    empty_lanes,
    end_client,
    run_steps,
    start_client,
    step_lanes,
    zeros,
)
from ufm_jax.fed.trees import entry, select, with_entry

CHUNK = 16


class Totals(NamedTuple):
    """What clients leave behind on a device: sums over clients, states, and metrics [P]."""

    update: Tree
    weight: jax.Array
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
        kept = jax.tree.map(lambda leaf: leaf[jnp.asarray(events.slot)[position]], totals.clients)
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
    local = jax.eval_shape(work.algorithm.start, work.server, entry(clients, 0))
    update, _ = jax.eval_shape(work.algorithm.end, work.server, local)
    numbers = ClientMetrics(jnp.float32(0), jnp.float32(0), jnp.bool_(True))
    metrics = zeros(numbers, len(work.events.client))
    return Totals(zeros(update), zeros(jnp.float32(0)), clients, metrics)


def _add_one(work: Work, totals: Totals, i: jax.Array, lane: Lanes) -> Totals:
    """Adds what the i-th client of the table leaves, or refuses what is not finite."""
    metrics = end_client(work, lane).metrics
    slot, weight = work.events.slot[i], work.events.weight[i]

    def accept() -> tuple[Tree, jax.Array, Tree]:
        # Inside the branch, since what crosses into it is written to memory first.
        ended = end_client(work, lane)
        update = jax.tree.map(
            lambda total, leaf: total + weight * leaf, totals.update, ended.update
        )
        return update, totals.weight + weight, with_entry(totals.clients, slot, ended.kept)

    def refuse() -> tuple[Tree, jax.Array, Tree]:
        return totals.update, totals.weight, totals.clients

    # A branch: a select for each leaf would repeat the check of all leaves in each of them.
    update, total_weight, clients = lax.cond(metrics.finite, accept, refuse)
    return Totals(update, total_weight, clients, with_entry(totals.metrics, i, metrics))


def _add_many(work: Work, totals: Totals, lanes: Lanes, ends: jax.Array) -> Totals:
    """Adds what the lanes leave in which a client ends: [L] booleans."""
    ended = jax.vmap(lambda lane: end_client(work, lane))(lanes)
    finite, position = ended.metrics.finite, lanes.position
    weight = jnp.where(ends & finite, jnp.asarray(work.events.weight)[position], 0)

    def add(total: jax.Array, leaf: jax.Array) -> jax.Array:
        shape = (-1, *[1] * (leaf.ndim - 1))
        share = weight.reshape(shape)
        return total + jnp.where(share > 0, share * leaf, 0).sum(axis=0)

    def put(old: Tree, place: jax.Array, where: jax.Array, new: Tree) -> Tree:
        def one(a: jax.Array, b: jax.Array) -> jax.Array:
            return a.at[jnp.where(where, place, len(a))].set(b, mode="drop")

        return jax.tree.map(one, old, new)

    slot = jnp.asarray(work.events.slot)[position]
    return Totals(
        update=jax.tree.map(add, totals.update, ended.update),
        weight=totals.weight + weight.sum(),
        clients=put(totals.clients, slot, ends & finite, ended.kept),
        metrics=put(totals.metrics, position, ends, ended.metrics),
    )
