"""Attacks to test aggregation rules with: hostile clients, which send something else.

``alone`` they know their own update: ``sign_flip``, ``random_noise``, ``stale_replay``. Colluding
ones know what everyone sends, and are attacks of ``aggregate.stacked``: ``little_is_enough``,
``inner_product``.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ufm_jax.fed.aggregate.stacked import Attack
from ufm_jax.fed.algorithm import Tree, Turn
from ufm_jax.fed.keys import fold
from ufm_jax.fed.trees import select, zeros
from ufm_jax.fed.updates.transform import Transform


def _by(hostile: Sequence[int], corrupt: Callable[[Tree, jax.Array], Tree]) -> Transform:
    """What the clients of these numbers send in place of their update."""
    numbers = jnp.array(hostile, jnp.int32)

    def send(server: Tree, client: Tree, update: Tree, turn: Turn) -> tuple[Tree, Tree, Tree]:
        del server
        return select(jnp.isin(turn.client, numbers), corrupt(update, turn.key), update), client, ()

    return Transform(send)


def sign_flip(hostile: Sequence[int], scale: float = 1.0) -> Transform:
    """Their update turned round, and ``scale`` times as long."""
    return _by(hostile, lambda update, key: jax.tree.map(lambda leaf: -scale * leaf, update))


def random_noise(hostile: Sequence[int], scale: float) -> Transform:
    """Gaussian noise, ``scale`` times the root mean square of each array of their update."""

    def corrupt(update: Tree, key: jax.Array) -> Tree:
        leaves, structure = jax.tree.flatten(update)
        noise = [
            scale
            * jnp.sqrt(jnp.square(leaf).mean())
            * jax.random.normal(fold(key, i), leaf.shape, leaf.dtype)
            for i, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(structure, noise)

    return _by(hostile, corrupt)


def stale_replay(hostile: Sequence[int]) -> Transform:
    """The update of their first round, again and again."""
    numbers = jnp.array(hostile, jnp.int32)

    def send(server: Tree, kept: Tree, update: Tree, turn: Turn) -> tuple[Tree, Tree, Tree]:
        del server
        first, seen = kept
        first = select(seen, first, update)
        sent = select(jnp.isin(turn.client, numbers), first, update)
        return sent, (first, jnp.bool_(True)), ()

    return Transform(
        send, init_client=lambda update: (zeros(update), jnp.bool_(False)), stateful=True
    )


def little_is_enough(deviations: float) -> Attack:
    """The honest mean, moved by some standard deviations of each coordinate.

    Baruch, Baruch and Goldberg, "A Little Is Enough: Circumventing Defenses For Distributed
    Learning", NeurIPS 2019: small enough to look honest, alike enough to add up.

    Args:
        deviations: z; of n clients, f of them hostile, the paper takes the z whose normal
            quantile is (n - f - s) / (n - f), with s = floor(n / 2 + 1) - f.
    """

    def attack(values: jax.Array, hostile: jax.Array, honest: jax.Array) -> jax.Array:
        mean = _mean(values, honest)
        spread = jnp.sqrt(_mean(jnp.square(values - mean), honest))
        return jnp.where(hostile[:, None], mean - deviations * spread, values)

    return attack


def inner_product(scale: float) -> Attack:
    """The honest mean turned round, so that the aggregate's product with it becomes negative.

    Xie, Koyejo and Gupta, "Fall of Empires: Breaking Byzantine-Tolerant SGD by Inner Product
    Manipulation", UAI 2019.

    Args:
        scale: Length, in honest means.
    """

    def attack(values: jax.Array, hostile: jax.Array, honest: jax.Array) -> jax.Array:
        return jnp.where(hostile[:, None], -scale * _mean(values, honest), values)

    return attack


def _mean(values: jax.Array, among: jax.Array) -> jax.Array:
    """[m] mean of those rows of [S, m]."""
    count = jnp.maximum(among.sum(), 1)
    return jnp.where(among[:, None], values, 0).sum(axis=0) / count
