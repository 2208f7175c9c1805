"""Example-level differential privacy inside each client: DP-SGD.

Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar and Zhang, "Deep Learning with Differential
Privacy", CCS 2016 (Algorithm 1). The gradient of a batch drawn with expected size B is

    g = (sum_b g_b min(1, C / |g_b|) + C z n) / B,    n standard normal

so that one example moves the sum by C at most. B is fixed: it does not depend on what was drawn.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ufm_jax.fed.aggregate.clipping import shrink
from ufm_jax.fed.algorithm import LossFn, Params, Tree
from ufm_jax.fed.gradient import Batch, Gradient, checked_losses
from ufm_jax.fed.privacy.noise import add_noise


def private_gradient(
    clip: float, noise_multiplier: float, batch_size: int, microbatch: int = 0
) -> Gradient:
    """The sum of the clipped gradients of the examples, plus noise.

    Args:
        clip: C, Euclidean norm over all parameters.
        noise_multiplier: z, the noise's standard deviation in units of C.
        batch_size: B, expected size of a batch.
        microbatch: How many examples' gradients, each as large as the model, are held at once; 0
            holds those of a whole batch.
    """

    def share(loss_fn: LossFn, params: Params, batch: Batch) -> tuple[jax.Array, Params]:
        def one(example: Tree, used: jax.Array, key: jax.Array) -> tuple[jax.Array, Params]:
            alone = jax.tree.map(lambda leaf: leaf[None], Batch(example, used, key, batch.size))

            def loss(params: Params) -> jax.Array:
                return checked_losses(loss_fn, params, alone)[0]

            value, grads = jax.value_and_grad(loss)(params)
            norm = optax.tree.norm(grads)
            factor = shrink(norm, clip)
            # Selected, not multiplied: the gradient of a filler may be nan. A used example's may be
            # too; it then counts as zero, since leaving its client out would be unbounded.
            kept = used & jnp.isfinite(norm) & jnp.isfinite(value)
            clipped = jax.tree.map(lambda leaf: jnp.where(kept, factor * leaf, 0), grads)
            return jnp.where(kept, value, 0), clipped

        parts = _microbatches((batch.examples, batch.used, batch.keys), microbatch)

        def add(i: jax.Array, total: Any) -> Any:
            of_each = jax.vmap(one)(*jax.tree.map(lambda leaf: leaf[i], parts))
            return jax.tree.map(lambda old, new: old + new.sum(axis=0), total, of_each)

        nothing = jax.tree.map(
            jnp.zeros_like, jax.eval_shape(one, *jax.tree.map(lambda leaf: leaf[0, 0], parts))
        )
        # Poisson batches have much more room than most of them need: empty ends are not visited.
        visited = jnp.max((1 + jnp.arange(len(parts[1]))) * parts[1].any(axis=1))
        loss, clipped = lax.fori_loop(0, visited, add, nothing)
        return loss / jnp.maximum(batch.size, 1), optax.tree.scale(1 / batch_size, clipped)

    def finish(gradient: Params, key: jax.Array) -> Params:
        return add_noise(gradient, noise_multiplier * clip / batch_size, key)

    return Gradient(share, finish, repeatable=False)


def _microbatches(tree: Tree, size: int) -> Tree:
    """Leaves [B, ...] cut into [B / size, size, ...].

    Raises:
        ValueError: If the size does not divide a batch.
    """
    count = len(jax.tree.leaves(tree)[0])
    if size and count % size:
        raise ValueError(
            f"privacy.microbatch={size} does not divide the {count} examples that a device holds "
            "of a batch: use a divisor, or 0 for all at once"
        )
    size = size or count
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).reshape(-1, size, *leaf.shape[1:]), tree)
