"""The gradient of one batch: that of its mean loss, unless a privacy mechanism has another.

A batch may be split over devices. So each device computes its share of the gradient, the shares are
summed over the devices, and each device finishes the sum in the same way.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ufm_jax.fed.algorithm import LossFn, Params, Tree


class Batch(NamedTuple):
    """One device's share of a batch.

    Attributes:
        examples: Leaves [B, ...].
        used: bool [B] False where an example only fills the batch.
        keys: [B] random keys.
        size: float32 [] the number of used examples on all devices.
    """

    examples: Tree
    used: jax.Array
    keys: jax.Array
    size: jax.Array


class Gradient(NamedTuple):
    """How the gradient of a batch is computed.

    Attributes:
        share: ``(loss_fn, params, batch) -> (loss, gradient)``: this device's share of both.
        finish: ``(gradient, key) -> gradient`` on the sum of the shares. The key belongs to this
            client and step, and is secret if the federation's noise is.
        repeatable: Whether a step may ask for more than one gradient.
    """

    share: Callable[[LossFn, Params, Batch], tuple[jax.Array, Params]]
    finish: Callable[[Params, jax.Array], Params]
    repeatable: bool


def mean_gradient() -> Gradient:
    """The gradient of the mean loss over the used examples."""

    def share(loss_fn: LossFn, params: Params, batch: Batch) -> tuple[jax.Array, Params]:
        def share_of_mean(params: Params) -> jax.Array:
            losses = checked_losses(loss_fn, params, batch)
            return jnp.where(batch.used, losses, 0).sum() / jnp.maximum(batch.size, 1)

        return jax.value_and_grad(share_of_mean)(params)

    return Gradient(share, lambda gradient, key: gradient, repeatable=True)


def checked_losses(loss_fn: LossFn, params: Params, batch: Batch) -> jax.Array:
    """The losses [B] of a batch.

    Raises:
        ValueError: If the loss function does not return one loss for each example.
    """
    losses = loss_fn(params, batch.examples, batch.keys)
    if losses.shape != batch.used.shape:
        raise ValueError(
            f"loss_fn returned shape {losses.shape}: it must give one loss an example, "
            f"{batch.used.shape}"
        )
    return losses
