"""The geometric median, by the smoothed Weiszfeld algorithm.

Pillutla, Kakade and Harchaoui, "Robust Aggregation for Federated Learning", IEEE Transactions on
Signal Processing 2022 (RFA, Algorithm 2). The point z of least ``sum_i p_i |x_i - z|`` is a
weighted mean of the updates, z = sum_j c_j x_j, so its iterations need their distances alone:

    |x_i - z|^2 = sum_j c_j |x_i - x_j|^2 - 1/2 sum_jk c_j c_k |x_j - x_k|^2
"""

import jax
import jax.numpy as jnp
from jax import lax

from ufm_jax.fed.aggregate.stacked import Distances, Rule


def geometric_median(iterations: int = 10, smoothing: float = 1e-6) -> Rule:
    """The geometric median, weighted by the clients' shares.

    Args:
        iterations: Of Weiszfeld; the paper finds that 3 do.
        smoothing: Distances below it count as it.
    """

    def weigh(distances: Distances, p: jax.Array) -> jax.Array:
        between = distances.between

        def closer(i: jax.Array, c: jax.Array) -> jax.Array:
            del i
            squared = between @ c - (c @ between @ c) / 2
            inverse = p / jnp.maximum(jnp.sqrt(jnp.maximum(squared, 0)), smoothing)
            return inverse / inverse.sum()

        return lax.fori_loop(0, iterations, closer, p)

    return Rule(weigh=weigh)
