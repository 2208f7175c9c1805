"""The weighted mean: a running sum on each device, and one all-reduce at the end of the round."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ufm_jax.fed.aggregate.aggregator import Aggregator, Cohort
from ufm_jax.fed.algorithm import Tree, Turn
from ufm_jax.fed.placement import CLIENTS
from ufm_jax.fed.trees import zeros


class Sum(NamedTuple):
    """Sums over clients of p_k update_k, and of p_k."""

    update: Tree
    weight: jax.Array


def mean(*, renormalise: bool = True) -> Aggregator:
    """Builds ``sum_k p_k update_k / sum_k p_k``.

    Args:
        renormalise: Whether to divide by the shares that came in. Otherwise a client that is left
            out counts as an update of zero and no client changes the weight of another, which
            differential privacy needs.
    """

    def empty(update: Tree, places: int) -> Sum:
        del places
        return Sum(zeros(update), jnp.float32(0))

    def add(total: Sum, update: Tree, turn: Turn, cohort: Cohort) -> Sum:
        del cohort
        update = jax.tree.map(lambda old, new: old + turn.weight * new, total.update, update)
        return Sum(update, total.weight + turn.weight)

    def add_many(total: Sum, updates: Tree, turns: Turn, cohort: Cohort) -> Sum:
        del cohort

        def one(old: jax.Array, new: jax.Array) -> jax.Array:
            share = turns.weight.reshape((-1, *[1] * (new.ndim - 1)))
            return old + jnp.where(share > 0, share * new, 0).sum(axis=0)

        return Sum(jax.tree.map(one, total.update, updates), total.weight + turns.weight.sum())

    def finish(total: Sum) -> tuple[Tree, Tree, jax.Array]:
        if not renormalise:
            return (), total.update, jnp.float32(1)
        divisor = jnp.where(total.weight > 0, total.weight, 1)
        return (), jax.tree.map(lambda leaf: leaf / divisor, total.update), total.weight

    def result(state: Tree, total: Sum, cohort: Cohort) -> tuple[Tree, Tree, jax.Array]:
        del state, cohort
        return finish(lax.psum(total, CLIENTS))

    def alone(state: Tree, updates: Tree, cohort: Cohort) -> tuple[Tree, Tree, jax.Array]:
        del state
        update = jax.tree.map(lambda leaf: jnp.tensordot(cohort.weight, leaf, 1), updates)
        return finish(Sum(update, cohort.weight.sum()))

    return Aggregator(lambda update: (), empty, add, add_many, result, alone)
