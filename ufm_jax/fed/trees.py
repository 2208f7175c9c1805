"""Arithmetic on pytrees that optax does not have."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ufm_jax.fed.algorithm import Tree
from ufm_jax.fed.keys import fold


def entry(tree: Tree, i: int | jax.Array) -> Tree:
    """Entry i of leaves [N, ...], without the leading axis."""
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, i, keepdims=False), tree)


def entries(tree: Tree, index: jax.Array) -> Tree:
    """The entries ``index`` [L] of leaves [N, ...]: leaves [L, ...]."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def with_entry(tree: Tree, i: int | jax.Array, value: Tree) -> Tree:
    """Leaves [N, ...] with entry i replaced."""
    return jax.tree.map(
        lambda leaf, item: lax.dynamic_update_index_in_dim(leaf, item, i, 0), tree, value
    )


def zeros(tree: Tree, *leading: int) -> Tree:
    """Zeros like the leaves of ``tree`` (arrays or shapes), with further leading axes."""
    return jax.tree.map(lambda leaf: jnp.zeros((*leading, *leaf.shape), leaf.dtype), tree)


def put_entries(tree: Tree, places: jax.Array, where: jax.Array, values: Tree) -> Tree:
    """Leaves [N, ...] with the entries ``places`` [n] replaced where ``where`` [n] holds."""

    def put(leaf: jax.Array, items: jax.Array) -> jax.Array:
        return leaf.at[jnp.where(where, places, len(leaf))].set(items, mode="drop")

    return jax.tree.map(put, tree, values)


def select(condition: jax.Array, yes: Tree, no: Tree) -> Tree:
    """``yes`` where a scalar condition holds, ``no`` otherwise."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def map_with_keys(
    function: Callable[[jax.Array, jax.Array], jax.Array], tree: Tree, key: jax.Array
) -> Tree:
    """``function(leaf, key)`` of every leaf, each with a key of its own."""
    leaves, structure = jax.tree.flatten(tree)
    results = [function(leaf, fold(key, i)) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, results)


def squared_norm(tree: Tree) -> jax.Array:
    """Sum of the squares of all floating-point numbers of a tree; finite only if they all are."""
    squares = [
        jnp.square(leaf).sum()
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return sum(squares, jnp.float32(0))


def acceptable(squared: jax.Array) -> jax.Array:
    """Whether an update of this squared norm is finite, and short enough to be summed with others.

    No training moves 10^15 far. The squared distances between longer updates would overflow.
    """
    return squared <= 1e30


def distance(tree: Tree, other: Tree) -> jax.Array:
    """Euclidean distance of two trees of the same shapes."""
    return jnp.sqrt(squared_norm(jax.tree.map(jnp.subtract, tree, other)))
