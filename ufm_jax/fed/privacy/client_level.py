"""Client-level differential privacy: noise hides what any one client does to the average.

McMahan, Ramage, Talwar and Zhang, "Learning Differentially Private Recurrent Language Models", ICLR
2018: each update is clipped to norm C, all weigh the same share s of the average, and the server
adds noise of deviation z C s. Neither s nor the average's divisor may depend on who takes part:
``aggregate.mean(renormalise=False)``.

With a quantile, C follows the updates' norms (Andrew, Thakkar, McMahan and Ramaswamy,
"Differentially Private Learning with Adaptive Clipping", NeurIPS 2021): clients also send whether
they stayed below C, and C <- C exp(-rate (share below + noise - quantile)).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ufm_jax.fed.aggregate.clipping import shrink
from ufm_jax.fed.algorithm import Tree, Turn
from ufm_jax.fed.keys import fold
from ufm_jax.fed.privacy.noise import add_noise
from ufm_jax.fed.updates.transform import Transform


class Adaptive(NamedTuple):
    """How the clipping norm follows the updates.

    Attributes:
        quantile: Share of the updates that shall lie below the norm.
        rate: Rate of the norm's geometric steps.
        noise: Deviation of the noise on the number of updates below the norm; the paper takes a
            twentieth of the cohort.
    """

    quantile: float
    rate: float
    noise: float


def private_updates(
    clip: float, noise_multiplier: float, share: float, adaptive: Adaptive | None = None
) -> Transform:
    """A transform that clips updates on the client, and adds noise to their average on the server.

    It must be the last of a chain, since a later transform could make an update longer again.

    Args:
        clip: C, or its first value: Euclidean norm of the whole update.
        noise_multiplier: z, for updates and counts together.
        share: s, the weight of every client in the average: one over the expected cohort.
        adaptive: How C follows the updates; None keeps it.

    Raises:
        ValueError: If the noise on counts alone exceeds what z allows.
    """
    multiplier = noise_multiplier if adaptive is None else split(noise_multiplier, adaptive.noise)

    def send(norm: Tree, client: Tree, update: Tree, turn: Turn) -> tuple[Tree, Tree, Tree]:
        del turn
        length = optax.tree.norm(update)
        below = (length <= norm).astype(jnp.float32) - 0.5 if adaptive else ()
        return optax.tree.scale(shrink(length, norm), update), client, below

    def receive(norm: Tree, mean: Tree, below: Tree, key: jax.Array) -> tuple[Tree, Tree]:
        noisy = add_noise(mean, multiplier * share * norm, fold(key, "updates"))
        if adaptive is None:
            return norm, noisy
        share_below = 0.5 + add_noise(below, adaptive.noise * share, fold(key, "counts"))
        return norm * jnp.exp(-adaptive.rate * (share_below - adaptive.quantile)), noisy

    return Transform(send, receive, init_server=lambda update: jnp.float32(clip))


def split(noise_multiplier: float, count_noise: float) -> float:
    """The noise multiplier that is left for updates if counts with their own noise are sent too.

    A count moves by 1/2, so that z^-2 = z_updates^-2 + (2 count_noise)^-2 (Andrew et al., Theorem
    1).

    Raises:
        ValueError: If the counts alone use up ``noise_multiplier``.
    """
    if noise_multiplier == 0:
        return 0.0
    left = noise_multiplier**-2 - (2 * count_noise) ** -2 if count_noise > 0 else -1.0
    if left <= 0:
        raise ValueError(
            f"count noise {count_noise} spends more than noise_multiplier={noise_multiplier} "
            f"allows: use more than {noise_multiplier / 2}"
        )
    return 1 / math.sqrt(left)
