"""Masking: which patches the encoder sees, drawn uniformly or by their texture.

Uniform masking is that of He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022.
UltraFedFM (npj Digital Medicine 8:714, 2025) draws the patches to keep without replacement, in
proportion to a weight that falls with texture. Here the draw is Gumbel top-k (Kool et al.,
"Stochastic Beams and Where to Find Them", ICML 2019): it keeps the k largest values of log weight
plus Gumbel noise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_FLOOR = 1e-6
"""Least weight relative to the image's largest, since the most textured patch may have 0."""


class Masking(NamedTuple):
    """Which patches of one image are kept, and which are hidden.

    Attributes:
        keep_ids: int32 [Nk] indices of the kept patches, in the order they were drawn.
        restore_ids: int32 [N] rank of each patch in the drawn order; the first Nk are kept.
        mask: float32 [N], 1 = hidden.
    """

    keep_ids: jax.Array
    restore_ids: jax.Array
    mask: jax.Array


def num_kept(num_patches: int, mask_ratio: float) -> int:
    """Number of kept patches, Nk = int(N * (1 - mask_ratio)), as the masked autoencoder counts.

    Raises:
        ValueError: If ``mask_ratio`` keeps no patch, or all of them.
    """
    kept = int(num_patches * (1 - mask_ratio)) if 0 < mask_ratio < 1 else 0
    if not 0 < kept < num_patches:
        raise ValueError(
            f"mask_ratio={mask_ratio} must keep at least one of {num_patches} patches and hide at "
            "least one: choose a value between 0 and 1, further from the ends"
        )
    return kept


def texture_mask(
    key: jax.Array, scores: jax.Array, mask_ratio: float, texture_strength: float
) -> Masking:
    """A masking that hides textured patches more often than smooth ones.

    A patch of score s has weight w = (max - s) + min over the image's patches. Patches are kept
    without replacement in proportion to w ** texture_strength. Equal scores have equal weights. A
    score that is not finite counts as the mean of the image's finite scores.

    Args:
        key: Random key.
        scores: [N] texture scores of one image, 0 or more.
        mask_ratio: Share of the patches to hide.
        texture_strength: Exponent of the weight, 0 or more: 0 draws uniformly, 1 as published.

    Raises:
        ValueError: If the scores are not one axis, ``mask_ratio`` keeps none or all, or
            ``texture_strength`` is negative.
    """
    if scores.ndim != 1:
        raise ValueError(f"texture_mask takes the scores [N] of one image, got {scores.shape}")
    if not texture_strength >= 0:
        raise ValueError(f"texture_strength={texture_strength}: use 0 (uniform) or more")
    kept = num_kept(scores.shape[0], mask_ratio)
    gumbel = jax.random.gumbel(key, scores.shape)
    return masking_from_noise(-(texture_strength * _log_weight(scores) + gumbel), kept)


def masking_from_noise(noise: jax.Array, num_keep: int) -> Masking:
    """A masking that keeps the patches of smallest noise, in ascending order.

    Patches of equal noise keep their order, and NaN comes last.

    Args:
        noise: [N] one number for each patch.
        num_keep: Patches Nk to keep, from 1 to N.

    Raises:
        ValueError: If the noise is not one axis, or ``num_keep`` is out of range.
    """
    if noise.ndim != 1:
        raise ValueError(f"masking_from_noise takes noise [N] of one image, got {noise.shape}")
    if not 1 <= num_keep <= noise.shape[0]:
        raise ValueError(f"num_keep={num_keep}: choose from 1 to {noise.shape[0]} patches")
    order = jnp.argsort(noise, stable=True).astype(jnp.int32)
    restore_ids = jnp.argsort(order).astype(jnp.int32)
    mask = (restore_ids >= num_keep).astype(jnp.float32)
    return Masking(keep_ids=order[:num_keep], restore_ids=restore_ids, mask=mask)


def _log_weight(scores: jax.Array) -> jax.Array:
    """[N] logarithm of the weights with which patches are kept; finite."""
    scores = scores.astype(jnp.float32)
    finite = jnp.isfinite(scores)
    mean = jnp.sum(scores, where=finite) / jnp.maximum(jnp.sum(finite), 1)
    scores = jnp.where(finite, scores, mean)
    weight = (jnp.max(scores) - scores) + jnp.min(scores)
    floor = _FLOOR * jnp.max(weight) + jnp.finfo(weight.dtype).tiny
    return jnp.log(jnp.maximum(weight, floor))
