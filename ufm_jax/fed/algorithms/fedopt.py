"""FedAdam, FedYogi and FedAdagrad: adaptive server optimisers.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar and McMahan, "Adaptive Federated
Optimization", ICLR 2021 (Algorithm 2). With the mean pseudo-gradient g,

    m <- b1 m + (1 - b1) g
    v <- v + g^2                              FedAdagrad
    v <- v - (1 - b2) g^2 sign(v - g^2)       FedYogi
    v <- b2 v + (1 - b2) g^2                  FedAdam
    w <- w - rate m / (sqrt(v) + tau)

from m = 0 and v = tau^2. Unlike these, optax's optimisers correct the bias, and start v at 0.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ufm_jax.fed.algorithm import Params

Kind = Literal["adagrad", "yogi", "adam"]


class Moments(NamedTuple):
    """The running first and second moment of the pseudo-gradient."""

    first: Params
    second: Params


def adaptive(
    kind: Kind, b1: float = 0.9, b2: float = 0.99, tau: float = 1e-3
) -> optax.GradientTransformation:
    """``g -> m / (sqrt(v) + tau)``, to be scaled by the server's learning rate.

    Args:
        kind: The rule of the second moment.
        b1: Decay of the first moment.
        b2: Decay of the second moment; FedAdagrad does not use it.
        tau: Adaptivity: the larger it is, the closer the step is to plain momentum.
    """

    def second_moment(v: jax.Array, g: jax.Array) -> jax.Array:
        square = jnp.square(g)
        if kind == "adagrad":
            return v + square
        if kind == "yogi":
            return v - (1 - b2) * square * jnp.sign(v - square)
        return b2 * v + (1 - b2) * square

    def init(params: Params) -> Moments:
        return Moments(optax.tree.zeros_like(params), optax.tree.full_like(params, tau**2))

    def update(
        grads: Params, state: Moments, params: Params | None = None
    ) -> tuple[Params, Moments]:
        del params
        first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.first, grads)
        second = jax.tree.map(second_moment, state.second, grads)
        direction = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + tau), first, second)
        return direction, Moments(first, second)

    return optax.GradientTransformation(init, update)
