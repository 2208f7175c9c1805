"""A 3 x 3 convolution by one matrix product and shifted sums.

Under ``vmap`` over lanes, whose weights differ, a convolution becomes a grouped one, which is slow
everywhere; on CPUs even a plain one is slow inside the engine's loops. A product stays a product.
One product computes all nine taps of all pixels, and its nine parts are shifted and summed:

    y[r, c] = sum_ij (x K_ij)[r + i - 1, c + j - 1],    zero outside of the picture.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ufm_jax.models.layers import matmul

_SIDE = 3


class Conv3x3(nn.Module):
    """A 3 x 3 convolution (a correlation, as usual) with zeros beyond the border, without bias.

    Attributes:
        features: Output channels.
        dtype: Type of the arithmetic; sums are float32 at least.
    """

    features: int
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, H, W, I] to [B, H, W, features]."""
        shape = (_SIDE, _SIDE, inputs.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        return convolve(inputs.astype(self.dtype), kernel)


def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Images [B, H, W, I] correlated with a kernel [3, 3, I, O]: [B, H, W, O] in their type."""
    batch, height, width, channels = images.shape
    features = kernel.shape[-1]
    taps = jnp.moveaxis(kernel, 2, 0).reshape(channels, -1)
    # Rounded before the sum, since the nine parts take nine times the result's memory.
    (products,) = matmul(images.reshape(-1, channels), taps)
    products = products.reshape(batch, height, width, -1)
    products = jnp.pad(products, ((0, 0), (1, 1), (1, 1), (0, 0)))
    accumulator = jnp.promote_types(images.dtype, jnp.float32)
    total = jnp.zeros((batch, height, width, features), accumulator)
    for tap in range(_SIDE * _SIDE):
        row, column = divmod(tap, _SIDE)
        channel = slice(tap * features, (tap + 1) * features)
        total = total + products[:, row : row + height, column : column + width, channel]
    return total.astype(images.dtype)
