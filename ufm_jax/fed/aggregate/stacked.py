"""Rules that need all updates of a cohort at once: robust aggregation.

The updates stay where their clients trained, [P, n] on each of D devices, until the round is over.
Then the devices exchange them, so that each holds all S updates of its share of the coordinates,
[S, n / D]: no device ever holds more numbers than it gathered. A rule is two small functions:

    c = weigh(distances, p)            one coefficient a client, from the geometry of the updates
    combine(values, reference, c)      on a share of the coordinates, [S, m] -> [m]

Leaves are taken one after another, so that a rule needs memory for the largest leaf beside the
updates. A rule that does not use p ignores the size of a client's data.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ufm_jax.fed.aggregate.aggregator import Aggregator, Cohort
from ufm_jax.fed.algorithm import Tree, Turn
from ufm_jax.fed.placement import CLIENTS
from ufm_jax.fed.trees import acceptable, put_entries, with_entry, zeros


class Distances(NamedTuple):
    """Squared Euclidean distances.

    Attributes:
        between: [S, S] of the updates from each other.
        norms: [S] of the updates from the reference.
    """

    between: jax.Array
    norms: jax.Array


def weighted_sum(values: jax.Array, reference: jax.Array, c: jax.Array) -> jax.Array:
    """``reference + sum_i c_i (values_i - reference)``, [m]."""
    return reference + jnp.tensordot(c, values - reference, 1)


class Rule(NamedTuple):
    """A robust rule. Absent clients have p = 0, and updates that equal the reference.

    Attributes:
        combine: ``(values [S, m], reference [m], c [S]) -> [m]``.
        weigh: ``(distances, p [S]) -> c [S]``, where p sums to 1; None takes c = p.
        enough: The least number of clients for which the rule's guarantee is proven. A round with
            fewer updates does not change the server.
        keeps_last: Whether the reference is the last round's aggregate; otherwise it is zero.
    """

    combine: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] = weighted_sum
    weigh: Callable[[Distances, jax.Array], jax.Array] | None = None
    enough: int = 1
    keeps_last: bool = False


Attack = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""``(values [S, m], hostile [S], honest [S]) -> values``: the updates when the hostile collude."""


class Stack(NamedTuple):
    """The updates that a device has gathered, [P, ...], and their shares p_k, zero where empty."""

    updates: Tree
    weight: jax.Array


def stacked(
    rule: Rule, *, attack: Attack | None = None, hostile: tuple[int, ...] = ()
) -> Aggregator:
    """Builds the aggregator of a rule.

    Args:
        rule: The rule.
        attack: An attack to test the rule with; the ``hostile`` clients know all other updates.
        hostile: Numbers of the hostile clients.
    """

    def init(update: Tree) -> Tree:
        return zeros(update) if rule.keeps_last else ()

    def empty(update: Tree, places: int) -> Stack:
        return Stack(zeros(update, places), jnp.zeros(places))

    def add(stack: Stack, update: Tree, turn: Turn, cohort: Cohort) -> Stack:
        del cohort
        return with_entry(stack, turn.place, Stack(update, turn.weight))

    def add_many(stack: Stack, updates: Tree, turns: Turn, cohort: Cohort) -> Stack:
        del cohort
        return put_entries(stack, turns.place, turns.weight > 0, Stack(updates, turns.weight))

    def finish(
        last: Tree, values: Tree, cohort: Cohort, total: Callable[[Any], Any]
    ) -> tuple[Tree, jax.Array]:
        if attack is not None:
            present = cohort.weight > 0
            bad = present & jnp.isin(cohort.client, jnp.array(hostile, jnp.int32))
            values = jax.tree.map(lambda leaf: attack(leaf, bad, present & ~bad), values)
            # The updates of colluding clients are checked as those of any client are.
            lengths = total(sum(jnp.square(leaf).sum(axis=1) for leaf in jax.tree.leaves(values)))
            cohort = cohort._replace(weight=jnp.where(acceptable(lengths), cohort.weight, 0))
        enough = (cohort.weight > 0).sum() >= rule.enough
        return apply_rule(rule, values, last, cohort, total), enough * cohort.weight.sum()

    def result(state: Tree, stack: Stack, cohort: Cohort) -> tuple[Tree, Tree, jax.Array]:
        weight = lax.all_gather(stack.weight, CLIENTS, tiled=True, to="invarying")
        shapes = jax.tree.map(lambda leaf: leaf[0], stack.updates)
        last = state if rule.keeps_last else zeros(shapes)
        update, share = finish(
            jax.tree.map(_own_share, last),
            jax.tree.map(_exchange, stack.updates),
            cohort._replace(weight=weight),
            partial(lax.psum, axis_name=CLIENTS),
        )
        update = jax.tree.map(_whole, update, shapes)
        return (update if rule.keeps_last else ()), update, share

    def alone(state: Tree, updates: Tree, cohort: Cohort) -> tuple[Tree, Tree, jax.Array]:
        last = state if rule.keeps_last else zeros(jax.tree.map(lambda leaf: leaf[0], updates))
        flat = jax.tree.map(lambda leaf: leaf.reshape(len(leaf), -1), updates)
        ravelled, share = finish(jax.tree.map(jnp.ravel, last), flat, cohort, lambda tree: tree)
        update = jax.tree.map(lambda part, like: part.reshape(like.shape), ravelled, last)
        return (update if rule.keeps_last else ()), update, share

    return Aggregator(init, empty, add, add_many, result, alone)


def apply_rule(
    rule: Rule,
    values: Tree,
    reference: Tree,
    cohort: Cohort,
    total: Callable[[Any], Any] = lambda tree: tree,
) -> Tree:
    """The aggregate by a rule, on this device's share of the coordinates.

    Args:
        rule: The rule.
        values: Leaves [S, m].
        reference: Leaves [m].
        cohort: These S clients; those of weight zero are absent.
        total: Sums a tree over the devices that hold the other coordinates.

    Returns:
        Leaves [m].
    """
    present = cohort.weight > 0
    p = cohort.weight / jnp.maximum(cohort.weight.sum(), jnp.finfo(jnp.float32).tiny)
    values = jax.tree.map(lambda leaf, at: jnp.where(present[:, None], leaf, at), values, reference)
    c = p
    if rule.weigh is not None:
        pairs = zip(jax.tree.leaves(values), jax.tree.leaves(reference), strict=True)
        of_leaves = [_distances(*pair) for pair in pairs]
        distances = total(jax.tree.map(lambda *parts: sum(parts), *of_leaves))
        # Sorted by client number: a tie is decided alike wherever the clients trained.
        order = jnp.argsort(jnp.where(present, cohort.client, jnp.iinfo(jnp.int32).max))
        between, norms = distances.between[order][:, order], distances.norms[order]
        c = jnp.zeros_like(p).at[order].set(rule.weigh(Distances(between, norms), p[order]))
    return jax.tree.map(lambda leaf, at: rule.combine(leaf, at, c), values, reference)


def _distances(values: jax.Array, reference: jax.Array) -> Distances:
    """Distances within a leaf [S, m], row by row, since a Gram matrix would cancel digits."""
    between = lax.map(lambda row: jnp.square(values - row).sum(axis=1), values)
    return Distances(between, jnp.square(values - reference).sum(axis=1))


def _padded(flat: jax.Array) -> jax.Array:
    """[..., n] with zeros up to a multiple of D."""
    short = -flat.shape[-1] % lax.axis_size(CLIENTS)
    return jnp.pad(flat, [(0, 0)] * (flat.ndim - 1) + [(0, short)])


def _exchange(leaf: jax.Array) -> jax.Array:
    """This device's share [D P, m] of the updates [P, ...] of all devices."""
    flat = _padded(leaf.reshape(len(leaf), -1))
    return lax.all_to_all(flat, CLIENTS, split_axis=1, concat_axis=0, tiled=True)


def _own_share(leaf: jax.Array) -> jax.Array:
    """This device's share [m] of a leaf that every device holds whole."""
    flat = _padded(leaf.ravel())
    size = len(flat) // lax.axis_size(CLIENTS)
    return lax.dynamic_slice_in_dim(flat, lax.axis_index(CLIENTS) * size, size)


def _whole(share: jax.Array, like: jax.Array) -> jax.Array:
    """The shares [m] of all devices, joined in the shape of ``like``."""
    flat = lax.all_gather(share, CLIENTS, tiled=True, to="invarying")
    return flat[: like.size].reshape(like.shape)
