"""The coordinate-wise median.

Yin, Chen, Ramchandran and Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", ICML 2018 (Option I). Every client counts alike.
"""

import jax

from ufm_jax.fed.aggregate.ranks import middle, ranked
from ufm_jax.fed.aggregate.stacked import Rule


def median(hostile: int = 0) -> Rule:
    """The median of each coordinate; fewer than half of the clients may be ``hostile``."""

    def combine(values: jax.Array, reference: jax.Array, c: jax.Array) -> jax.Array:
        del reference
        present = c > 0
        return middle(ranked(values, present), present.sum())

    return Rule(combine, enough=2 * hostile + 1)
