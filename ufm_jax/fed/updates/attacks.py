"""Attacks to test aggregation rules with: hostile clients do not send their true update.

A client that acts alone knows its own update: ``sign_flip``, ``random_noise``, ``stale_replay``.
Colluding clients know all updates, in ``aggregate.stacked``: ``little_is_enough``,
``inner_product``. ``flip_labels`` poisons data in place of updates.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from ufm_jax.fed.aggregate.stacked import Attack
from ufm_jax.fed.algorithm import Tree, Turn
from ufm_jax.fed.trees import map_with_keys, select, zeros
from ufm_jax.fed.updates.transform import Transform


def _by(hostile: Sequence[int], corrupt: Callable[[Tree, jax.Array], Tree]) -> Transform:
    """A transform that corrupts the updates of the clients with these numbers."""
    numbers = jnp.array(hostile, jnp.int32)

    def send(server: Tree, client: Tree, update: Tree, turn: Turn) -> tuple[Tree, Tree, Tree]:
        del server
        return select(jnp.isin(turn.client, numbers), corrupt(update, turn.key), update), client, ()

    return Transform(send)


def sign_flip(hostile: Sequence[int], scale: float = 1.0) -> Transform:
    """Hostile clients send the negative of their update, ``scale`` times as long."""
    return _by(hostile, lambda update, key: jax.tree.map(lambda leaf: -scale * leaf, update))


def random_noise(hostile: Sequence[int], scale: float) -> Transform:
    """Hostile clients send Gaussian noise, ``scale`` times each array's root mean square."""

    def noise(leaf: jax.Array, key: jax.Array) -> jax.Array:
        deviation = scale * jnp.sqrt(jnp.square(leaf).mean())
        return deviation * jax.random.normal(key, leaf.shape, leaf.dtype)

    return _by(hostile, partial(map_with_keys, noise))


def stale_replay(hostile: Sequence[int]) -> Transform:
    """Hostile clients send the update of their first round in every round."""
    numbers = jnp.array(hostile, jnp.int32)

    def send(server: Tree, kept: Tree, update: Tree, turn: Turn) -> tuple[Tree, Tree, Tree]:
        del server
        first, has_sent = kept
        first = select(has_sent, first, update)
        sent = select(jnp.isin(turn.client, numbers), first, update)
        return sent, (first, jnp.bool_(True)), ()

    return Transform(
        send, init_client=lambda update: (zeros(update), jnp.bool_(False)), stateful=True
    )


def little_is_enough(deviations: float) -> Attack:
    """Hostile clients send the honest mean, moved by some standard deviations per coordinate.

    Baruch, Baruch and Goldberg, "A Little Is Enough: Circumventing Defenses For Distributed
    Learning", NeurIPS 2019: small enough to look honest, alike enough to add up.

    Args:
        deviations: z. With n clients, f of them hostile, the paper takes the z whose normal
            quantile is (n - f - s) / (n - f), where s = floor(n / 2 + 1) - f.
    """

    def attack(values: jax.Array, hostile: jax.Array, honest: jax.Array) -> jax.Array:
        mean = _mean(values, honest)
        spread = jnp.sqrt(_mean(jnp.square(values - mean), honest))
        return jnp.where(hostile[:, None], mean - deviations * spread, values)

    return attack


def inner_product(scale: float) -> Attack:
    """Hostile clients send the negative honest mean, to turn the aggregate against it.

    Xie, Koyejo and Gupta, "Fall of Empires: Breaking Byzantine-Tolerant SGD by Inner Product
    Manipulation", UAI 2019.

    Args:
        scale: Length as a multiple of the honest mean's.
    """

    def attack(values: jax.Array, hostile: jax.Array, honest: jax.Array) -> jax.Array:
        return jnp.where(hostile[:, None], -scale * _mean(values, honest), values)

    return attack


def flip_labels(
    labels: npt.NDArray[np.integer],
    offsets: npt.ArrayLike,
    hostile: Sequence[int],
    num_classes: int,
) -> npt.NDArray[np.integer]:
    """Labels [R] in which each label c of a hostile client is C - 1 - c.

    Args:
        labels: Labels of all clients; negative where unknown.
        offsets: [K + 1]; client k owns the rows ``offsets[k] .. offsets[k + 1]``.
        hostile: Numbers of the hostile clients.
        num_classes: C.
    """
    flipped, bounds = labels.copy(), np.asarray(offsets)
    for k in hostile:
        own = flipped[bounds[k] : bounds[k + 1]]
        own[own >= 0] = num_classes - 1 - own[own >= 0]
    return flipped


def _mean(values: jax.Array, among: jax.Array) -> jax.Array:
    """[m] mean of the rows of [S, m] for which ``among`` [S] holds."""
    count = jnp.maximum(among.sum(), 1)
    return jnp.where(among[:, None], values, 0).sum(axis=0) / count
