"""Gradient inversion: images sought whose gradient is the one that was seen.

Geiping, Bauermeister, Droege and Moeller, "Inverting Gradients: How Easy Is It to Break Privacy in
Federated Learning?", NeurIPS 2020: from noise, Adam turns pixels until the cosine of the two
gradients is largest, with a penalty on total variation. The attacker knows parameters, masks and
the number of images, and the client took one step on one batch without augmentation: an upper bound
on what this attack can do, and none on what another could.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from jax import lax
from scipy.optimize import linear_sum_assignment

from ufm_jax.fed.algorithm import Params

GradientOf = Callable[[jax.Array], Params]
"""``pictures [B, H, W, C] in 0..255 -> gradient`` of their mean loss."""


class Attack(NamedTuple):
    """How hard the attacker tries.

    Attributes:
        steps: Of Adam.
        rate: Its peak learning rate, in standard deviations of pixels.
        smoothness: Weight of the total variation beside 1 - cosine.
    """

    steps: int = 1500
    rate: float = 0.05
    smoothness: float = 1e-3


class Inverted(NamedTuple):
    """What an attack found.

    Attributes:
        pictures: float32 [B, H, W, C] in 0..255.
        cosine: Of the gradient that was seen with that of the pictures.
    """

    pictures: npt.NDArray[np.float32]
    cosine: float


def invert(
    gradient_of: GradientOf, seen: Params, shape: tuple[int, ...], key: jax.Array, attack: Attack
) -> Inverted:
    """Seeks pictures whose gradient points where the one that was seen does.

    Args:
        gradient_of: The attacker's model of the client.
        seen: What the client sent.
        shape: [B, H, W, C] of the pictures sought.
        key: Where the search begins.
        attack: How hard it tries.
    """
    target = _unit(seen)

    def cosine_of(x: jax.Array) -> jax.Array:
        return optax.tree.vdot(_unit(gradient_of(_pixels(x))), target)

    def cost(x: jax.Array) -> jax.Array:
        down, across = jnp.abs(jnp.diff(x, axis=1)).mean(), jnp.abs(jnp.diff(x, axis=2)).mean()
        return 1 - cosine_of(x) + attack.smoothness * (down + across)

    optimizer = optax.adam(optax.cosine_decay_schedule(attack.rate, attack.steps))

    def step(
        i: jax.Array, carry: tuple[jax.Array, optax.OptState]
    ) -> tuple[jax.Array, optax.OptState]:
        del i
        x, state = carry
        updates, state = optimizer.update(jax.grad(cost)(x), state)
        return _in_range(x + updates), state

    @jax.jit
    def search(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = 0.1 * jax.random.normal(key, shape)
        x, _ = lax.fori_loop(0, attack.steps, step, (x, optimizer.init(x)))
        return _pixels(x), cosine_of(x)

    pictures, cosine = search(key)
    return Inverted(np.asarray(pictures), float(cosine))


def matched(found: npt.NDArray[np.float32], true: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """For each true picture [B, ...] the found one [N >= B, ...] in the closest pairing."""
    errors = np.square(found[None] - true[:, None]).mean(axis=(2, 3, 4))
    return linear_sum_assignment(errors)[1]


def peak_signal(
    found: npt.NDArray[np.float32], true: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB of pictures [B, H, W, C] in 0..255, [B]."""
    error = np.square(found.astype(np.float64) - true).mean(axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-9))


def _unit(tree: Params) -> Params:
    length = optax.tree.norm(tree)
    return optax.tree.scale(1 / jnp.maximum(length, jnp.finfo(jnp.float32).tiny), tree)


def _pixels(x: jax.Array) -> jax.Array:
    return 127.5 + 63.75 * x


def _in_range(x: jax.Array) -> jax.Array:
    return jnp.clip(x, -2, 2)
