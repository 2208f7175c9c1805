"""The geometric median, by the smoothed Weiszfeld algorithm.

Pillutla, Kakade and Harchaoui, "Robust Aggregation for Federated Learning", IEEE Transactions on
Signal Processing 2022 (RFA, Algorithm 2). The point z of least ``sum_i p_i |x_i - z|`` is a
weighted mean of the updates, z = sum_j c_j x_j, so its iterations need their distances alone:

    |x_i - z|^2 = sum_j c_j |x_i - x_j|^2 - 1/2 sum_jk c_j c_k |x_j - x_k|^2
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ufm_jax.fed.aggregate.stacked import Distances, Rule

_MOST_STEPS = 200
_STILL = 1e-7
_FARTHEST = 1e4


def geometric_median(smoothing: float = 1e-6) -> Rule:
    """The geometric median, weighted by the clients' shares.

    It is iterated until it stands still, since after the paper's 3 steps distant hostile updates
    still draw it. A step costs S^2 products and no pass over the updates. Updates more than 10^4
    times as far off as is typical are left out, which moves the median by at most the others'
    spread.

    Args:
        smoothing: The least distance; shorter ones count as this.
    """

    def weigh(distances: Distances, p: jax.Array) -> jax.Array:
        between = distances.between
        # The squares of longer distances would drown the others in float32.
        spread = _weighted_median(between, p)
        near = spread <= _FARTHEST**2 * _weighted_median(spread, p)
        p = jnp.where(near, p, 0) / jnp.where(near, p, 0).sum()

        def closer(carry: tuple[jax.Array, jax.Array, jax.Array]) -> Any:
            i, _, c = carry
            squared = between @ c - (c @ between @ c) / 2
            inverse = p / jnp.maximum(jnp.sqrt(jnp.maximum(squared, 0)), smoothing)
            return i + 1, c, inverse / inverse.sum()

        def moves(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            i, before, c = carry
            return (i < _MOST_STEPS) & (jnp.abs(c - before).max() > _STILL)

        c: jax.Array = lax.while_loop(moves, closer, (jnp.int32(0), p - 1, p))[2]
        return c

    return Rule(weigh=weigh)


def _weighted_median(values: jax.Array, p: jax.Array) -> jax.Array:
    """[...] the least of values [..., S] up to which half of the weight p [S] lies."""
    order = jnp.argsort(values, axis=-1)
    half = jnp.cumsum(p[order], axis=-1) >= p.sum() / 2
    place = jnp.argmax(half, axis=-1)[..., None]
    return jnp.take_along_axis(jnp.take_along_axis(values, order, -1), place, -1)[..., 0]
