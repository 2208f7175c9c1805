"""Mixtures of two examples, and examples with a hole: mixup, cutmix, random erasing.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018; Yun et al., "CutMix: Regularization
Strategy to Train Strong Classifiers", 2019; Zhong et al., "Random Erasing Data Augmentation", 2020.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ufm_jax.ops.crop import random_box
from ufm_jax.ranges import Amount, Checked, Share


@dataclass(frozen=True)
class Mixing(Checked):
    """How pairs are mixed.

    Attributes:
        mixup: Both parameters of mixup's beta distribution; 0 for no mixup.
        cutmix: Both parameters of cutmix's beta distribution; 0 for no cutmix.
        probability: Probability of mixing at all.
        switch: Probability of cutmix if both are on.

    Raises:
        ValueError: If a number is impossible.
    """

    mixup: Amount = 0.0
    cutmix: Amount = 0.0
    probability: Share = 1.0
    switch: Share = 0.5


class Mixed(NamedTuple):
    """A pair's mixture.

    Attributes:
        image: float32 [H, W, C].
        share: float32 [], weight of the example's own label; its partner's label has 1 - share.
        own: float32 [H, W], each pixel's share of the example's own picture. With cutmix alone it
            is 0 or 1, so that masks can be cut alike: ``where(own > 0, mask, partner_mask)``.
    """

    image: jax.Array
    share: jax.Array
    own: jax.Array


def partners(batch: jax.Array) -> jax.Array:
    """Each example's partner in a batch [B, ...]: the one before it, or itself if it is alone."""
    return jnp.roll(batch, 1, axis=0)


def mix(key: jax.Array, image: jax.Array, partner: jax.Array, mixing: Mixing) -> Mixed:
    """The mixture of a picture [H, W, C] and another one of its size.

    Raises:
        ValueError: If the two differ in shape.
    """
    if image.ndim != 3 or image.shape != partner.shape:
        raise ValueError(f"mix takes two images [H, W, C], got {image.shape} and {partner.shape}")
    height, width, _ = image.shape
    whether_key, which_key, blend_key, cut_key = jax.random.split(key, 4)
    own = jnp.ones((height, width))
    if mixing.mixup > 0:
        share = jax.random.beta(blend_key, mixing.mixup, mixing.mixup)
        own = jnp.full((height, width), share)
    if mixing.cutmix > 0:
        cut = own_region(cut_key, height, width, mixing.cutmix).astype(jnp.float32)
        takes_cut = jax.random.bernoulli(which_key, mixing.switch) | (mixing.mixup == 0)
        own = jnp.where(takes_cut, cut, own)
    own = jnp.where(jax.random.bernoulli(whether_key, mixing.probability), own, 1.0)
    weight = own[..., None]
    return Mixed(weight * image + (1.0 - weight) * partner, own.mean(), own)


def own_region(key: jax.Array, height: int, width: int, alpha: float) -> jax.Array:
    """Cutmix's mask bool [height, width]: False in a box of the picture's aspect.

    The box's share of the area is Beta(alpha, alpha) distributed, and its centre uniform. It is cut
    off at the border.
    """
    share_key, place_key = jax.random.split(key)
    side = jnp.sqrt(1.0 - jax.random.beta(share_key, alpha, alpha))
    centre = jax.random.uniform(place_key, (2,))
    down = jnp.abs((jnp.arange(height) + 0.5) / height - centre[0]) < side / 2
    across = jnp.abs((jnp.arange(width) + 0.5) / width - centre[1]) < side / 2
    return ~(down[:, None] & across[None, :])


def mix_targets(targets: jax.Array, partner: jax.Array, share: jax.Array) -> jax.Array:
    """``share * targets + (1 - share) * partner``; a NaN counts only if it has a share.

    Args:
        targets: [C] of the example; NaN where unknown.
        partner: [C] of its partner.
        share: The share of ``Mixed``.
    """
    mixed = share * targets + (1.0 - share) * partner
    return jnp.where(share >= 1, targets, jnp.where(share <= 0, partner, mixed))


def random_erase(
    key: jax.Array,
    image: jax.Array,
    probability: float,
    area: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 10 / 3),
) -> jax.Array:
    """A picture with a box of noise that has the picture's own mean and deviation.

    Args:
        key: Random key.
        image: [H, W, C] in 0..255.
        probability: Probability of erasing at all.
        area: Least and largest area of the box, as shares of the picture's.
        ratio: Least and largest width of the box over its height.

    Returns:
        float32 [H, W, C] in 0..255.

    Raises:
        ValueError: If the image is not [H, W, C], or a number is impossible.
    """
    if image.ndim != 3:
        raise ValueError(f"random_erase takes one image [H, W, C], got shape {image.shape}")
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability} of erasing: use a value from 0 to 1")
    image = image.astype(jnp.float32)
    height, width, _ = image.shape
    whether_key, box_key, noise_key = jax.random.split(key, 3)
    box = random_box(box_key, jnp.array([height, width]), area, ratio)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    inside = (rows >= box[0]) & (rows < box[0] + box[2])
    inside &= (columns >= box[1]) & (columns < box[1] + box[3])
    inside &= jax.random.bernoulli(whether_key, float(probability))
    noise = image.mean() + image.std() * jax.random.normal(noise_key, image.shape)
    return jnp.where(inside[..., None], jnp.clip(noise, 0.0, 255.0), image)
