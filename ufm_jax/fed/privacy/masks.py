"""Masks that hide one client's numbers and cancel in the sum, modulo 2^32.

Each pair of clients i < j of a cohort has a mask m_ij, uniform over the 32-bit words. What client i
sends is

    y_i = x_i + s_i + sum_{j > i} m_ij - sum_{j < i} m_ji    (mod 2^32)

with a mask s_i of its own (Bonawitz et al., CCS 2017, section 4). JAX's counter-based generator
draws the masks from keys that are folded from the round's secret key; in ``protocol``, each pair
agrees on a seed instead.
"""

import jax
import jax.numpy as jnp
from jax import lax

from ufm_jax.fed.aggregate.aggregator import Cohort
from ufm_jax.fed.keys import fold


def add_masks(
    words: jax.Array, client: jax.Array, others: jax.Array, cohort: Cohort, *, sign: int = 1
) -> jax.Array:
    """Adds a client's own mask and those that it shares with others.

    One mask is drawn at a time, so that this needs one array of the words' size beside them,
    however many clients there are.

    Args:
        words: uint32 [n].
        client: int32 [] the client's number.
        others: bool [D * P] the places of ``cohort`` with which masks are shared; the client's own
            place does not count.
        cohort: The clients of the round.
        sign: 1 adds the masks, -1 takes them out.
    """

    def drawn(key: jax.Array) -> jax.Array:
        return jax.random.bits(key, words.shape, jnp.uint32)

    def signed(total: jax.Array, mask: jax.Array, positive: jax.Array | bool) -> jax.Array:
        return jnp.where(positive == (sign > 0), total + mask, total - mask)

    def with_pair(place: jax.Array, total: jax.Array) -> jax.Array:
        other = cohort.client[place]

        def shared() -> jax.Array:
            low, high = jnp.minimum(client, other), jnp.maximum(client, other)
            mask = drawn(fold(cohort.key, "pair mask", low, high))
            return signed(total, mask, other > client)

        return lax.cond(others[place] & (other != client), shared, lambda: total)

    own = drawn(fold(cohort.key, "own mask", client))
    return lax.fori_loop(0, len(cohort.client), with_pair, signed(words, own, True))
