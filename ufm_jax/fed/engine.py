"""The compiled round: shard_map over devices, vmap over lanes, a loop over steps.

One dispatch trains a whole cohort. A device holds L lanes, each with the training state of one
client. The event table (``schedule.Events``) cuts the round into segments between which clients
start and end:

    for each segment:
        for each client that starts:  its lane <- algorithm.start(server, client's state)
        for each step of the segment: all lanes take one local step (vmap)
        for each client that ends:    gathered += algorithm.end(lane)
    server <- algorithm.update_server(server, aggregator.result(gathered))

``loops.py`` is this loop, ``lanes.py`` what happens in it. All shapes depend on the run's maxima
(``schedule.Limits``) and all trip counts are data: one compilation serves every cohort.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.sharding import PartitionSpec

from ufm_jax.fed.aggregate.aggregator import Aggregator, Cohort
from ufm_jax.fed.algorithm import Algorithm, LossFn, Outcome, Tree
from ufm_jax.fed.gradient import Gradient
from ufm_jax.fed.keys import fold
from ufm_jax.fed.lanes import ClientMetrics, Work, vary
from ufm_jax.fed.loops import by_events, by_steps
from ufm_jax.fed.placement import CLIENTS, Placement
from ufm_jax.fed.schedule import Events
from ufm_jax.fed.trees import distance, select


class FederationState(NamedTuple):
    """All that a round changes.

    Attributes:
        server: The algorithm's server state; ``server.params`` are the global parameters.
        clients: What clients keep, stacked on a leading axis of D * slots.
        aggregate: What the aggregator keeps.
    """

    server: Any
    clients: Tree
    aggregate: Tree


class Plan(NamedTuple):
    """What the host sends for a round.

    Attributes:
        round_index: int32 [].
        coverage: float32 [], the cohort's share of the population's weight; p_k times it is the
            share of client k.
        key: uint32 [2], the words of the run's root key; example b of step s of client k in round r
            has the key ``fold(key, r, k, s, b)``. Data, so that other seeds compile nothing anew.
        noise: uint32 [2], the words of the key from which the noise of updates is folded.
        events: The event table, leading axis D.
        rows: int32 [D, T, L, B] rows of ``examples``; negative where a slot is empty.
        after: For ``make_round``'s ``after``, the same on every device.
    """

    round_index: jax.Array
    coverage: jax.Array
    key: jax.Array
    noise: jax.Array
    events: Events
    rows: jax.Array
    after: Tree


class RoundMetrics(NamedTuple):
    """Metrics of a round.

    Attributes:
        clients: Of each client.
        update_norm: How far the server's parameters moved.
        share: Share of the population's weight that the aggregate is of; 0 where the aggregator
            had too little to go on with, and nothing was updated.
    """

    clients: ClientMetrics
    update_norm: jax.Array
    share: jax.Array


RoundFn = Callable[[FederationState, Tree, Plan], tuple[FederationState, RoundMetrics]]

After = Callable[[Any, Tree, Tree, jax.Array], tuple[Any, Tree]]
"""``(server, this device's clients, plan.after, key) -> (server, clients)``."""

_LOOPS = {"events": by_events, "steps": by_steps}


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
    """Compiles the round.

    Args:
        loss_fn: ``(params, batch, keys) -> losses [B]``.
        algorithm: The federated algorithm.
        aggregator: How the clients' updates become one.
        gradient: How the gradient of a batch is computed.
        placement: Devices, lanes, and the form of the loop.
        examples_sharded: Whether the leading axis of ``examples`` is cut into a part for each
            device (rows then count inside the part), or every device holds all of it.
        after: Done when the clients have ended and the server has been updated.

    Returns:
        ``(state, examples, plan) -> (state, metrics)``, jitted, with ``state`` donated. The leaves
        of ``examples`` are [R, ...].
    """
    # Any: prefixes of the trees that the signature names.
    per_device: Any = PartitionSpec(CLIENTS)
    everywhere: Any = PartitionSpec()
    batches: Any = placement.batches.spec
    loop = _LOOPS[placement.loop]

    def round_on_device(
        state: FederationState, examples: Tree, plan: Plan
    ) -> tuple[FederationState, RoundMetrics]:
        events, rows = jax.tree.map(lambda leaf: leaf[0], (plan.events, plan.rows))
        key, noise = (
            fold(jax.random.wrap_key_data(words), plan.round_index)
            for words in (plan.key, plan.noise)
        )
        # Typed as the same everywhere, though each device reads its own part of the table.
        client, weight = lax.all_gather(
            (events.client, events.weight), CLIENTS, tiled=True, to="invarying"
        )
        cohort = Cohort(client, weight, noise)
        work = Work(
            loss_fn,
            algorithm,
            aggregator,
            gradient,
            placement.lanes,
            placement.data_parallel > 1,
            vary(state.server, CLIENTS),
            examples,
            events,
            rows,
            vary(plan.round_index, CLIENTS),
            vary(key, CLIENTS),
            vary(cohort, CLIENTS),
        )
        totals = loop(work, state.clients)
        aggregate, update, share = aggregator.result(state.aggregate, totals.gathered, cohort)
        outcome = Outcome(share * plan.coverage, fold(noise, "server"))
        server = algorithm.update_server(state.server, update, outcome)
        server, aggregate = select(share > 0, (server, aggregate), (state.server, state.aggregate))
        clients = totals.clients
        if after is not None:
            server, clients = after(server, clients, plan.after, fold(noise, "after"))
        metrics = jax.tree.map(lambda leaf: leaf[None], totals.metrics)
        moved = distance(state.server.params, server.params)
        return FederationState(server, clients, aggregate), RoundMetrics(
            metrics, moved, outcome.share
        )

    mapped = jax.shard_map(
        round_on_device,
        mesh=placement.mesh,
        in_specs=(
            FederationState(everywhere, per_device, everywhere),
            per_device if examples_sharded else everywhere,
            Plan(everywhere, everywhere, everywhere, everywhere, per_device, batches, everywhere),
        ),
        out_specs=(
            FederationState(everywhere, per_device, everywhere),
            RoundMetrics(per_device, everywhere, everywhere),
        ),
    )
    # Named, since the state comes back in: a sharding spelt another way would compile again.
    # Metrics go everywhere, so that every process can read them.
    sharded: Any = placement.sharded
    replicated: Any = placement.replicated
    shardings = (
        FederationState(replicated, sharded, replicated),
        RoundMetrics(replicated, replicated, replicated),
    )
    return jax.jit(
        mapped,
        donate_argnums=0,
        out_shardings=shardings,
        compiler_options=placement.compiler_options,
    )
