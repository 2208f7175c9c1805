"""Gaussian noise on a tree.

JAX's counter-based generator (Threefry-2x32, 20 rounds) draws it from a 64-bit key. Whoever knows
the key can subtract the noise, so that a promise needs a secret key, from ``Federation.noise``.
"""

import jax

from ufm_jax.fed.algorithm import Tree
from ufm_jax.fed.trees import map_with_keys


def add_noise(tree: Tree, deviation: float | jax.Array, key: jax.Array) -> Tree:
    """Adds independent noise of this standard deviation to every number of a tree."""

    def noisy(leaf: jax.Array, key: jax.Array) -> jax.Array:
        return leaf + deviation * jax.random.normal(key, leaf.shape, leaf.dtype)

    return map_with_keys(noisy, tree, key)
