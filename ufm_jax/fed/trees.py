"""Arithmetic on pytrees that optax does not have."""

import jax
import jax.numpy as jnp
from jax import lax

from ufm_jax.fed.algorithm import Tree


def entry(tree: Tree, i: int | jax.Array) -> Tree:
    """Entry i of leaves [N, ...], without the leading axis."""
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, i, keepdims=False), tree)


def with_entry(tree: Tree, i: int | jax.Array, value: Tree) -> Tree:
    """Leaves [N, ...] with entry i replaced."""
    return jax.tree.map(
        lambda leaf, item: lax.dynamic_update_index_in_dim(leaf, item, i, 0), tree, value
    )


def select(condition: jax.Array, yes: Tree, no: Tree) -> Tree:
    """``yes`` where a scalar condition holds, ``no`` otherwise."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def all_finite(tree: Tree) -> jax.Array:
    """Whether every floating-point number of a tree is finite."""
    checks = [
        jnp.isfinite(leaf).all()
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return jnp.stack(checks).all()


def distance(tree: Tree, other: Tree) -> jax.Array:
    """Euclidean distance of two trees of the same shapes."""
    squares = jax.tree.map(lambda a, b: jnp.square(a - b).sum(), tree, other)
    return jnp.sqrt(jax.tree.reduce(jnp.add, squares))
