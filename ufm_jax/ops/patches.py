"""Images as sequences of square patches, in the order of the masked autoencoder.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022. Patches are numbered row
by row; within a patch, pixels are row-major with the channel last.
"""

import jax
import jax.numpy as jnp


def patchify(image: jax.Array, patch_size: int) -> jax.Array:
    """The flat patches of images.

    Args:
        image: [..., H, W, C].
        patch_size: Side P of a patch, in pixels; must divide H and W.

    Returns:
        [..., N, P * P * C] with N = (H / P) * (W / P).

    Raises:
        ValueError: If the image has no channel axis or does not divide into patches.
    """
    if image.ndim < 3:
        raise ValueError(f"patchify takes [..., H, W, C], got shape {image.shape}")
    *lead, height, width, channels = image.shape
    rows, columns = patch_grid(height, width, patch_size)
    blocks = image.reshape(*lead, rows, patch_size, columns, patch_size, channels)
    blocks = jnp.swapaxes(blocks, -4, -3)
    return blocks.reshape(*lead, rows * columns, patch_size * patch_size * channels)


def unpatchify(patches: jax.Array, patch_size: int, height: int, width: int) -> jax.Array:
    """The images of patches: the inverse of ``patchify``.

    Args:
        patches: [..., N, P * P * C].
        patch_size: Side P of a patch, in pixels.
        height: H of the image.
        width: W of the image.

    Returns:
        [..., H, W, C].

    Raises:
        ValueError: If the patches are not those of an image of that size.
    """
    rows, columns = patch_grid(height, width, patch_size)
    area = patch_size * patch_size
    if patches.ndim < 2 or patches.shape[-2] != rows * columns or patches.shape[-1] % area:
        raise ValueError(
            f"unpatchify of a {height} x {width} image with patch_size={patch_size} takes "
            f"[..., {rows * columns}, {area} * C], got shape {patches.shape}"
        )
    *lead, _, features = patches.shape
    channels = features // area
    blocks = patches.reshape(*lead, rows, columns, patch_size, patch_size, channels)
    return jnp.swapaxes(blocks, -4, -3).reshape(*lead, height, width, channels)


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """The numbers of patches down and across an image.

    Raises:
        ValueError: If ``patch_size`` does not divide both sides.
    """
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"patch_size={patch_size} does not divide an image of {height} x {width} pixels: "
            "choose a patch_size that divides both sides"
        )
    return height // patch_size, width // patch_size
