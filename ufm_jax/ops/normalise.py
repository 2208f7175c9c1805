"""Pixels in 0..255 to the scale that networks are trained on, and back.

Mean and standard deviation are those of ImageNet, by channel, as in He et al., "Masked Autoencoders
Are Scalable Vision Learners", CVPR 2022, so that published weights fit.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.ops.pixels import LUMA, rgb_to_grey

MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's red, green and blue, of pixels in 0..1."""
STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's red, green and blue, of pixels in 0..1."""


def normalise(image: jax.Array, channels: int) -> jax.Array:
    """Pixels on a scale with zero mean and unit variance over ImageNet.

    Args:
        image: [..., H, W, C] in 0..255, grey (C = 1) or colour (C = 3).
        channels: Channels of the result. 3 repeats grey; 1 turns colour, and ``MEAN`` and ``STD``,
            to grey.

    Returns:
        float32 [..., H, W, channels].

    Raises:
        ValueError: If either number of channels is not 1 or 3.
    """
    _check_channels(image)
    if channels == 1 and image.shape[-1] == 3:
        image = rgb_to_grey(image)
    mean, std = _statistics(channels, image.ndim)
    return (image.astype(jnp.float32) - mean) / std


def denormalise(image: jax.Array) -> jax.Array:
    """Pixels in 0..255, not clipped, from normalised ones: the inverse of ``normalise``.

    Args:
        image: [..., H, W, C] normalised, C = 1 or 3.

    Returns:
        float32 [..., H, W, C].

    Raises:
        ValueError: If C is not 1 or 3.
    """
    _check_channels(image)
    mean, std = _statistics(image.shape[-1], image.ndim)
    return image.astype(jnp.float32) * std + mean


def statistics(channels: int) -> np.ndarray:
    """Mean and standard deviation [2, channels] that ``normalise`` takes, of pixels in 0..1.

    Raises:
        ValueError: If the number of channels is not 1 or 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: use 1 (grey) or 3 (colour)")
    colour = np.array([MEAN, STD])
    return colour if channels == 3 else colour @ np.array(LUMA)[:, None]


def _statistics(channels: int, ndim: int) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation in 0..255, with ``ndim`` axes and the channel last."""
    mean, std = 255.0 * statistics(channels).reshape(2, *(1,) * (ndim - 1), channels)
    return jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)


def _check_channels(image: jax.Array) -> None:
    if image.ndim < 3 or image.shape[-1] not in (1, 3):
        raise ValueError(f"images are [..., H, W, C] with C = 1 or 3, got shape {image.shape}")
