"""The same round as a plain Python loop: the oracle of the tests.

No lanes, no devices, no event table, no padding: one client after another, one step after another,
with the same keys and the same batches. It reads like the algorithm's pseudocode, and is slow.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.fed.algorithm import Params, Tree
from ufm_jax.fed.federation import Federation, HostPlan
from ufm_jax.fed.keys import example_keys, fold


def reference_round(
    federation: Federation, server: Any, clients: dict[int, Tree], examples: Tree, plan: HostPlan
) -> tuple[Any, dict[int, Tree], dict[int, float]]:
    """Runs one round.

    Args:
        federation: What to run; its placement is not used.
        server: The algorithm's server state.
        clients: State of each client that has trained before; the others start afresh.
        examples: All examples, [R, ...], on the host.
        plan: Its cohort and batches are used, its packing is not.

    Returns:
        The new server state, the clients' new states, and each client's mean loss.
    """
    algorithm, root = federation.algorithm, jax.random.key(federation.seed)
    updates, weights, losses, kept = [], [], {}, dict(clients)
    cohort = sorted(int(client) for client in plan.schedule.client)
    for k, weight in zip(cohort, federation.client_weight(cohort), strict=True):
        state = clients[k] if k in clients else algorithm.init_client(server.params)
        local = algorithm.start(server, state)
        batches = _batches_of(plan, k)
        total, seen = 0.0, 0
        for s, rows in enumerate(batches):
            key = fold(root, plan.round_index, k, s)
            keys = example_keys(key, jnp.arange(len(rows)))
            batch = jax.tree.map(lambda leaf, rows=rows: leaf[rows], examples)

            def mean_loss(params: Params, batch: Tree = batch, keys: jax.Array = keys) -> jax.Array:
                return federation.loss_fn(params, batch, keys).mean()

            progress = jnp.float32(plan.round_index + s / len(batches))
            local, loss = algorithm.step(server, local, jax.value_and_grad(mean_loss), progress)
            total, seen = total + float(loss) * len(rows), seen + len(rows)
        update, state = algorithm.end(server, local)
        losses[k] = total / seen
        if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((update, state, total))):
            kept[k] = state
            updates.append(update)
            weights.append(weight)
    if not updates:
        return server, kept, losses
    share = np.asarray(weights) / np.sum(weights)
    mean = jax.tree.map(
        lambda *leaves: sum(p * x for p, x in zip(share, leaves, strict=True)), *updates
    )
    return algorithm.update_server(server, mean), kept, losses


def _batches_of(plan: HostPlan, client: int) -> list[np.ndarray]:
    """The client's batches in order, without what fills partial ones."""
    i = int(np.flatnonzero(plan.schedule.client == client)[0])
    device, lane = divmod(int(plan.schedule.lane[i]), plan.schedule.lanes)
    first, count = int(plan.schedule.first_step[i]), int(plan.schedule.num_steps[i])
    rows = plan.rows[device, first : first + count, lane]
    return [row[row >= 0] for row in rows]
