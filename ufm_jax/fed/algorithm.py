"""The contract of a federated algorithm: a few pure functions on pytrees.

An algorithm sees one client at a time. It never sees lanes, meshes or devices: the engine maps its
functions over lanes, aggregates what ``end`` returns (by the weighted mean, or another rule of
``aggregate``), and hands the result to ``update_server``. One round with server state s, cohort S
and weights p_k is

    for k in S:  local = start(s, c_k)
                 for t in 0 .. T_k - 1:  local, loss = step(s, local, grad_fn, progress)
                 update_k, c_k = end(s, local, turn_k)
    s = update_server(s, sum_k p_k update_k, outcome)
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Params = Any
"""A pytree of arrays: the model's parameters."""
Tree = Any
"""Any pytree of arrays."""

GradFn = Callable[[Params], tuple[jax.Array, Params]]
"""``params -> (loss, gradient)`` on the batch and the random key of this local step."""

LossFn = Callable[[Params, Tree, jax.Array], jax.Array]
"""``(params, batch, keys) -> losses [B]``: each example has one loss and one random key.

The leaves of ``batch`` are [B, ...], ``keys`` are [B]. Where batches are split over devices, B is a
share of the batch: a loss that mixes examples mixes those of a share.
"""


LocalGradient = Callable[[Params, Params, GradFn], tuple[jax.Array, Params]]
"""``(anchor, params, grad_fn) -> (loss, gradient)``: what a local step descends.

``anchor`` is where the client began its round. A method that changes the local objective alone,
such as FedProx, is one such function.
"""


def plain_gradient(anchor: Params, params: Params, grad_fn: GradFn) -> tuple[jax.Array, Params]:
    """The gradient of the loss itself."""
    del anchor
    return grad_fn(params)


def tree_bytes(tree: Tree) -> int:
    """Bytes of all leaves, which may be arrays or shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class Turn(NamedTuple):
    """A client's turn in a round.

    Attributes:
        client: int32 [] its number in the population.
        weight: float32 [] its share p_k of the aggregate.
        place: int32 [] its place among the P clients that its device may train in a round.
        key: Random key for the end of its training; the same on every device.
    """

    client: jax.Array
    weight: jax.Array
    place: jax.Array
    key: jax.Array


class Outcome(NamedTuple):
    """What the server learns of a round besides the aggregate.

    Attributes:
        share: float32 [] the share of the population's weight that the clients have whose updates
            came in; 1 if all of the population's did.
        key: Random key for the server; the same on every device.
    """

    share: jax.Array
    key: jax.Array


class Algorithm(NamedTuple):
    """A federated algorithm.

    Attributes:
        init_server: ``params -> server``; ``server.params`` holds the global parameters.
        init_client: ``params -> client``: what a client keeps between rounds; ``()`` for nothing.
        start: ``(server, client) -> local``: the client's training state as its round begins;
            ``local.params`` holds its parameters.
        step: ``(server, local, grad_fn, progress) -> (local, loss)``: one local optimiser step.
            ``progress`` is the round plus the share of this client's local steps that is done at
            the middle of this one.
        end: ``(server, local, turn) -> (update, client)``: what the server averages, and what the
            client keeps.
        update_server: ``(server, mean_update, outcome) -> server``.
        client_params: ``(server, client) -> params``: the model that a client would use.
        broadcast: ``server -> tree``: the part of the server's state that clients are sent.
        stateful: Whether clients keep a state, for which each has a place on a device.
        upload_bytes: ``update -> bytes`` that a client sends, from its update's shapes.
    """

    init_server: Callable[[Params], Any]
    init_client: Callable[[Params], Tree]
    start: Callable[[Any, Tree], Any]
    step: Callable[[Any, Any, GradFn, jax.Array], tuple[Any, jax.Array]]
    end: Callable[[Any, Any, Turn], tuple[Tree, Tree]]
    update_server: Callable[[Any, Tree, Outcome], Any]
    client_params: Callable[[Any, Tree], Params]
    broadcast: Callable[[Any], Tree]
    stateful: bool
    upload_bytes: Callable[[Tree], int] = tree_bytes


def update_shape(algorithm: Algorithm, server: Any, client: Tree) -> Tree:
    """Shapes and dtypes of the update that one client sends, from both states."""

    def send(server: Any, client: Tree) -> Tree:
        turn = Turn(jnp.int32(0), jnp.float32(0), jnp.int32(0), jax.random.key(0))
        return algorithm.end(server, algorithm.start(server, client), turn)[0]

    return jax.eval_shape(send, server, client)
