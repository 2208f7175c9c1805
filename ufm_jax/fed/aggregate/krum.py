"""Krum and Multi-Krum.

Blanchard, El Mhamdi, Guerraoui and Stainer, "Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent", NeurIPS 2017. The score of an update is the sum of its squared distances to the
n - f - 2 nearest others; Krum takes the update of the lowest score, Multi-Krum the mean of several.
Every client counts alike.
"""

import jax
import jax.numpy as jnp

from ufm_jax.fed.aggregate.stacked import Distances, Rule


def krum(hostile: int) -> Rule:
    """The one update that lies closest to the others."""
    return multi_krum(hostile, keep=1)


def multi_krum(hostile: int, keep: int = 0) -> Rule:
    """The mean of the ``keep`` updates of lowest score; 0 keeps all but ``hostile``."""

    def weigh(distances: Distances, p: jax.Array) -> jax.Array:
        present = p > 0
        wanted = keep or present.sum() - hostile
        scores = krum_scores(distances.between, present, hostile)
        rank = jnp.argsort(jnp.argsort(scores))
        kept = (rank < jnp.maximum(wanted, 1)) & present
        return kept / kept.sum()

    return Rule(weigh=weigh, enough=2 * hostile + 3)


def krum_scores(between: jax.Array, present: jax.Array, hostile: int) -> jax.Array:
    """[S] Krum's scores from squared distances [S, S]; infinite for absent clients.

    If n - f - 2 is less than one neighbour, the nearest one counts.
    """
    others = present & present[:, None] & ~jnp.eye(len(between), dtype=bool)
    ordered = jnp.sort(jnp.where(others, between, jnp.inf), axis=1)
    count = present.sum()
    # Neighbours are counted by number: a distance that overflowed to infinity must count.
    neighbours = jnp.clip(count - hostile - 2, 1, jnp.maximum(count - 1, 0))
    nearest = jnp.arange(len(between)) < neighbours
    return jnp.where(present, jnp.where(nearest, ordered, 0).sum(axis=1), jnp.inf)
