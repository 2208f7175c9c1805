"""Colour to grey."""

import jax
import jax.numpy as jnp

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601), those of OpenCV and PIL."""


def rgb_to_grey(image: jax.Array) -> jax.Array:
    """The grey images of colour images, not rounded to whole levels.

    Args:
        image: [..., H, W, 3], red first.

    Returns:
        [..., H, W, 1], on the scale of the image.

    Raises:
        ValueError: If the last axis is not three channels.
    """
    if image.ndim < 3 or image.shape[-1] != 3:
        raise ValueError(f"rgb_to_grey takes [..., H, W, 3], got shape {image.shape}")
    red, green, blue = (image[..., i : i + 1] * weight for i, weight in enumerate(LUMA))
    return jnp.asarray(red + green + blue)
