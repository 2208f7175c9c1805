"""Grey levels of an image between its pixels, in the form that a platform computes fastest.

CPUs and GPUs gather the pixels. A TPU fetches single pixels slowly and multiplies matrices fast, so
that one product gives the samples of an image there.
"""

import jax
import jax.numpy as jnp

_FINENESS = 256
"""The matrix product resolves 1/256 of a pixel, by the 8 bits of bfloat16."""


def bilinear(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Bilinear samples of an image at points inside it.

    Args:
        image: [H, W, C], uint8 or float32.
        rows: [h, w] from 0 to H - 1.
        columns: [h, w] from 0 to W - 1; a TPU rounds them to 1/256 pixel, which moves a sample by
            at most 1/512 of the difference of its neighbours.

    Returns:
        float32 [h, w, C].
    """
    return jax.lax.platform_dependent(
        image, rows, columns, tpu=bilinear_by_product, default=bilinear_by_gathers
    )


def bilinear_by_gathers(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """The samples of ``bilinear`` from the four pixels around each point."""
    height, width, channels = image.shape
    starts, shares = [], []
    for place, side in ((rows, height), (columns, width)):
        start = jnp.clip(jnp.floor(place), 0, max(side - 2, 0))
        starts.append(start.astype(jnp.int32))
        shares.append((place - start)[..., None])
    (row, column), (lower, right) = starts, shares
    pixels = image.reshape(-1, channels)
    first = row * width + column
    down, aside = width * min(height - 1, 1), min(width - 1, 1)

    def pixel(offset: int) -> jax.Array:
        return pixels.at[first + offset].get(mode="promise_in_bounds").astype(jnp.float32)

    upper_line = pixel(0) + right * (pixel(aside) - pixel(0))
    lower_line = pixel(down) + right * (pixel(down + aside) - pixel(down))
    return upper_line + lower * (lower_line - upper_line)


def bilinear_by_product(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """The samples of ``bilinear`` from one product of matrices.

    With the hat function h(x) = max(1 - |x|, 0), the sample at (y, x) is

        sum_i h(y - i) sum_j h(x - j) image[i, j].

    The inner sums are the product of the image and a matrix with a column for each point. A TPU's
    compiler computes the matrix, the product and the outer sum in one kernel, without writing any
    of them to the main memory.
    """
    height, width, _ = image.shape
    # Grey levels of uint8 and weights in 1/256 are exact in bfloat16, and sums are float32.
    dtype = jnp.bfloat16 if image.dtype == jnp.uint8 else jnp.float32
    across = _hats(jnp.round(columns * _FINENESS) / _FINENESS, width)
    lines = jnp.einsum(
        "ijc,jhw->cihw",
        image.astype(dtype),
        across.astype(dtype),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return jnp.moveaxis((lines * _hats(rows, height)).sum(1), 0, -1)


def _hats(places: jax.Array, side: int) -> jax.Array:
    """Weights [side, ...] of a line's pixels for linear interpolation at places [...]."""
    pixels = jax.lax.broadcasted_iota(jnp.float32, (side, *places.shape), 0)
    return jnp.maximum(1 - jnp.abs(places - pixels), 0)
