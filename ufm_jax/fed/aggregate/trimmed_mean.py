"""The coordinate-wise trimmed mean.

Yin, Chen, Ramchandran and Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", ICML 2018 (Option II). Every client counts alike.
"""

import jax
import jax.numpy as jnp

from ufm_jax.fed.aggregate.ranks import mean_of_ranks, ranked
from ufm_jax.fed.aggregate.stacked import Rule


def trimmed_mean(hostile: int) -> Rule:
    """The mean of each coordinate without its ``hostile`` largest and smallest values.

    If clients were refused and too few are left for that, it is the median.
    """

    def combine(values: jax.Array, reference: jax.Array, c: jax.Array) -> jax.Array:
        del reference
        present = c > 0
        count = present.sum()
        cut = jnp.minimum(hostile, (count - 1) // 2)
        return mean_of_ranks(ranked(values, present), cut, count - cut)

    return Rule(combine, enough=2 * hostile + 1)
