"""Bulyan: a selection by Krum, then a mean around the median of each coordinate.

El Mhamdi, Guerraoui and Rouault, "The Hidden Vulnerability of Distributed Learning in Byzantium",
ICML 2018. Krum bounds the distance of an update, but not its single coordinates. Bulyan therefore
lets Krum choose n - 2 f updates one after another, and averages at each coordinate the n - 4 f
values closest to their median. Every client counts alike.
"""

import jax
import jax.numpy as jnp
from jax import lax

from ufm_jax.fed.aggregate.krum import krum_scores
from ufm_jax.fed.aggregate.ranks import mean_of_ranks, middle, ranked
from ufm_jax.fed.aggregate.stacked import Distances, Rule


def bulyan(hostile: int) -> Rule:
    """Bulyan for at most ``hostile`` hostile clients; its guarantee needs 4 f + 3 clients."""

    def weigh(distances: Distances, p: jax.Array) -> jax.Array:
        present = p > 0
        wanted = jnp.maximum(present.sum() - 2 * hostile, 1)

        def choose(i: jax.Array, chosen: jax.Array) -> jax.Array:
            scores = krum_scores(distances.between, present & ~chosen, hostile)
            return chosen.at[jnp.argmin(scores)].set(True)

        chosen = lax.fori_loop(0, wanted, choose, jnp.zeros_like(present))
        return chosen / wanted

    def combine(values: jax.Array, reference: jax.Array, c: jax.Array) -> jax.Array:
        del reference
        chosen = c > 0
        count = chosen.sum()
        centre = middle(ranked(values, chosen), count)
        distance = jnp.where(chosen[:, None], jnp.abs(values - centre), jnp.inf)
        # Between two values as far, the lower comes first, wherever their clients trained.
        _, nearest_first = lax.sort((distance, values), dimension=0, num_keys=2)
        return mean_of_ranks(nearest_first, jnp.int32(0), jnp.maximum(count - 2 * hostile, 1))

    return Rule(combine, weigh, enough=4 * hostile + 3)
