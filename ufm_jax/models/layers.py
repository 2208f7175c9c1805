"""The layers of a transformer block: dense, normalisation, GELU, stochastic depth.

Parameters are float32 always; ``dtype`` is the type of the arithmetic. Where a layer is written out
instead of taken from flax, a measurement is the reason: for CPUs, XLA differentiates a dense layer
over [B, N, D] and the erf GELU into slow programs, and for GPUs, biases and norms into many passes
over all tokens. See docs/performance.md for what the forms below save.
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
        kernel_init: Initialiser of W; MAE takes Xavier's uniform one.
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
        """The output channels in ``count`` arrays, and their biases, which are still to be added.

        Each is a product of its own, since cutting the result of a single one would copy it.

        Args:
            inputs: [..., I].
            count: It divides ``features``.
            norm: A scale and a shift of the channels of ``inputs``, to be applied here.

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
    """Adds a bias [O] to [B, ..., O], in the latter's type.

    The bias' gradient is summed in float32 at least, each example by itself first: in one sum over
    all rows a GPU would keep few of its cores busy, and would not make it part of other passes.
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

    Every machine accumulates in float32 at least. The result is rounded at once: libraries then
    add a bias or a residual inside the product, and no float32 copy of it is ever written.

    Inside ``shard_map`` both operands must vary over the same mesh axes: cast replicated weights
    with ``jax.lax.pcast(..., to='varying')`` first. Otherwise differentiation raises an error.

    Args:
        rows: [R, I].
        kernels: float32 [I, O] each, rounded to the rows' type for the product.

    Returns:
        [R, O] for each kernel. Its gradient is float32 and never rounded to less.
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
    # The sum so far on the right: libraries add it inside the product on the left.
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
    """A scale, None for 1, and a shift [D] of channels, such as a norm has."""

    scale: jax.Array | None
    shift: jax.Array


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def fold(
    count: int, norm: Affine, kernel: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Weights that do to ``x`` what ``kernel`` and ``bias`` do to ``x * scale + shift``.

    ``(x * scale + shift) W + b = x (scale * W) + (shift W + b)``: passes over weights in place of
    passes over all tokens, forward and backward.

    Args:
        count: Parts that the kernel's outputs will be cut into.
        norm: Scale and shift of the I channels of ``x``.
        kernel: [I, O].
        bias: [O].
    """
    moved = [_shifted(norm.shift, part) for part in jnp.split(kernel, count, axis=1)]
    return _scaled(norm, kernel), jnp.concatenate(moved) + bias


def _scaled(norm: Affine, kernel: jax.Array) -> jax.Array:
    return kernel if norm.scale is None else norm.scale[:, None] * kernel


def _shifted(shift: jax.Array, kernel: jax.Array) -> jax.Array:
    """``shift @ kernel`` as two sums: a GPU takes the first along as it rounds the kernel."""
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
    # The optimiser writes over the kernel: not before it has been read here.
    d_norm, d_kernel = jax.lax.optimization_barrier((Affine(d_scale, kernel @ d_bias), d_kernel))
    return d_norm, _scaled(norm, d_kernel) + jnp.outer(norm.shift, d_bias), d_bias


fold.defvjp(_fold_forward, _fold_backward)


class NormAffine(nn.Module):
    """Scale and shift of a norm whose inputs have [D] channels; see ``fold``."""

    @nn.compact
    def __call__(self, width: int) -> Affine:
        """Declares them."""
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

    The backward pass reads the result, not ``x``: of the residual stream nothing is kept.
    """
    return _normalise_forward(x)[0]


def _normalise_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = wide - wide.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)
    normalised = (centred * inverse).astype(x.dtype)
    # Kept as they are: XLA would rather keep x, and normalise it again.
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
        branch: [B, N, D] what a block adds to its input.
        rate: Probability of dropping, in [0, 1).
        key: Random key.

    Returns:
        ``branch`` with dropped examples zero and the others divided by ``1 - rate``.
    """
    kept = jax.random.bernoulli(key, 1.0 - rate, (branch.shape[0], 1, 1))
    return jnp.where(kept, branch / jnp.asarray(1.0 - rate, branch.dtype), 0)
