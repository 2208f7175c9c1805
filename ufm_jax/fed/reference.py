"""The same round as a plain Python loop: the oracle of the tests.

One client trains after another, one step after another, with the keys and batches of the compiled
round, but without its lanes, devices, event table and padding. It reads like the algorithm's
pseudocode, and is slow.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.fed.aggregate.aggregator import Cohort
from ufm_jax.fed.algorithm import Params, Tree, Turn
from ufm_jax.fed.engine import ServerState, close_round
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.gradient import Batch
from ufm_jax.fed.keys import example_keys, fold
from ufm_jax.fed.plan import HostPlan
from ufm_jax.fed.server import first_state, round_noise


class ReferenceState(NamedTuple):
    """The state of a federation.

    Attributes:
        server: The algorithm's server state.
        clients: The states of the clients that have trained.
        fresh: The state of any other client.
        aggregate: What the aggregator keeps.
    """

    server: Any
    clients: dict[int, Tree]
    fresh: Tree
    aggregate: Tree


def reference_init(federation: Federation, params: Params) -> ReferenceState:
    """The state before the first round."""
    server, aggregate = first_state(federation, params)
    return ReferenceState(server, {}, federation.algorithm.init_client(params), aggregate)


def reference_round(
    federation: Federation, state: ReferenceState, examples: Tree, plan: HostPlan
) -> tuple[ReferenceState, dict[int, float]]:
    """Runs one round.

    Args:
        federation: The federation; its placement is not used.
        state: The state before the round.
        examples: All examples, [R, ...], on the host.
        plan: The cohort and the batches; its packing is not used.

    Returns:
        The new state, and each client's mean loss.
    """
    algorithm, root = federation.algorithm, jax.random.key(federation.seed)
    noise = round_noise(federation, plan.round_index)
    updates: dict[int, Tree] = {}
    kept = dict(state.clients)
    losses: dict[int, float] = {}
    cohort = sorted(int(client) for client in plan.schedule.client)
    shares = federation.client_weight(cohort, plan.asked)
    for k, weight in zip(cohort, shares, strict=True):
        local = algorithm.start(state.server, kept.get(k, state.fresh))
        batches = batches_of(plan, k)
        total, seen = 0.0, 0
        for s, rows in enumerate(batches):
            key = fold(root, plan.round_index, k, s)
            keys = example_keys(key, jnp.arange(len(rows)))
            examples_of_step = jax.tree.map(lambda leaf, rows=rows: leaf[rows], examples)
            count = jnp.float32(len(rows))
            batch = Batch(examples_of_step, jnp.ones(len(rows), bool), keys, count)
            noise_key = fold(noise, k, "step", s)

            def grad_fn(
                params: Params, batch: Batch = batch, key: jax.Array = noise_key
            ) -> tuple[jax.Array, Params]:
                loss, gradient = federation.gradient.share(federation.loss_fn, params, batch)
                return loss, federation.gradient.finish(gradient, key)

            progress = jnp.float32(plan.round_index + (s + 0.5) / len(batches))
            local, loss = algorithm.step(state.server, local, grad_fn, progress)
            total, seen = total + float(loss) * len(rows), seen + len(rows)
        turn = Turn(jnp.int32(k), jnp.float32(weight), jnp.int32(len(losses)), fold(noise, k))
        update, client = algorithm.end(state.server, local, turn)
        losses[k] = total / seen
        good = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((update, client, total)))
        kept |= {k: client} if good else {}
        updates |= {k: update} if good else {}
    before = ServerState(state.server, state.aggregate)
    server, aggregate = _server_half(federation, before, plan, updates, noise)
    return state._replace(server=server, clients=kept, aggregate=aggregate), losses


def _server_half(
    federation: Federation,
    before: ServerState,
    plan: HostPlan,
    updates: dict[int, Tree],
    noise: jax.Array,
) -> ServerState:
    """The server's state after a round, from the updates that were finite, by client."""
    if not updates:
        return before
    clients = sorted(updates)
    weights = federation.client_weight(clients, plan.asked)
    together = Cohort(jnp.array(clients), jnp.array(weights, jnp.float32), noise)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(updates[k] for k in clients))
    result = federation.aggregator.alone(before.aggregate, stacked, together)
    coverage = jnp.float32(federation.coverage(plan.asked))
    return close_round(federation.algorithm, before, result, coverage, noise)[0]


def batches_of(plan: HostPlan, client: int) -> list[np.ndarray]:
    """The rows of each of the client's batches in order, without the empty slots."""
    i = int(np.flatnonzero(plan.schedule.client == client)[0])
    device, lane = divmod(int(plan.schedule.lane[i]), plan.schedule.lanes)
    first, count = int(plan.schedule.first_step[i]), int(plan.schedule.num_steps[i])
    rows = plan.rows[device, first : first + count, lane]
    return [row[row >= 0] for row in rows]
