"""The compiled round: shard_map over devices, vmap over lanes, a loop over steps.

One dispatch trains a whole cohort. A device holds L lanes, each with the training state of one
client. The event table (``schedule.Events``) cuts the round into segments between which clients
start and end:

    for each segment:
        for each client that starts:  its lane <- algorithm.start(server, client's state)
        for each step of the segment: all lanes take one local step (vmap)
        for each client that ends:    total += p_k * algorithm.end(lane)
    server <- algorithm.update_server(psum(total) / psum(sum of p_k))

Starting and ending touch one lane at a time, so their cost is one pass over the parameters a
client, whatever L is, and nothing of them is inside the loop over steps. All shapes depend on the
run's maxima (``schedule.Limits``) and all trip counts are data: one compilation serves every
cohort.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from ufm_jax.fed.algorithm import Algorithm, GradFn, LossFn, Params, Tree
from ufm_jax.fed.keys import fold
from ufm_jax.fed.placement import AXIS, Placement
from ufm_jax.fed.schedule import Events
from ufm_jax.fed.trees import all_finite, distance, entry, select, with_entry


class FederationState(NamedTuple):
    """All that a round changes: the server's state, and what clients keep between rounds.

    Attributes:
        server: The algorithm's server state; ``server.params`` are the global parameters.
        clients: The clients' states, stacked on a leading axis of D * slots.
    """

    server: Any
    clients: Tree


class Plan(NamedTuple):
    """What the host sends for a round.

    Attributes:
        round_index: int32 [].
        events: The event table, leading axis D.
        rows: int32 [D, T, L, B] rows of ``examples``; negative where a slot is empty.
    """

    round_index: jax.Array
    events: Events
    rows: jax.Array


class ClientMetrics(NamedTuple):
    """What a round reports of each client, in the order of the event table: [D, P].

    Attributes:
        loss: Mean local loss over the client's examples, as seen while training.
        update_norm: Euclidean distance that its local training moved the parameters.
        finite: Whether its update, its state and its loss were finite; if not, it was left out.
    """

    loss: jax.Array
    update_norm: jax.Array
    finite: jax.Array


class RoundMetrics(NamedTuple):
    """Metrics of a round: of each client, and how far the server's parameters moved."""

    clients: ClientMetrics
    update_norm: jax.Array


class _Lanes(NamedTuple):
    """The state of a device's lanes; every leaf has the leading axis L.

    Attributes:
        local: The algorithm's training state.
        position: The client's place in the event table.
        loss: Sum of the losses of the examples seen so far.
        examples: Their number.
    """

    local: Any
    position: jax.Array
    loss: jax.Array
    examples: jax.Array


class _Totals(NamedTuple):
    """What ends of clients add up on a device: sums over clients, states, and metrics [P]."""

    update: Tree
    weight: jax.Array
    clients: Tree
    metrics: ClientMetrics


RoundFn = Callable[[FederationState, Tree, Plan], tuple[FederationState, RoundMetrics]]


def make_round(
    loss_fn: LossFn,
    algorithm: Algorithm,
    placement: Placement,
    key: jax.Array,
    *,
    examples_sharded: bool,
) -> RoundFn:
    """Compiles the round.

    Args:
        loss_fn: ``(params, batch, key) -> losses [B]``.
        algorithm: The federated algorithm.
        placement: Devices and lanes.
        key: The run's root key; step s of client k in round r uses ``fold(key, r, k, s)``.
        examples_sharded: Whether the leading axis of ``examples`` is cut into a part for each
            device (rows then count inside the part), or every device holds all of it.

    Returns:
        ``(state, examples, plan) -> (state, metrics)``, jitted, with ``state`` donated. The leaves
        of ``examples`` are [R, ...].
    """
    # Any: prefixes of the trees that the signature names.
    per_device: Any = PartitionSpec(AXIS)
    everywhere: Any = PartitionSpec()

    def round_on_device(
        state: FederationState, examples: Tree, plan: Plan
    ) -> tuple[FederationState, RoundMetrics]:
        # Without this, gradients of replicated parameters are silently summed over the axis.
        server = _vary(state.server)
        events, rows = jax.tree.map(lambda leaf: leaf[0], (plan.events, plan.rows))
        round_index = _vary(plan.round_index)
        step = partial(
            _local_step, loss_fn, algorithm, _vary(fold(key, plan.round_index)), round_index
        )
        totals = _run_segments(
            algorithm, step, server, state.clients, examples, events, rows, placement.lanes
        )
        update, weight = lax.psum((totals.update, totals.weight), AXIS)
        mean = jax.tree.map(lambda leaf: leaf / jnp.where(weight > 0, weight, 1), update)
        new_server = algorithm.update_server(state.server, mean)
        # Where every update was refused, the server stays as it is.
        new_server = select(weight > 0, new_server, state.server)
        metrics = jax.tree.map(lambda leaf: leaf[None], totals.metrics)
        moved = distance(state.server.params, new_server.params)
        return FederationState(new_server, totals.clients), RoundMetrics(metrics, moved)

    mapped = jax.shard_map(
        round_on_device,
        mesh=placement.mesh,
        in_specs=(
            FederationState(everywhere, per_device),
            per_device if examples_sharded else everywhere,
            Plan(everywhere, per_device, per_device),
        ),
        out_specs=(
            FederationState(everywhere, per_device),
            RoundMetrics(per_device, everywhere),
        ),
    )
    # Named, since the state comes back in: a sharding spelt another way would compile again.
    # Metrics go everywhere, so that every process can read them.
    sharded: Any = placement.sharded
    replicated: Any = placement.replicated
    shardings = FederationState(replicated, sharded), RoundMetrics(replicated, replicated)
    return jax.jit(mapped, donate_argnums=0, out_shardings=shardings)


def _run_segments(
    algorithm: Algorithm,
    step: Callable[..., _Lanes],
    server: Any,
    clients: Tree,
    examples: Tree,
    events: Events,
    rows: jax.Array,
    lanes: int,
) -> _Totals:
    """Trains this device's share of the cohort and sums the weighted updates."""
    start = partial(_start_client, algorithm, server, events)
    end = partial(_end_client, algorithm, server, events)
    clients_max = events.client.shape[0]
    end_order = jnp.asarray(events.end_order)

    def segment(e: jax.Array, carry: tuple[_Lanes, _Totals]) -> tuple[_Lanes, _Totals]:
        state, totals = carry
        state = lax.fori_loop(
            events.starts[e],
            events.starts[e + 1],
            lambda i, lanes_: start(lanes_, totals.clients, i),
            state,
        )
        state = lax.fori_loop(
            events.boundary[e],
            events.boundary[e + 1],
            lambda t, lanes_: step(server, lanes_, examples, rows[t], events, t),
            state,
        )
        return lax.fori_loop(
            events.ends[e],
            events.ends[e + 1],
            lambda i, both: (both[0], end(both[0], both[1], end_order[i])),
            (state, totals),
        )

    local = jax.eval_shape(algorithm.start, server, entry(clients, 0))
    update, _ = jax.eval_shape(algorithm.end, server, local)
    state = _Lanes(
        _zeros(local, lanes), *_zeros((jnp.int32(0), jnp.float32(0), jnp.float32(0)), lanes)
    )
    metrics = _zeros(ClientMetrics(jnp.float32(0), jnp.float32(0), jnp.bool_(True)), clients_max)
    totals = _Totals(_zeros(update), _zeros(jnp.float32(0)), clients, metrics)
    return lax.fori_loop(0, events.num_segments, segment, (state, totals))[1]


def _start_client(
    algorithm: Algorithm, server: Any, events: Events, lanes: _Lanes, clients: Tree, i: jax.Array
) -> _Lanes:
    """Puts the i-th client of the table into its lane."""
    local = algorithm.start(server, entry(clients, events.slot[i]))
    return with_entry(lanes, events.lane[i], _Lanes(local, i, jnp.float32(0), jnp.float32(0)))


def _end_client(
    algorithm: Algorithm,
    server: Any,
    events: Events,
    lanes: _Lanes,
    totals: _Totals,
    i: jax.Array,
) -> _Totals:
    """Adds the update of the i-th client to the sums, or refuses what is not finite."""
    lane = entry(lanes, events.lane[i])
    update, kept = algorithm.end(server, lane.local)
    slot = events.slot[i]
    finite = all_finite((update, kept, lane.loss))
    weight = jnp.where(finite, events.weight[i], 0)
    moved = distance(server.params, lane.local.params)
    metrics = ClientMetrics(lane.loss / jnp.maximum(lane.examples, 1), moved, finite)
    return _Totals(
        # Selected, not multiplied by zero: 0 * nan is nan.
        update=jax.tree.map(
            lambda total, leaf: total + jnp.where(weight > 0, weight * leaf, 0),
            totals.update,
            update,
        ),
        weight=totals.weight + weight,
        clients=with_entry(totals.clients, slot, select(finite, kept, entry(totals.clients, slot))),
        metrics=with_entry(totals.metrics, i, metrics),
    )


def _local_step(
    loss_fn: LossFn,
    algorithm: Algorithm,
    key: jax.Array,
    round_index: jax.Array,
    server: Any,
    lanes: _Lanes,
    examples: Tree,
    rows: jax.Array,
    events: Events,
    t: jax.Array,
) -> _Lanes:
    """One local step in every lane: rows are [L, B]. A lane without a client steps in vain."""

    def one_lane(lane: _Lanes, row: jax.Array) -> _Lanes:
        i = lane.position
        s = t - events.first_step[i]
        grad_fn, num_examples = _grad_fn(loss_fn, examples, row, fold(key, events.client[i], s))
        progress = round_index + s / events.num_steps[i]
        local, loss = algorithm.step(server, lane.local, grad_fn, progress)
        return _Lanes(local, i, lane.loss + loss * num_examples, lane.examples + num_examples)

    if rows.shape[0] == 1:  # A batch axis of one would only cost.
        return jax.tree.map(lambda leaf: leaf[None], one_lane(entry(lanes, 0), rows[0]))
    return jax.vmap(one_lane)(lanes, rows)


def _grad_fn(
    loss_fn: LossFn, examples: Tree, row: jax.Array, key: jax.Array
) -> tuple[GradFn, jax.Array]:
    """The loss of one batch and its gradient, as a function of the parameters alone.

    Returns:
        The function, and the number of examples of the batch.
    """
    used = row >= 0
    # What fills a partial batch comes from the same batch: never from another client.
    batch = jax.tree.map(lambda leaf: leaf[jnp.where(used, row, jnp.maximum(row[0], 0))], examples)
    count = used.sum(dtype=jnp.float32)

    def mean_loss(params: Params) -> jax.Array:
        losses = loss_fn(params, batch, key)
        if losses.shape != row.shape:
            raise ValueError(
                f"loss_fn returned shape {losses.shape}: it must give one loss an example, "
                f"{row.shape}"
            )
        return jnp.where(used, losses, 0).sum() / jnp.maximum(count, 1)

    return jax.value_and_grad(mean_loss), count


def _vary(tree: Tree) -> Tree:
    """Marks replicated values as differing between devices (they are about to)."""
    return jax.tree.map(lambda leaf: lax.pcast(leaf, AXIS, to="varying"), tree)


def _zeros(tree: Tree, *leading: int) -> Tree:
    return _vary(jax.tree.map(lambda leaf: jnp.zeros((*leading, *leaf.shape), leaf.dtype), tree))
