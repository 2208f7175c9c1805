"""Gaussian noise on a tree.

JAX's counter-based generator (Threefry-2x32, 20 rounds) draws it from a 64-bit key. Whoever knows
the key can subtract the noise, so that a promise needs a secret key, from ``Federation.noise``.
"""

import jax

from ufm_jax.fed.algorithm import Tree
from ufm_jax.fed.keys import fold


def add_noise(tree: Tree, deviation: float | jax.Array, key: jax.Array) -> Tree:
    """Adds independent noise of this standard deviation to every number of a tree."""
    leaves, structure = jax.tree.flatten(tree)
    noisy = [
        leaf + deviation * jax.random.normal(fold(key, i), leaf.shape, leaf.dtype)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, noisy)
