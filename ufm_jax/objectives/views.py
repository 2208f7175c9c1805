"""Stored images as networks see them: augmented for training, whole for evaluation."""

import jax
import jax.numpy as jnp

from ufm_jax.config.model import EncoderConfig
from ufm_jax.fed.algorithm import Params, Tree
from ufm_jax.fed.keys import fold
from ufm_jax.models.classifier import Classifier
from ufm_jax.models.segmenter import Segmenter
from ufm_jax.ops.crop import resize
from ufm_jax.ops.normalise import normalise
from ufm_jax.ops.patches import patchify


def plain_views(batch: Tree, size: int) -> jax.Array:
    """Whole pictures, squeezed into squares: float32 [B, size, size, C] in 0..255.

    Args:
        batch: 'image' [B, S, S, C] and 'extent' [B, 2].
        size: Side of the squares.
    """
    return jax.vmap(lambda image, extent: resize(image.astype(jnp.float32), extent, size))(
        batch["image"], batch["extent"]
    )


def patches_of(pictures: jax.Array, model: EncoderConfig) -> jax.Array:
    """Normalised patches [B, N, P * P * channels] of pictures [B, H, W, C] in 0..255."""
    return patchify(normalise(pictures, model.channels), model.patch_size)


def training_logits(
    network: Classifier | Segmenter, params: Params, patches: jax.Array, keys: jax.Array
) -> jax.Array:
    """The network's logits with stochastic depth.

    The first example's key serves the batch: which examples drop a branch is drawn together.
    """
    rngs = {"drop_path": fold(keys[0], "drop_path")}
    logits: jax.Array = network.apply(  # type: ignore[assignment]
        {"params": params}, patches, deterministic=False, rngs=rngs
    )
    return logits
