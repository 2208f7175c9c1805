"""Lanes: the training states of the clients that a device trains side by side, and their step."""

import itertools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ufm_jax.fed.aggregate.aggregator import Aggregator, Cohort
from ufm_jax.fed.algorithm import Algorithm, GradFn, LossFn, Params, Tree, Turn
from ufm_jax.fed.events import Events, Segments
from ufm_jax.fed.gradient import Batch, Gradient
from ufm_jax.fed.keys import example_keys, fold
from ufm_jax.fed.placement import DATA
from ufm_jax.fed.trees import acceptable, distance, entry, squared_norm, zeros


class ClientMetrics(NamedTuple):
    """What a round reports of each client, in the order of the event table: [D, P].

    Attributes:
        loss: Mean local loss over the client's examples, measured while training.
        update_norm: Euclidean distance by which local training moved the parameters.
        finite: Whether its update, state and loss were finite and its update short enough
            (``trees.acceptable``); if not, the client was left out.
    """

    loss: jax.Array
    update_norm: jax.Array
    finite: jax.Array


class Lanes(NamedTuple):
    """The state of a device's lanes; every leaf has the leading axis L.

    Attributes:
        local: The algorithm's training state.
        position: The client's place in the event table.
        seen: float32 [L, 2], the sum of the losses so far, and the number of their examples. It
            is one array, since each array costs small models two kernels.
    """

    local: Any
    position: jax.Array
    seen: jax.Array


class Plan(NamedTuple):
    """What the host sends for a chunk of a round; ``Work`` has one device's part of it.

    Attributes:
        round_index: int32 [].
        coverage: float32 [], the cohort's share of the population's weight. Client k has p_k times
            ``coverage`` of it.
        key: uint32 [2], the words of the run's root key, as data so that another seed compiles
            nothing. Example b of step s of client k in round r has ``fold(key, r, k, s, b)``.
        noise: uint32 [2], the words of the key from which the noise of updates is folded.
        cohort: int32 and float32 [D * P], numbers and weights of the clients of all devices. Every
            device is sent them, so that none waits for another before the round ends.
        events: The clients of the round, leading axis D.
        segments: What happens in the chunk, leading axis D.
        first_step: int32 [], where the chunk begins.
        last: bool [], whether the round ends with it.
        rows: int32 [D, C, L, B] rows of ``examples``; negative where a slot is empty.
        after: For ``make_round``'s ``after``, the same on every device.
    """

    round_index: jax.Array
    coverage: jax.Array
    key: jax.Array
    noise: jax.Array
    cohort: tuple[jax.Array, jax.Array]
    events: Events
    segments: Segments
    first_step: jax.Array
    last: jax.Array
    rows: jax.Array
    after: Tree


class Work(NamedTuple):
    """What a device needs for a chunk of a round, constant from its first step to its last.

    Attributes:
        loss_fn, algorithm, aggregator, gradient: Those of the federation.
        lanes: L.
        batches_split: Whether each batch is split over the mesh axis ``data``.
        server: The server's state at the start of the round.
        examples: Leaves [R, ...].
        plan: This device's part: no leading axis D, and its share of each batch in ``rows``.
        key: The round's key.
        cohort: The clients of the round on all devices.
    """

    loss_fn: LossFn
    algorithm: Algorithm
    aggregator: Aggregator
    gradient: Gradient
    lanes: int
    batches_split: bool
    server: Any
    examples: Tree
    plan: Plan
    key: jax.Array
    cohort: Cohort


class Ended(NamedTuple):
    """What a client leaves behind.

    Attributes:
        update: What the aggregator takes.
        kept: The client's state until its next round.
    """

    update: Tree
    kept: Tree


def empty_lanes(algorithm: Algorithm, server: Any, client: Tree, lanes: int) -> Lanes:
    """Lanes before the first client, from the shapes of the server's and of a client's state."""
    local = jax.eval_shape(algorithm.start, server, client)
    return zeros(Lanes(local, jnp.int32(0), jnp.zeros(2)), lanes)


def start_client(work: Work, client: Tree, position: jax.Array) -> Lanes:
    """The lane, without the axis L, of a client that begins its round."""
    local = work.algorithm.start(work.server, client)
    return Lanes(local, position, jnp.zeros(2))


def turn_of(work: Work, place: jax.Array) -> Turn:
    """The turn of the client at a place of the event table."""
    events = work.plan.events
    client, weight = (jnp.asarray(of)[place] for of in (events.client, events.weight))
    return Turn(client, weight, place, fold(work.cohort.key, client))


def end_client(work: Work, lane: Lanes, turn: Turn) -> Ended:
    """What the client in a lane, without the axis L, leaves behind."""
    return Ended(*work.algorithm.end(work.server, lane.local, turn))


def measure_client(work: Work, lane: Lanes, client: Tree, ended: Ended) -> ClientMetrics:
    """The metrics of the client in a lane, without the axis L, which began from ``client``."""
    # For most algorithms the update is the distance moved, and XLA takes one pass for both norms.
    kept = squared_norm(ended.kept)
    loss, examples = lane.seen
    good = acceptable(squared_norm(ended.update)) & jnp.isfinite(kept + loss)
    began = work.algorithm.start(work.server, client)
    moved = distance(began.params, lane.local.params)
    return ClientMetrics(loss / jnp.maximum(examples, 1), moved, good)


def run_steps(work: Work, lanes: Lanes, begin: jax.Array, end: jax.Array) -> Lanes:
    """The local steps ``begin .. end`` of every lane."""
    if work.lanes > 1:
        return lax.fori_loop(begin, end, lambda t, lanes: step_lanes(work, lanes, t), lanes)
    # One lane goes without its axis, which would cost a copy at each step inside the loop.
    lane = lax.fori_loop(
        begin, end, lambda t, lane: _step(work, lane, _rows(work, t)[0], t), entry(lanes, 0)
    )
    return jax.tree.map(lambda leaf: leaf[None], lane)


def step_lanes(work: Work, lanes: Lanes, t: jax.Array) -> Lanes:
    """Takes local step t in every lane. A lane without a client steps in vain."""
    return jax.vmap(partial(_step, work), (0, 0, None))(lanes, _rows(work, t), t)


def _rows(work: Work, t: jax.Array) -> jax.Array:
    """int32 [L, B]: the rows of step t of the round."""
    return work.plan.rows[t - work.plan.first_step]


def _step(work: Work, lane: Lanes, row: jax.Array, t: jax.Array) -> Lanes:
    """Takes local step t of one lane, without the axis L, on the rows [B]."""
    events, i = work.plan.events, lane.position
    s, client = t - events.first_step[i], jnp.asarray(events.client)[i]
    batch = _batch(work, row, fold(work.key, client, s))
    grad_fn = _grad_fn(work, batch, fold(work.cohort.key, client, "step", s))
    progress = work.plan.round_index + (s + 0.5) / events.num_steps[i]
    local, loss = work.algorithm.step(work.server, lane.local, grad_fn, progress)
    return Lanes(local, i, lane.seen + jnp.stack([loss * batch.size, batch.size]))


def _batch(work: Work, row: jax.Array, key: jax.Array) -> Batch:
    """This device's share of the batch of some rows [B]."""
    used, places, filler = row >= 0, jnp.arange(len(row)), row[0]
    if work.batches_split:
        places += lax.axis_index(DATA) * len(row)
        filler = lax.pmax(filler, DATA)
    # A partial batch is filled from the same batch, never from another client.
    filled = jnp.where(used, row, jnp.maximum(filler, 0))
    examples = jax.tree.map(lambda leaf: leaf[filled], work.examples)
    count = _whole(work, used.sum(dtype=jnp.float32))
    return Batch(examples, used, example_keys(key, places), count)


def _grad_fn(work: Work, batch: Batch, key: jax.Array) -> GradFn:
    """``params -> (loss, gradient)`` of one batch, the whole of it if devices split it."""
    asked = itertools.count(1)

    def grad_fn(params: Params) -> tuple[jax.Array, Params]:
        if next(asked) > 1 and not work.gradient.repeatable:
            raise ValueError(
                "the algorithm asks for two gradients a step, and example-level privacy pays for "
                "one: use an algorithm with one, such as FedAvg, or client-level privacy"
            )
        own = vary(params, DATA) if work.batches_split else params
        loss, gradient = _whole(work, work.gradient.share(work.loss_fn, own, batch))
        return loss, work.gradient.finish(gradient, key)

    return grad_fn


def _whole(work: Work, tree: Tree) -> Tree:
    """Sums the shares of a batch over the devices that split it."""
    return lax.psum(tree, DATA) if work.batches_split else tree


def vary(tree: Tree, axis: str) -> Tree:
    """Marks values as differing along a mesh axis.

    The gradient of a value that is not marked is silently summed over the axis.
    """
    return jax.tree.map(lambda leaf: lax.pcast(leaf, axis, to="varying"), tree)
