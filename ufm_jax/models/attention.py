"""Scaled dot-product attention that keeps its probabilities for the backward pass.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017. The derivative is written out because
automatic differentiation takes the softmax apart into slow passes over N x N numbers. With
P = softmax(s Q K^T), O = P V and s = 1 / sqrt(D),

    dV = P^T dO,   dL = P * (dO V^T - rowsum(dO * O)),   dQ = s dL K,   dK = s dL^T Q.
"""

import importlib.util
import pkgutil
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

AttentionKernel = Literal["auto", "xla", "cudnn"]

Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    kernel: AttentionKernel = "auto",
    real: int | None = None,
) -> jax.Array:
    """The attention of every token to every real token.

    Args:
        query: [B, N, H, D]: tokens, heads, channels of a head.
        key: [B, M, H, D].
        value: [B, M, H, D].
        kernel: ``xla`` runs everywhere. ``cudnn`` is the flash attention of NVIDIA's library, which
            keeps no N x M array in memory. It takes bfloat16 on GPUs alone, and as many queries as
            keys, an even number. ``auto`` takes it on NVIDIA GPUs if ``may_fuse`` says so.
        real: How many keys are real; later ones are padding. By default all are.

    Returns:
        [B, N, H, D] in the inputs' type. Products are accumulated, and the softmax evaluated, in
        float32 whatever the inputs' type. It has a reverse derivative, but no ``jvp``.
    """
    plain, fused = (partial(way, real=real or key.shape[1]) for way in (_plain, _fused))
    if kernel == "cudnn":
        return fused(query, key, value)
    if may_fuse(kernel, query.dtype, query.shape[-1]):
        return jax.lax.platform_dependent(query, key, value, cuda=fused, default=plain)
    return plain(query, key, value)


def may_fuse(kernel: AttentionKernel, dtype: jnp.dtype, channels: int) -> bool:
    """Whether cuDNN may be used; ``attention`` then needs an even number of tokens.

    Args:
        kernel: See ``attention``.
        dtype: Type of query, key and value.
        channels: Channels of a head.
    """
    takes = dtype == jnp.bfloat16 and channels % 8 == 0 and channels <= 128
    return kernel == "cudnn" or (kernel == "auto" and takes and cuda_installed())


def cuda_installed() -> bool:
    """Whether jax's plugin for NVIDIA GPUs, which tracing cuDNN's kernels needs, is installed.

    The installation is asked, not a device: a program can be compiled for GPUs elsewhere.
    """
    plugins = importlib.util.find_spec("jax_plugins")
    folders = (plugins and plugins.submodule_search_locations) or []
    return any(name.startswith("xla_cuda") for _, name, _ in pkgutil.iter_modules(folders))


def _plain(query: jax.Array, key: jax.Array, value: jax.Array, real: int) -> jax.Array:
    # Heads come first: XLA's CPU products take half as long again over strided heads [N, H, D].
    heads_first = (jnp.swapaxes(a, 1, 2) for a in (query, key[:, :real], value[:, :real]))
    return jnp.swapaxes(_attend(*heads_first), 1, 2)


def _fused(query: jax.Array, key: jax.Array, value: jax.Array, real: int) -> jax.Array:
    lengths = None
    if real < key.shape[1]:
        # Selected by the query, so that under ``vmap`` they have the lanes' axis too.
        lengths = jnp.where(query[:, 0, 0, 0] > 0, real, real)
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )


@jax.custom_vjp
def _attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """``attention`` over [B, H, N, D]."""
    return _forward(query, key, value)[0]


def _forward(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, Residuals]:
    logits = _contract("bhnd,bhmd->bhnm", query, key) * query.shape[-1] ** -0.5
    probabilities = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    output = _contract("bhnm,bhmd->bhnd", probabilities, value).astype(value.dtype)
    return output, (query, key, value, probabilities, output)


def _backward(residuals: Residuals, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    query, key, value, probabilities, output = residuals
    scale = query.shape[-1] ** -0.5
    d_value = _contract("bhnm,bhnd->bhmd", probabilities, gradient)
    d_probabilities = _contract("bhnd,bhmd->bhnm", gradient, value)
    # rowsum(dP * P) equals rowsum(dO * O), which adds N x D numbers instead of N x M.
    mean = _contract("bhnd,bhnd->bhn", gradient, output)[..., None]
    d_logits = (probabilities * (d_probabilities - mean)).astype(query.dtype)
    d_query = _contract("bhnm,bhmd->bhnd", d_logits, key) * scale
    d_key = _contract("bhnm,bhnd->bhmd", d_logits, query) * scale
    return d_query.astype(query.dtype), d_key.astype(key.dtype), d_value.astype(value.dtype)


def _contract(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """``einsum`` that accumulates in float32 (in float64 for float64) and returns it."""
    accumulator = jnp.promote_types(left.dtype, jnp.float32)
    return jnp.einsum(subscripts, left, right, preferred_element_type=accumulator)


_attend.defvjp(_forward, _backward)
