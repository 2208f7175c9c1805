"""The layers of a transformer block: dense, normalisation, GELU, stochastic depth.

Parameters are always float32; ``dtype`` is the type of the arithmetic. Layers are written out here
instead of taken from flax where measurements showed a gain. For CPUs, XLA differentiates a dense
layer over [B, N, D] and the erf GELU into slow programs; for GPUs, it differentiates biases and
norms into many passes over all tokens. docs/performance.md says what the forms below save.
"""

import math
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

LAYER_NORM_EPSILON = 1e-6


class Dense(nn.Module):
    """``x W + b`` over the last axis, as one matrix product over all tokens.

    Attributes:
        features: Output channels.
        dtype: Type of the arithmetic.
        kernel_init: Initialiser of W; Xavier's uniform one, as in MAE, by default.
    """

    features: int
    dtype: jnp.dtype = jnp.dtype("float32")
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

    def __call__(self, inputs: jax.Array, norm: "Affine | None" = None) -> jax.Array:
        """Maps [..., I] to [..., features]; ``norm`` as in ``parts``."""
        (product,), (bias,) = self.parts(inputs, 1, norm)
        return add_bias(product, bias)

    @nn.compact
    def parts(
        self, inputs: jax.Array, count: int, norm: "Affine | None" = None
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """The output channels in ``count`` arrays, and the biases, which the caller must add.

        Each array is a product of its own, since cutting a single product's result would copy it.

        Args:
            inputs: [..., I].
            count: Number of arrays; it divides ``features``.
            norm: A scale and a shift of the channels of ``inputs``, which are applied first.

        Returns:
            Arrays [..., features / count], and [features / count].
        """
        width = inputs.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (width, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if norm is not None:
            kernel, bias = fold(count, norm, kernel, bias)
        rows = inputs.astype(self.dtype).reshape(-1, width)
        outputs = matmul(rows, *jnp.split(kernel, count, axis=1))
        shaped = [part.reshape(*inputs.shape[:-1], -1) for part in outputs]
        return shaped, jnp.split(bias, count)


@jax.custom_vjp
def add_bias(rows: jax.Array, bias: jax.Array) -> jax.Array:
    """The sum of [B, ..., O] and a bias [O], in the type of the former.

    The bias' gradient is summed at least in float32, first within each example and then over them.
    A GPU would compute one sum over all rows on few of its cores, and in a pass of its own.
    """
    return rows + bias.astype(rows.dtype)


def _add_bias_backward(bias: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    inner = tuple(range(1, gradient.ndim - 1))
    examples = gradient.sum(axis=inner, dtype=bias.dtype)
    # The barrier keeps the two sums apart.
    return gradient, jax.lax.optimization_barrier(examples).sum(axis=0)


add_bias.defvjp(lambda rows, bias: (add_bias(rows, bias), bias), _add_bias_backward)


@jax.custom_vjp
def matmul(rows: jax.Array, *kernels: jax.Array) -> tuple[jax.Array, ...]:
    """``rows @ kernel`` for each kernel, in the rows' type, forward and backward.

    Every machine accumulates at least in float32. The result is rounded at once, so that libraries
    add a bias or a residual inside the product, and no float32 copy of it is written.

    Inside ``shard_map`` both operands must vary over the same mesh axes: cast replicated weights
    with ``jax.lax.pcast(..., to='varying')`` first. Otherwise differentiation raises an error.

    Args:
        rows: [R, I].
        kernels: float32 [I, O] each, rounded to the rows' type for the product.

    Returns:
        [R, O] for each kernel, whose gradient is float32 and never rounded to less.
    """
    return _matmul_forward(rows, *kernels)[0]


def _matmul_forward(
    rows: jax.Array, *kernels: jax.Array
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    outputs = tuple(_product(rows, k.astype(rows.dtype), (1, 0), rows.dtype) for k in kernels)
    return outputs, (rows, *kernels)


def _matmul_backward(
    residuals: tuple[jax.Array, ...], gradients: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    rows, *kernels = residuals
    pairs = list(zip(gradients, kernels, strict=True))
    shares = (_product(g, k.astype(rows.dtype), (1, 1), rows.dtype) for g, k in pairs)
    # With the sum so far on the right, libraries add it inside the product on the left.
    d_rows = reduce(lambda total, share: share + total, shares)
    return d_rows, *(_product(rows, g, (0, 0), k.dtype) for g, k in pairs)


def _product(
    left: jax.Array, right: jax.Array, contracted: tuple[int, int], dtype: jnp.dtype
) -> jax.Array:
    """Product of two matrices over one axis of each."""
    return jax.lax.dot_general(
        left,
        right,
        (((contracted[0],), (contracted[1],)), ((), ())),
        preferred_element_type=dtype,
    )


matmul.defvjp(_matmul_forward, _matmul_backward)


class Affine(NamedTuple):
    """A scale, None for 1, and a shift [D] of channels, such as those of a norm."""

    scale: jax.Array | None
    shift: jax.Array


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def fold(
    count: int, norm: Affine, kernel: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Kernel and bias that act on ``x`` as the given ones act on ``x * scale + shift``.

    ``(x * scale + shift) W + b = x (scale * W) + (shift W + b)`` replaces passes over all tokens,
    forward and backward, by passes over weights.

    Args:
        count: Number of parts into which the kernel's outputs will be cut.
        norm: Scale and shift of the I channels of ``x``.
        kernel: [I, O].
        bias: [O].
    """
    moved = [_shifted(norm.shift, part) for part in jnp.split(kernel, count, axis=1)]
    return _scaled(norm, kernel), jnp.concatenate(moved) + bias


def _scaled(norm: Affine, kernel: jax.Array) -> jax.Array:
    return kernel if norm.scale is None else norm.scale[:, None] * kernel


def _shifted(shift: jax.Array, kernel: jax.Array) -> jax.Array:
    """``shift @ kernel`` as two sums, the first of which a GPU fuses with the kernel's rounding."""
    width, features = kernel.shape
    shares = (shift[:, None] * kernel).reshape(math.gcd(width, 16), -1, features).sum(axis=1)
    return jax.lax.optimization_barrier(shares).sum(axis=0)


def _fold_forward(
    count: int, norm: Affine, kernel: jax.Array, bias: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[Affine, jax.Array]]:
    return fold(count, norm, kernel, bias), (norm, kernel)


def _fold_backward(
    count: int, residuals: tuple[Affine, jax.Array], gradients: tuple[jax.Array, jax.Array]
) -> tuple[Affine, jax.Array, jax.Array]:
    (norm, kernel), (d_kernel, d_bias) = residuals, gradients
    d_scale = None if norm.scale is None else (kernel * d_kernel).sum(axis=1)
    # The barrier has the kernel read here before the optimiser overwrites it.
    d_norm, d_kernel = jax.lax.optimization_barrier((Affine(d_scale, kernel @ d_bias), d_kernel))
    return d_norm, _scaled(norm, d_kernel) + jnp.outer(norm.shift, d_bias), d_bias


fold.defvjp(_fold_forward, _fold_backward)


class NormAffine(nn.Module):
    """Scale and shift of a norm whose inputs have [D] channels; see ``fold``."""

    @nn.compact
    def __call__(self, width: int) -> Affine:
        """The scale and shift of ``width`` channels."""
        scale = self.param("scale", nn.initializers.ones, (width,))
        return Affine(scale, self.param("bias", nn.initializers.zeros, (width,)))


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
        return (normalise(inputs) * scale + bias).astype(self.dtype)


@jax.custom_vjp
def normalise(x: jax.Array) -> jax.Array:
    """Zero mean and unit variance over the last axis, evaluated in float32, in ``x``'s type.

    The backward pass reads the result instead of ``x``, so that the residual stream is not kept.
    """
    return _normalise_forward(x)[0]


def _normalise_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = wide - wide.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)
    normalised = (centred * inverse).astype(x.dtype)
    # The barrier has XLA keep these: it would keep x, and normalise it again.
    normalised, inverse = jax.lax.optimization_barrier((normalised, inverse))
    return normalised, (normalised, inverse)


def _normalise_backward(
    residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    normalised, inverse = residuals
    wide, hat = (a.astype(inverse.dtype) for a in (gradient, normalised))
    centred = wide - wide.mean(axis=-1, keepdims=True)
    along = hat * (centred * hat).mean(axis=-1, keepdims=True)
    return ((inverse * (centred - along)).astype(gradient.dtype),)


normalise.defvjp(_normalise_forward, _normalise_backward)


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
        branch: [B, N, D] that a block adds to its input.
        rate: Probability of dropping, in [0, 1).
        key: Random key.

    Returns:
        ``branch`` with dropped examples zero and the others divided by ``1 - rate``.
    """
    kept = jax.random.bernoulli(key, 1.0 - rate, (branch.shape[0], 1, 1))
    return jnp.where(kept, branch / jnp.asarray(1.0 - rate, branch.dtype), 0)
