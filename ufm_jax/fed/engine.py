"""The compiled round: shard_map over devices, vmap over lanes, a loop over steps.

A device holds L lanes, each with the training state of one client. ``events`` is a table of the
steps at which clients end and begin, by which ``loops`` trains a cohort in the lanes; ``lanes`` is
what happens in one lane. Then

    server <- algorithm.update_server(server, aggregator.result(gathered))

One dispatch trains a whole round, or a chunk of it if a round's examples exceed the memory. Lanes
and sums are carried from one dispatch to the next, and the last one updates the server. The result
does not depend on the number of chunks, bit for bit.

All shapes depend on the run's maxima (``schedule.Limits``) and all trip counts are data: one
compilation serves every chunk of every cohort.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ufm_jax.fed.aggregate.aggregator import Aggregator, Cohort
from ufm_jax.fed.algorithm import Algorithm, LossFn, Outcome, Tree, update_shape
from ufm_jax.fed.gradient import Gradient
from ufm_jax.fed.keys import fold
from ufm_jax.fed.lanes import ClientMetrics, Plan, Work, empty_lanes, vary
from ufm_jax.fed.loops import Training, run_chunk
from ufm_jax.fed.placement import CLIENTS, Placement
from ufm_jax.fed.trees import distance, entry, select, zeros


class FederationState(NamedTuple):
    """Everything that a round changes.

    Attributes:
        server: The algorithm's server state; ``server.params`` are the global parameters.
        clients: What clients keep, stacked on a leading axis of D * slots.
        aggregate: What the aggregator keeps.
        training: The round in progress, with leading axes D * L for lanes and D for the rest;
            empty between rounds.
    """

    server: Any
    clients: Tree
    aggregate: Tree
    training: Training


class RoundMetrics(NamedTuple):
    """Metrics of a round; before its last chunk they cover the clients that have ended.

    Attributes:
        clients: The metrics of each client.
        update_norm: Euclidean distance by which the server's parameters moved.
        share: Share of the population's weight in the aggregate; 0 if the aggregator had too few
            updates and nothing changed.
    """

    clients: ClientMetrics
    update_norm: jax.Array
    share: jax.Array


class ServerState(NamedTuple):
    """What a server keeps from round to round: the algorithm's state, and the aggregator's."""

    server: Any
    aggregate: Tree


RoundFn = Callable[[FederationState, Tree, Plan], tuple[FederationState, RoundMetrics]]

After = Callable[[Any, Tree, Tree, jax.Array], tuple[Any, Tree]]
"""``(server, this device's clients, plan.after, key) -> (server, clients)``."""


def state_shardings(placement: Placement) -> FederationState:
    """The sharding of each part of a federation's state."""
    everywhere, per_device = placement.replicated, placement.sharded
    return FederationState._make((everywhere, per_device, everywhere, per_device))


def plan_shardings(placement: Placement) -> Plan:
    """The sharding of each part of a plan."""
    cut = {"events": placement.sharded, "segments": placement.sharded, "rows": placement.batches}
    return Plan._make(cut.get(part, placement.replicated) for part in Plan._fields)


def no_training(
    algorithm: Algorithm, aggregator: Aggregator, server: Any, client: Tree, lanes: int, places: int
) -> Training:
    """The state of a device of L ``lanes`` and P ``places`` before the first client of a round.

    ``server`` and ``client`` are the states of the server and of one client, or their shapes.
    """
    update = update_shape(algorithm, server, client)
    metrics = ClientMetrics(jnp.float32(0), jnp.float32(0), jnp.bool_(True))
    return Training(
        empty_lanes(algorithm, server, client, lanes),
        aggregator.empty(update, places),
        zeros(metrics, places),
    )


def close_round(
    algorithm: Algorithm,
    before: ServerState,
    result: tuple[Tree, Tree, jax.Array],
    coverage: jax.Array,
    noise: jax.Array,
) -> tuple[ServerState, jax.Array]:
    """The server's state after a round, and the share of the population's weight in the aggregate.

    Args:
        algorithm: The federated algorithm.
        before: The state before the round, which stays if no weight came in.
        result: The aggregator's.
        coverage: float32 [] the cohort's share of the population's weight.
        noise: The round's key of noise.
    """
    aggregate, update, share = result
    outcome = Outcome(share * coverage, fold(noise, "server"))
    server = algorithm.update_server(before.server, update, outcome)
    return select(share > 0, ServerState(server, aggregate), before), outcome.share


def make_round(
    loss_fn: LossFn,
    algorithm: Algorithm,
    aggregator: Aggregator,
    gradient: Gradient,
    placement: Placement,
    *,
    examples_sharded: bool,
    after: After | None = None,
) -> RoundFn:
    """Compiles the round of a federation.

    Args:
        loss_fn: ``(params, batch, keys) -> losses [B]``.
        algorithm: The federated algorithm.
        aggregator: How the clients' updates become one.
        gradient: How the gradient of a batch is computed.
        placement: Devices and lanes.
        examples_sharded: Whether the leading axis of ``examples`` is cut into a part for each
            device, inside which rows count; otherwise every device holds all examples.
        after: What follows the server's update.

    Returns:
        ``(state, examples, plan) -> (state, metrics)``, jitted, with ``state`` donated: one chunk.
        The leaves of ``examples`` are [R, ...].
    """

    def chunk_on_device(
        state: FederationState, examples: Tree, plan: Plan
    ) -> tuple[FederationState, RoundMetrics]:
        mine = plan._replace(
            round_index=vary(plan.round_index, CLIENTS),
            events=entry(plan.events, 0),
            segments=entry(plan.segments, 0),
            first_step=vary(plan.first_step, CLIENTS),
            rows=entry(plan.rows, 0),
        )
        key, noise = (
            fold(jax.random.wrap_key_data(words), plan.round_index)
            for words in (plan.key, plan.noise)
        )
        cohort = Cohort(*plan.cohort, noise)
        work = Work(
            loss_fn,
            algorithm,
            aggregator,
            gradient,
            placement.lanes,
            placement.data_parallel > 1,
            vary(state.server, CLIENTS),
            examples,
            mine,
            vary(key, CLIENTS),
            vary(cohort, CLIENTS),
        )
        lanes, (gathered, of_clients) = state.training.lanes, entry(state.training[1:], 0)
        training, clients = run_chunk(work, Training(lanes, gathered, of_clients), state.clients)

        before = ServerState(state.server, state.aggregate)

        def finish() -> tuple[ServerState, jax.Array]:
            result = aggregator.result(state.aggregate, training.gathered, cohort)
            return close_round(algorithm, before, result, plan.coverage, noise)

        def go_on() -> tuple[ServerState, jax.Array]:
            return before, jnp.zeros_like(plan.coverage)

        (server, aggregate), share = lax.cond(plan.last, finish, go_on)
        if after is not None:
            server, clients = lax.cond(
                plan.last,
                lambda: after(server, clients, plan.after, fold(noise, "after")),
                lambda: (server, clients),
            )
        moved = distance(state.server.params, server.params)
        metrics = RoundMetrics(_stacked(training.metrics), moved, share)
        places, client = len(mine.events.client), entry(clients, 0)
        nothing = no_training(algorithm, aggregator, state.server, client, placement.lanes, places)
        training = select(plan.last, vary(nothing, CLIENTS), training)
        training = Training(training.lanes, *_stacked(training[1:]))
        return FederationState(server, clients, aggregate, training), metrics

    everywhere, per_device = placement.replicated, placement.sharded
    of_state = state_shardings(placement)
    of_examples = per_device if examples_sharded else everywhere
    of_metrics = RoundMetrics._make((per_device, everywhere, everywhere))
    in_specs, out_specs = jax.tree.map(
        lambda sharding: sharding.spec,
        ((of_state, of_examples, plan_shardings(placement)), (of_state, of_metrics)),
    )
    mapped = jax.shard_map(
        chunk_on_device, mesh=placement.mesh, in_specs=in_specs, out_specs=out_specs
    )
    return jax.jit(
        mapped,
        donate_argnums=0,
        # The state comes back in: a sharding spelt another way would compile again. Metrics go
        # everywhere, so that every process can read them.
        out_shardings=(of_state, everywhere),
        compiler_options=placement.compiler_options,
    )


def _stacked(tree: Tree) -> Tree:
    """This device's part [1, ...] of arrays with a leading axis D."""
    return jax.tree.map(lambda leaf: leaf[None], tree)
