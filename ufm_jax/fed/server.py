"""The server's half of a round, for a server that stands apart from its clients (``site``).

It ends as the compiled round does, with ``engine.close_round``.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from ufm_jax.fed.aggregate.aggregator import Cohort
from ufm_jax.fed.algorithm import Params, Tree, Turn, update_shape
from ufm_jax.fed.engine import ServerState, close_round
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.keys import fold
from ufm_jax.fed.lanes import vary
from ufm_jax.fed.placement import CLIENTS, make_placement
from ufm_jax.fed.schedule import IntArray, pack


def first_state(federation: Federation, params: Params) -> ServerState:
    """The server's state before the first round."""
    algorithm = federation.algorithm
    server, client = algorithm.init_server(params), algorithm.init_client(params)
    return ServerState(server, federation.aggregator.init(update_shape(algorithm, server, client)))


def round_noise(federation: Federation, round_index: int) -> jax.Array:
    """The key from which the noise of a round is folded, at the server and at each client."""
    return fold(jax.random.wrap_key_data(jnp.asarray(federation.noise_words)), round_index)


def server_half(
    federation: Federation,
    before: ServerState,
    round_index: int,
    asked: Sequence[int] | IntArray,
    updates: Mapping[int, Tree],
) -> tuple[ServerState, jax.Array]:
    """The server's state after a round, and the share of the population's weight in the aggregate.

    Updates are added one after another, in the order of a device with one lane.

    Args:
        federation: The clients' numbers, sizes and weights; its placement is not used.
        before: The state before the round.
        round_index: The round.
        asked: The clients that were asked.
        updates: What came back of them, by client; those that are not finite are left out.
    """
    if not updates:
        return before, jnp.float32(0)
    clients = pack(list(updates), federation.num_steps[list(updates)]).client
    weights = jnp.asarray(federation.client_weight(clients, asked).astype(np.float32))
    key, coverage = round_noise(federation, round_index), jnp.float32(federation.coverage(asked))
    algorithm, aggregator = federation.algorithm, federation.aggregator

    def close(
        before: ServerState, updates: Sequence[Tree], cohort: Cohort
    ) -> tuple[ServerState, jax.Array]:
        own, everybodys = vary((updates, cohort), CLIENTS)
        gathered = vary(aggregator.empty(jax.eval_shape(lambda: updates[0]), len(updates)), CLIENTS)
        for i, update in enumerate(own):
            client = everybodys.client[i]
            turn = Turn(client, everybodys.weight[i], jnp.int32(i), fold(everybodys.key, client))
            gathered = aggregator.add(gathered, update, turn, everybodys)
        result = aggregator.result(before.aggregate, gathered, cohort)
        return close_round(algorithm, before, result, coverage, cohort.key)

    mesh = make_placement(1).mesh
    one_device = jax.shard_map(
        close, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec()
    )
    cohort = Cohort(jnp.asarray(clients, jnp.int32), weights, key)
    state, share = jax.jit(one_device)(before, [updates[int(k)] for k in clients], cohort)
    return ServerState(*state), share
