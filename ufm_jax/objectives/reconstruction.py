"""The masked-autoencoding objective, from stored pixels to a loss for each example.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, as UltraFedFM (npj
Digital Medicine 8:714, 2025) changes it: the encoder sees a degraded image, the target is the clean
one, and textured patches are hidden more often. Everything here runs inside the compiled round.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ufm_jax.config.model import ModelConfig
from ufm_jax.config.pretraining import AugmentConfig
from ufm_jax.fed.algorithm import LossFn, Params, Tree
from ufm_jax.fed.keys import fold
from ufm_jax.models.mae import MAE
from ufm_jax.models.sizes import SIZES
from ufm_jax.objectives.views import plain_views
from ufm_jax.ops.crop import random_flip, random_resized_crop
from ufm_jax.ops.degrade import degrade
from ufm_jax.ops.losses import masked_patch_loss
from ufm_jax.ops.masking import Masking, texture_mask
from ufm_jax.ops.normalise import normalise
from ufm_jax.ops.patches import patchify
from ufm_jax.ops.scan_conversion import random_convert
from ufm_jax.ops.texture import texture_scores

FIELDS = ("image", "extent", "geometry")
"""Fields of a stored row that the loss reads."""


class View(NamedTuple):
    """One image as the objective sees it.

    Attributes:
        clean: float32 [H, W, C] in 0..255, the target.
        degraded: float32 [H, W, C] in 0..255, what the encoder sees parts of.
        scores: float32 [N] texture scores of the clean image.
        masking: Which patches are kept, and which hidden.
    """

    clean: jax.Array
    degraded: jax.Array
    scores: jax.Array
    masking: Masking


def make_model(config: ModelConfig) -> MAE:
    """The masked autoencoder that ``config`` describes."""
    return MAE(
        size=SIZES[config.size],
        grid=config.grid,
        decoder_width=config.decoder_width,
        decoder_depth=config.decoder_depth,
        decoder_heads=config.decoder_heads,
        execution=config.execution,
    )


def init_params(config: ModelConfig, key: jax.Array) -> Params:
    """Initial parameters, float32."""
    n, features = config.num_patches, config.patch_size**2 * config.channels
    patches = jnp.zeros((1, n, features))
    restore_ids = jnp.arange(n)[None]
    keep_ids = restore_ids[:, : config.num_kept]
    return jax.jit(make_model(config).init)(key, patches, keep_ids, restore_ids)["params"]


def make_view(key: jax.Array, example: Tree, model: ModelConfig, augment: AugmentConfig) -> View:
    """One stored image, augmented and masked.

    Args:
        key: Everything random about this view.
        example: 'image' uint8 [S, S, C], 'extent' int32 [2] and 'geometry' float32 [7]; see
            ``data.federated.RowStore``.
        model: Sizes and masking.
        augment: Augmentation.
    """
    image, extent = example["image"], example["extent"]
    if augment.scan_conversion > 0:
        image, extent = random_convert(
            fold(key, "convert"), image, extent, example["geometry"], augment.scan_conversion
        )
    clean = random_resized_crop(
        fold(key, "crop"), image, extent, model.image_size, augment.crop_area, augment.crop_ratio
    )
    clean = random_flip(fold(key, "flip"), clean, augment.flip)
    degraded = clean
    if augment.degrade > 0:
        degraded = degrade(fold(key, "degrade"), clean, augment.degrade)
    scores = texture_scores(clean, model.patch_size)
    masking = texture_mask(fold(key, "mask"), scores, model.mask_ratio, model.texture_strength)
    return View(clean, degraded, scores, masking)


def to_patches(images: jax.Array, model: ModelConfig) -> jax.Array:
    """Normalised patches [..., N, P * P * channels] of images [..., H, W, C] in 0..255.

    Channels are repeated last, since a grey image has a third of a colour image's bytes until then.
    """
    patches = patchify(images, model.patch_size)
    pixels = patches.reshape(*patches.shape[:-1], -1, images.shape[-1])
    return normalise(pixels, model.channels).reshape(*patches.shape[:-1], -1)


def reconstruct(model: MAE, config: ModelConfig, params: Params, views: View) -> jax.Array:
    """The model's prediction [B, N, P * P * channels] for a batch of views."""
    patches = to_patches(views.degraded, config)
    masking = views.masking
    prediction: jax.Array = model.apply(  # type: ignore[assignment]
        {"params": params}, patches, masking.keep_ids, masking.restore_ids
    )
    return prediction


def make_loss(model: ModelConfig, augment: AugmentConfig) -> LossFn:
    """The objective as the engine takes it: ``(params, batch, keys) -> losses [B]``."""
    network = make_model(model)

    def loss_fn(params: Params, batch: Tree, keys: jax.Array) -> jax.Array:
        views = jax.vmap(lambda k, example: make_view(k, example, model, augment))(keys, batch)
        return _losses(network, model, params, views)

    return loss_fn


def make_held_out_loss(model: ModelConfig) -> Callable[[Params, Tree], jax.Array]:
    """What judges a model: ``(params, batch) -> losses [B]`` of whole pictures.

    Nothing is augmented, and the mask of an image is a function of its stored pixels. Losses of one
    image therefore differ by the parameters alone.
    """
    network = make_model(model)

    def losses(params: Params, batch: Tree) -> jax.Array:
        return _losses(network, model, params, held_out_views(batch, model))

    return losses


def held_out_views(batch: Tree, model: ModelConfig) -> View:
    """Whole pictures, squeezed into squares, each masked by a key that its own pixels give.

    Args:
        batch: 'image' uint8 [B, S, S, C] and 'extent' int32 [B, 2].
        model: Sizes and masking.
    """
    clean = plain_views(batch, model.image_size)
    scores = jax.vmap(lambda picture: texture_scores(picture, model.patch_size))(clean)

    def mask(image: jax.Array, scores: jax.Array) -> Masking:
        key = fold(jax.random.key(0), "held out", _pixel_sum(image))
        return texture_mask(key, scores, model.mask_ratio, model.texture_strength)

    return View(clean, clean, scores, jax.vmap(mask)(batch["image"], scores))


def _losses(network: MAE, model: ModelConfig, params: Params, views: View) -> jax.Array:
    """Each view's loss [B]."""
    prediction = reconstruct(network, model, params, views)
    target = to_patches(views.clean, model)
    return jax.vmap(
        lambda p, t, m: masked_patch_loss(p, t, m, normalise_target=model.normalise_target)
    )(prediction, target, views.masking.mask)


def _pixel_sum(image: jax.Array) -> jax.Array:
    """uint32: the sum of the pixels, each times an odd number that tells its place, modulo 2^32."""
    odd = 2 * jnp.arange(image.size, dtype=jnp.uint32) + 1
    return jnp.sum(image.ravel().astype(jnp.uint32) * odd, dtype=jnp.uint32)
