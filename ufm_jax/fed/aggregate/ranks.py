"""Order statistics over the clients that are present, whose number is data."""

import jax
import jax.numpy as jnp


def ranked(values: jax.Array, present: jax.Array) -> jax.Array:
    """[S, m] values sorted along the first axis; those of absent clients come last, as infinity."""
    return jnp.sort(jnp.where(present[:, None], values, jnp.inf), axis=0)


def mean_of_ranks(ordered: jax.Array, first: jax.Array, last: jax.Array) -> jax.Array:
    """[m] mean of the ranks ``first <= rank < last`` of sorted values [S, m]."""
    rank = jnp.arange(len(ordered))[:, None]
    kept = (rank >= first) & (rank < last)
    return jnp.where(kept, ordered, 0).sum(axis=0) / jnp.maximum(last - first, 1)


def middle(ordered: jax.Array, count: jax.Array) -> jax.Array:
    """[m] median of the first ``count`` of sorted values [S, m]."""
    return mean_of_ranks(ordered, (count - 1) // 2, count // 2 + 1)
