"""Compression: clients send an approximation of their update that takes fewer bytes.

A compressor acts on one array at a time. Its error is lost, unless the client keeps the error and
adds it to its next update (error feedback: Seide et al., Interspeech 2014; Karimireddy, Rebjock,
Stich and Jaggi, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", ICML 2019).
Biased compressors (top-k, low rank) need it; unbiased ones converge without.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ufm_jax.fed.algorithm import Tree, Turn
from ufm_jax.fed.trees import map_with_keys, zeros
from ufm_jax.fed.updates.transform import Transform, nothing

_INDEX_BYTES = 4


class Compressor(NamedTuple):
    """An approximation of one array.

    Attributes:
        approximate: ``(leaf, key) -> leaf``: the array that the server recovers.
        num_bytes: ``leaf -> bytes`` that are sent, from the array's shape.
    """

    approximate: Callable[[jax.Array, jax.Array], jax.Array]
    num_bytes: Callable[[jax.Array], int]


def compressed(compressor: Compressor, *, error_feedback: bool) -> Transform:
    """A transform that compresses updates.

    Args:
        compressor: Applied to each array of an update.
        error_feedback: Whether clients keep the error and add it to their next update.
    """

    def send(server: Tree, kept: Tree, update: Tree, turn: Turn) -> tuple[Tree, Tree, Tree]:
        del server
        whole = optax.tree.add(update, kept) if error_feedback else update
        approximation = map_with_keys(compressor.approximate, whole, turn.key)
        kept = optax.tree.sub(whole, approximation) if error_feedback else ()
        return approximation, kept, ()

    return Transform(
        send,
        init_client=zeros if error_feedback else nothing,
        stateful=error_feedback,
        num_bytes=lambda update: sum(map(compressor.num_bytes, jax.tree.leaves(update))),
    )


def top_k(fraction: float) -> Compressor:
    """Sends the entries of largest magnitude and their places (Aji and Heafield, EMNLP 2017).

    Args:
        fraction: Share of the entries of each array that is sent; at least one is.
    """

    def approximate(leaf: jax.Array, key: jax.Array) -> jax.Array:
        del key
        flat = leaf.ravel()
        _, places = jax.lax.top_k(jnp.abs(flat), _count(leaf, fraction))
        return jnp.zeros_like(flat).at[places].set(flat[places]).reshape(leaf.shape)

    return Compressor(
        approximate,
        lambda leaf: _count(leaf, fraction) * (leaf.dtype.itemsize + _INDEX_BYTES),
    )


def random_k(fraction: float, *, unbiased: bool) -> Compressor:
    """Sends the values of random entries; their places follow from a seed.

    Args:
        fraction: Share of the entries of each array that is sent; at least one is.
        unbiased: Whether to scale them by n / k, so that the mean is right. Do not use it with
            error feedback, whose memory would grow without end.
    """

    def approximate(leaf: jax.Array, key: jax.Array) -> jax.Array:
        count = _count(leaf, fraction)
        flat = leaf.ravel()
        _, places = jax.lax.top_k(jax.random.uniform(key, flat.shape), count)
        scale = leaf.size / count if unbiased else 1.0
        return jnp.zeros_like(flat).at[places].set(scale * flat[places]).reshape(leaf.shape)

    return Compressor(approximate, lambda leaf: _count(leaf, fraction) * leaf.dtype.itemsize)


def quantise(bits: int, *, unbiased: bool) -> Compressor:
    """Sends each entry as a signed integer of ``bits`` bits.

    Alistarh, Grubic, Li, Tomioka and Vojnovic, "QSGD: Communication-Efficient SGD via Gradient
    Quantization and Encoding", NeurIPS 2017, with the largest magnitude of an array as its scale.

    Args:
        bits: Bits of an entry, including its sign.
        unbiased: Whether to round at random, so that the mean is right, instead of to the nearest.
            Do not use it with error feedback: with few bits its memory would grow without end.
    """
    levels = 2 ** (bits - 1) - 1

    def approximate(leaf: jax.Array, key: jax.Array) -> jax.Array:
        unit = jnp.abs(leaf).max(initial=0) / levels
        steps = leaf / jnp.where(unit > 0, unit, 1)
        dither = jax.random.uniform(key, leaf.shape) if unbiased else 0.5
        return unit * jnp.floor(steps + dither)

    return Compressor(approximate, lambda leaf: math.ceil(leaf.size * bits / 8) + 4)


def low_rank(rank: int) -> Compressor:
    """Sends each matrix as a product of two thin ones, from one step of subspace iteration.

    Halko, Martinsson and Tropp, SIAM Review 2011; with error feedback close to PowerSGD (Vogels,
    Karimireddy and Jaggi, NeurIPS 2019), which iterates on the mean of the clients instead. Vectors
    are sent whole, and so are matrices that would not become smaller.

    Args:
        rank: Columns of the thin matrices.
    """

    def shrinks(leaf: jax.Array) -> bool:
        return leaf.ndim > 1 and rank * sum(leaf.shape[-2:]) < math.prod(leaf.shape[-2:])

    def approximate(leaf: jax.Array, key: jax.Array) -> jax.Array:
        if not shrinks(leaf):
            return leaf
        probe = jax.random.normal(key, (*leaf.shape[:-2], leaf.shape[-1], rank), leaf.dtype)
        basis, _ = jnp.linalg.qr(leaf @ probe)
        return basis @ (jnp.swapaxes(basis, -1, -2) @ leaf)

    def num_bytes(leaf: jax.Array) -> int:
        if not shrinks(leaf):
            return leaf.size * leaf.dtype.itemsize
        return math.prod(leaf.shape[:-2]) * rank * sum(leaf.shape[-2:]) * leaf.dtype.itemsize

    return Compressor(approximate, num_bytes)


def _count(leaf: jax.Array, fraction: float) -> int:
    return max(1, math.ceil(fraction * leaf.size))
