"""The texture score of patches: the mean absolute Laplacian, as in UltraFedFM.

UltraFedFM: npj Digital Medicine 8:714, 2025.
"""

import jax
import jax.numpy as jnp

from ufm_jax.ops.patches import patch_grid
from ufm_jax.ops.pixels import rgb_to_grey


def texture_scores(image: jax.Array, patch_size: int) -> jax.Array:
    """Texture score of every patch of one image.

    The Laplacian is the 3 x 3 one of OpenCV's ``ksize=3``, 2 0 2 / 0 -8 0 / 2 0 2, taken within
    each patch, which is continued by reflection about its outermost pixels; its absolute value is
    cut at 255 and averaged.

    Args:
        image: [H, W], [H, W, 1] or, turned grey first, [H, W, 3]; float in 0..255.
        patch_size: Side P of a patch, 2 pixels or more; must divide H and W.

    Returns:
        float32 [N] scores in 0..255, patches in the order of ``patchify``.

    Raises:
        ValueError: If the image is not grey or colour, or does not divide into such patches.
    """
    if image.ndim == 3 and image.shape[-1] == 3:
        image = rgb_to_grey(image)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim != 2:
        raise ValueError(f"texture_scores takes [H, W] or [H, W, 1 or 3], got shape {image.shape}")
    if patch_size < 2:
        raise ValueError(f"patch_size={patch_size}: a Laplacian needs patches of 2 pixels or more")
    height, width = image.shape
    rows, columns = patch_grid(height, width, patch_size)
    blocks = image.astype(jnp.float32).reshape(rows, patch_size, columns, patch_size)
    diagonals = _neighbours(_neighbours(blocks, 1), 3)
    laplacian = jnp.abs(2 * diagonals - 8 * blocks)
    return jnp.minimum(laplacian, 255.0).mean(axis=(1, 3)).reshape(-1)


def _neighbours(blocks: jax.Array, axis: int) -> jax.Array:
    """Sum of the two neighbours of each element along an axis, reflected at its ends."""
    size = blocks.shape[axis]

    def cut(start: int, stop: int) -> jax.Array:
        return jax.lax.slice_in_dim(blocks, start, stop, axis=axis)

    before = jnp.concatenate([cut(1, 2), cut(0, size - 1)], axis)
    after = jnp.concatenate([cut(1, size), cut(size - 2, size - 1)], axis)
    return before + after
