"""The layers of a transformer block: dense, normalisation, GELU, stochastic depth.

Parameters are float32 always; ``dtype`` is the type of the arithmetic. Where a layer is written out
instead of taken from flax, a measurement on CPU is the reason: XLA differentiates a dense layer
over [B, N, D] and the erf GELU into slow programs, and into fast ones in the forms below.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

LAYER_NORM_EPSILON = 1e-6


class Dense(nn.Module):
    """``x W + b`` over the last axis, as one matrix product over all tokens.

    Attributes:
        features: Output channels.
        dtype: Type of the arithmetic.
        kernel_init: Initialiser of W; MAE takes Xavier's uniform one.
    """

    features: int
    dtype: jnp.dtype = jnp.dtype("float32")
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [..., I] to [..., features]."""
        width = inputs.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (width, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        rows = inputs.astype(self.dtype).reshape(-1, width)
        outputs = (matmul(rows, kernel) + bias).astype(self.dtype)
        return outputs.reshape(*inputs.shape[:-1], self.features)


@jax.custom_vjp
def matmul(rows: jax.Array, kernel: jax.Array) -> jax.Array:
    """``rows @ kernel`` in the rows' type, forward and backward, with float32 accumulators.

    Automatic differentiation of a product with bfloat16 operands and a float32 result multiplies
    by float32 gradients, which forgoes the matrix units of CPUs and accelerators.

    Inside ``shard_map`` both operands must vary over the same mesh axes: cast replicated weights
    with ``jax.lax.pcast(..., to='varying')`` first. Otherwise differentiation raises an error.

    Args:
        rows: [R, I].
        kernel: float32 [I, O], rounded to the rows' type for the product.

    Returns:
        [R, O], float32 at least. The kernel's gradient is float32 and never rounded to less.
    """
    return _matmul_forward(rows, kernel)[0]


def _matmul_forward(
    rows: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(rows, kernel.astype(rows.dtype), (1, 0)), (rows, kernel)


def _matmul_backward(
    residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    rows, kernel = residuals
    gradient = gradient.astype(rows.dtype)
    d_rows = _product(gradient, kernel.astype(rows.dtype), (1, 1))
    return d_rows.astype(rows.dtype), _product(rows, gradient, (0, 0)).astype(kernel.dtype)


def _product(left: jax.Array, right: jax.Array, contracted: tuple[int, int]) -> jax.Array:
    """Product of two matrices over one axis of each, accumulated in float32 at least."""
    return jax.lax.dot_general(
        left,
        right,
        (((contracted[0],), (contracted[1],)), ((), ())),
        preferred_element_type=jnp.promote_types(left.dtype, jnp.float32),
    )


matmul.defvjp(_matmul_forward, _matmul_backward)


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016) with biased variance, evaluated in float32.

    Attributes:
        dtype: Type of the result.
    """

    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Normalises the last axis of [..., D]."""
        width = inputs.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        x = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        normalised = centred * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)
        return (normalised * scale + bias).astype(self.dtype)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, ``x * Phi(x)`` with the normal distribution Phi (Hendrycks & Gimpel 2016).

    Its derivative ``Phi(x) + x * phi(x)`` is computed along with the value and kept in place of
    ``x``, so that erf is evaluated once.
    """
    return _gelu_forward(x)[0]


def _gelu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    distribution = 0.5 * (1.0 + jax.lax.erf(wide * 0.5**0.5))
    density = jnp.exp(-0.5 * jnp.square(wide)) * (2.0 * jnp.pi) ** -0.5
    derivative = distribution + wide * density
    return (wide * distribution).astype(x.dtype), derivative.astype(x.dtype)


def _gelu_backward(derivative: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (derivative * gradient,)


gelu.defvjp(_gelu_forward, _gelu_backward)


def drop_path(branch: jax.Array, rate: float | jax.Array, key: jax.Array) -> jax.Array:
    """Stochastic depth (Huang et al. 2016): drops a residual branch for whole examples.

    Args:
        branch: [B, N, D] what a block adds to its input.
        rate: Probability of dropping, in [0, 1).
        key: Random key.

    Returns:
        ``branch`` with dropped examples zero and the others divided by ``1 - rate``.
    """
    kept = jax.random.bernoulli(key, 1.0 - rate, (branch.shape[0], 1, 1))
    return jnp.where(kept, branch / jnp.asarray(1.0 - rate, branch.dtype), 0)
