"""The sum of a cohort's updates as secure aggregation finds it: integers modulo 2^32, masked.

Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal and Seth, "Practical Secure
Aggregation for Privacy-Preserving Machine Learning", CCS 2017. Client k clips its update to norm C,
weighs it with its public share p_k, and sends, with a power of two s,

    y_k = round(s p_k d_k) + masks    (mod 2^32)

Each number is rounded up or down at random so that its mean is right. The masks cancel in the sum;
if a client is left out after the others have masked, its masks are taken out of the sum, as the
server does when enough clients have given it their shares. Integers add in any order to the same
sum, so that a round has the same result with and without masks, bit for bit.

This file has the arithmetic, inside the compiled round. ``protocol`` and docs/privacy.md say who
learns what.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ufm_jax.fed.aggregate.aggregator import Aggregator, Cohort
from ufm_jax.fed.aggregate.clipping import shrink
from ufm_jax.fed.algorithm import Tree, Turn
from ufm_jax.fed.keys import fold
from ufm_jax.fed.placement import CLIENTS
from ufm_jax.fed.privacy.masks import add_masks

_LARGEST = 2**31 - 1
_ROUNDING = 1 + 2.0**-16
"""Exceeds all rounding of a bound by float32 before the numbers are integers."""


class FixedPoint(NamedTuple):
    """How real numbers become integers.

    Attributes:
        clip: C, the largest norm of an update.
        bits: Bits after the point of a weighted update.
        weight_bits: Bits after the point of a share.
    """

    clip: float
    bits: int
    weight_bits: int


def fixed_point(clip: float, clients: int, most_weight: float = 1.0) -> FixedPoint:
    """The finest representation in which no sum of a cohort can overflow 32 bits.

    Each number of client k is p_k C at most and is rounded by less than one, so that a sum is below
    ``2^bits C sum_k p_k + clients``.

    Args:
        clip: C.
        clients: The most clients of a round.
        most_weight: The largest sum of the shares p_k of a round; 1 unless cohorts are Poisson
            draws.

    Raises:
        ValueError: If 32 bits or float32 do not suffice.
    """
    if not (0 < clip < math.inf and 0 < most_weight < math.inf):
        raise ValueError(f"clip={clip}, most_weight={most_weight}: give numbers above 0")
    room = _LARGEST - clients
    if clients < 1 or room < clients:
        raise ValueError(
            f"clients={clients}: 32 bits hold a sum of 1 to {_LARGEST // 2}, rounding included"
        )
    bits, weight_bits = (
        math.floor(math.log2(room / (largest * most_weight * _ROUNDING))) for largest in (clip, 1.0)
    )
    if not -96 <= bits <= 96:
        raise ValueError(
            f"clip={clip}: updates of this norm leave the range of float32; choose one between "
            "1e-18 and 1e18"
        )
    return FixedPoint(clip, bits, weight_bits)


Shapes = tuple[Any, tuple[tuple[int, ...], ...]]
"""The structure of an update and the shapes of its leaves."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["words", "weight", "client"],
    meta_fields=["shapes"],
)
@dataclass(frozen=True)
class Gathered:
    """What a device has gathered.

    Attributes:
        words: uint32 [n] the sum of what its clients sent.
        weight: uint32 [] the sum of their shares.
        client: int32 [P] the number of the client at each place; -1 if none has sent.
        shapes: The shapes of the update that has these n numbers.
    """

    words: jax.Array
    weight: jax.Array
    client: jax.Array
    shapes: Shapes


def secure_sum(
    clip: float,
    clients: int,
    *,
    most_weight: float = 1.0,
    renormalise: bool = True,
    masked: bool = True,
) -> Aggregator:
    """The weighted mean of clipped updates, by integers modulo 2^32.

    A client of weight zero does not take part in the protocol.

    Args:
        clip: C, Euclidean norm of the whole update, including what an algorithm or a transform
            sends beside the pseudo-gradient.
        clients: The most clients of a round.
        most_weight: The largest sum of the shares p_k of a round.
        renormalise: Whether to divide by the shares that came in, as in ``mean``.
        masked: Whether masks are added and taken out. Without them the result is the same, and a
            round is faster.

    Raises:
        ValueError: If the sum cannot be held in 32 bits.
    """
    point = fixed_point(clip, clients, most_weight)

    def init(update: Tree) -> Tree:
        _check_float32(update)
        return ()

    def empty(update: Tree, places: int) -> Gathered:
        shapes = shapes_of(update)
        size = sum(map(math.prod, shapes[1]))
        nobody = jnp.full(places, -1, jnp.int32)
        return Gathered(jnp.zeros(size, jnp.uint32), jnp.uint32(0), nobody, shapes)

    def add(gathered: Gathered, update: Tree, turn: Turn, cohort: Cohort) -> Gathered:
        def send() -> Gathered:
            words = sent(point, update, turn, cohort, masked=masked)
            weight = gathered.weight + encode_share(point, turn.weight)
            client = gathered.client.at[turn.place].set(turn.client)
            return Gathered(gathered.words + words, weight, client, gathered.shapes)

        return lax.cond(turn.weight > 0, send, lambda: gathered)

    def add_many(gathered: Gathered, updates: Tree, turns: Turn, cohort: Cohort) -> Gathered:
        def add_one(i: jax.Array, gathered: Gathered) -> Gathered:
            update, turn = jax.tree.map(lambda leaf: leaf[i], (updates, turns))
            return add(gathered, update, turn, cohort)

        # One after another: side by side, all would draw their masks, needed or not.
        return lax.fori_loop(0, len(turns.weight), add_one, gathered)

    def finish(words: jax.Array, weight: jax.Array, shapes: Shapes) -> tuple[Tree, Tree, jax.Array]:
        return (), *mean_of(point, words, weight, shapes, renormalise=renormalise)

    def result(state: Tree, gathered: Gathered, cohort: Cohort) -> tuple[Tree, Tree, jax.Array]:
        del state
        came = lax.all_gather(gathered.client, CLIENTS, tiled=True, to="invarying") >= 0
        words = gathered.words
        if masked:
            lost = (cohort.weight > 0) & ~came
            words = unmask(words, gathered.client, lost, cohort)
        words, weight = lax.psum((words, gathered.weight), CLIENTS)
        return finish(words, weight, gathered.shapes)

    def alone(state: Tree, updates: Tree, cohort: Cohort) -> tuple[Tree, Tree, jax.Array]:
        del state

        def one(update: Tree, client: jax.Array, weight: jax.Array) -> jax.Array:
            turn = Turn(client, weight, jnp.int32(0), fold(cohort.key, client))
            return sent(point, update, turn, cohort, masked=False)

        came = cohort.weight > 0
        words = jax.vmap(one)(updates, cohort.client, cohort.weight)
        words = jnp.where(came[:, None], words, 0).sum(axis=0, dtype=jnp.uint32)
        weight = encode_share(point, cohort.weight).sum(dtype=jnp.uint32)
        shapes = shapes_of(jax.tree.map(lambda leaf: leaf[0], updates))
        return finish(words, weight, shapes)

    return Aggregator(init, empty, add, add_many, result, alone)


def sent(
    point: FixedPoint, update: Tree, turn: Turn, cohort: Cohort, *, masked: bool = True
) -> jax.Array:
    """uint32 [n]: what the server receives from one client."""
    words = encoded(point, update, turn)[:-1]
    return add_masks(words, turn.client, cohort.weight > 0, cohort) if masked else words


def encoded(point: FixedPoint, update: Tree, turn: Turn) -> jax.Array:
    """uint32 [n + 1]: a client's weighted update and its share, without masks."""
    numbers = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(update)])
    words = encode(point, numbers, turn.weight, fold(turn.key, "secure sum"))
    return jnp.append(words, encode_share(point, turn.weight))


def encode(point: FixedPoint, numbers: jax.Array, share: jax.Array, key: jax.Array) -> jax.Array:
    """Clips to norm C, weighs, and rounds to integers at random: uint32 [n] from float32 [n]."""
    clipped = numbers * shrink(jnp.sqrt(jnp.square(numbers).sum()), point.clip)
    scaled = clipped * (share * 2.0**point.bits)
    low = jnp.floor(scaled)
    # Compared with the remainder: float32 would round a number from 2^24 on plus a fraction.
    up = jax.random.uniform(key, scaled.shape) < scaled - low
    return lax.bitcast_convert_type(low.astype(jnp.int32) + up, jnp.uint32)


def encode_share(point: FixedPoint, share: jax.Array) -> jax.Array:
    """Shares p_k as the nearest integers: uint32 of the same shape."""
    return jnp.round(share * 2.0**point.weight_bits).astype(jnp.uint32)


def mean_of(
    point: FixedPoint, words: jax.Array, weight: jax.Array, shapes: Shapes, *, renormalise: bool
) -> tuple[Tree, jax.Array]:
    """The mean update and the sum of the shares in it, from the sums without masks.

    Args:
        point: How numbers became integers.
        words: uint32 [n] the sum of what ``encode`` gave.
        weight: uint32 [] the sum of what ``encode_share`` gave.
        shapes: Of the update.
        renormalise: Whether to divide by the shares that came in; else they count as 1.
    """
    mean, share = _decode(words, point.bits), jnp.float32(1)
    if renormalise:
        share = _decode(weight, point.weight_bits)
        mean /= jnp.where(share > 0, share, 1)
    return _unravel(mean, shapes), share


def unmask(words: jax.Array, clients: jax.Array, lost: jax.Array, cohort: Cohort) -> jax.Array:
    """Takes the masks out of a sum that do not cancel in it.

    Args:
        words: uint32 [n], the sum of what clients sent.
        clients: int32 [P] the numbers of these clients; negative at a place without a client.
        lost: bool [D * P] the places of ``cohort`` that share masks and have sent nothing.
        cohort: The clients of the round.
    """

    def take_out(i: jax.Array, words: jax.Array) -> jax.Array:
        return lax.cond(
            clients[i] >= 0,
            lambda: add_masks(words, clients[i], lost, cohort, sign=-1),
            lambda: words,
        )

    return lax.fori_loop(0, len(clients), take_out, words)


def _decode(words: jax.Array, bits: int) -> jax.Array:
    return lax.bitcast_convert_type(words, jnp.int32).astype(jnp.float32) * 2.0**-bits


def shapes_of(update: Tree) -> Shapes:
    """Structure and shapes of an update, whose leaves may be shapes themselves."""
    leaves, structure = jax.tree.flatten(update)
    return structure, tuple(leaf.shape for leaf in leaves)


def _unravel(numbers: jax.Array, shapes: Shapes) -> Tree:
    structure, sizes = shapes
    leaves, begin = [], 0
    for shape in sizes:
        end = begin + math.prod(shape)
        leaves.append(numbers[begin:end].reshape(shape))
        begin = end
    return jax.tree.unflatten(structure, leaves)


def _check_float32(update: Tree) -> None:
    for path, leaf in jax.tree.leaves_with_path(update):
        if leaf.dtype != jnp.float32:
            raise ValueError(
                f"the update's {jax.tree_util.keystr(path)} is {leaf.dtype}: secure aggregation "
                "takes float32; keep parameters in float32, or use aggregate.mean"
            )
