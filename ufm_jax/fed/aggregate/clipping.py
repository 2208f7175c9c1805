"""Norm clipping: no client moves the mean by more than its share of a given length.

Sun, Kairouz, Suresh and McMahan, "Can You Really Backdoor Federated Learning?", 2019.
"""

import jax
import jax.numpy as jnp

from ufm_jax.fed.aggregate.stacked import Distances, Rule


def norm_clipping(norm: float) -> Rule:
    """The weighted mean of the updates, of which longer ones are scaled down to ``norm``."""

    def weigh(distances: Distances, p: jax.Array) -> jax.Array:
        return p * shrink(jnp.sqrt(distances.norms), norm)

    return Rule(weigh=weigh)


def shrink(length: jax.Array, norm: jax.Array | float) -> jax.Array:
    """Factors that bring vectors of these lengths to at most ``norm``."""
    return jnp.minimum(1, norm / jnp.maximum(length, jnp.finfo(length.dtype).tiny))
