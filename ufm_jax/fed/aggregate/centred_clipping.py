"""Centred clipping: the mean of updates that are clipped around the last aggregate.

Karimireddy, He and Jaggi, "Learning from History for Byzantine Robust Optimization", ICML 2021
(Algorithm 2). An attack that hides in the variance of one round adds up over rounds, unless each
round starts from the last aggregate v: v <- v + sum_i p_i (x_i - v) min(1, tau / |x_i - v|).
"""

import jax
import jax.numpy as jnp
from jax import lax

from ufm_jax.fed.aggregate.clipping import shrink
from ufm_jax.fed.aggregate.stacked import Distances, Rule


def centred_clipping(norm: float, iterations: int = 1) -> Rule:
    """Centred clipping at radius ``norm``, repeated ``iterations`` times in a round."""

    def weigh(distances: Distances, p: jax.Array) -> jax.Array:
        # With u_i = x_i - v, each iteration reaches the point v + sum_j c_j u_j.
        norms = distances.norms
        products = (norms[:, None] + norms - distances.between) / 2

        def step(i: jax.Array, c: jax.Array) -> jax.Array:
            del i
            squared = norms - 2 * products @ c + c @ products @ c
            pull = p * shrink(jnp.sqrt(jnp.maximum(squared, 0)), norm)
            return c - pull.sum() * c + pull

        return lax.fori_loop(0, iterations, step, jnp.zeros_like(p))

    return Rule(weigh=weigh, keeps_last=True)
