"""Pictures of any size on the square canvas that stores keep, as decoding puts them there.

``data.cache.decode`` does it with PIL, once an image; this is the same in a compiled program whose
pictures have a size that is not known before, and differs by at most a grey level here and there.
"""

import jax
import jax.numpy as jnp

from ufm_jax.ops.crop import resample_matrix


def to_canvas(pictures: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Pictures scaled until their longer side is ``size``, in the top-left corner of squares.

    Args:
        pictures: [B, H, W, C] in 0..255; H and W may be symbolic.
        size: S.

    Returns:
        uint8 [B, S, S, C], and the pictures' (height, width) there, int32 [B, 2].
    """
    batch, height, width, _ = pictures.shape
    down, across = fitted_extent(height, width, size)
    exact = jax.lax.Precision.HIGHEST
    columns = resample_matrix(0, width, size, width, filled=across)
    rows = resample_matrix(0, height, size, height, filled=down)
    # PIL rounds to whole levels after each of its two passes.
    pixels = jnp.einsum("vw,bhwc->bhvc", columns, pictures.astype(jnp.float32), precision=exact)
    pixels = jnp.clip(jnp.round(pixels), 0, 255)
    pixels = jnp.einsum("uh,bhvc->buvc", rows, pixels, precision=exact)
    canvas = jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)
    return canvas, jnp.broadcast_to(jnp.stack([down, across]), (batch, 2))


def fitted_extent(height: int, width: int, size: int) -> tuple[jax.Array, jax.Array]:
    """int32 (height, width), scaled so that the longer side is ``size``, the shorter at least 1."""
    sides = jnp.asarray(height, jnp.int32), jnp.asarray(width, jnp.int32)
    longer = jnp.maximum(*sides)
    down, across = (_rounded(side * size, longer) for side in sides)
    return jnp.maximum(down, 1), jnp.maximum(across, 1)


def _rounded(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The quotient of whole numbers to the nearest whole one, halves to the even one."""
    whole, rest = numerator // denominator, numerator % denominator
    up = (2 * rest > denominator) | ((2 * rest == denominator) & (whole % 2 == 1))
    return whole + up
