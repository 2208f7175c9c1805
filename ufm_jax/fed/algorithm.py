"""The contract of a federated algorithm: a few pure functions on pytrees.

An algorithm sees one client at a time. It never sees lanes, meshes or devices: the engine maps its
functions over lanes, averages what ``end`` returns, and hands the mean to ``update_server``. One
round with server state s, cohort S and weights p_k is

    for k in S:  local = start(s, c_k)
                 for t in 0 .. T_k - 1:  local, loss = step(s, local, grad_fn, progress)
                 update_k, c_k = end(s, local)
    s = update_server(s, sum_k p_k update_k)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Params = Any
"""A pytree of arrays: the model's parameters."""
Tree = Any
"""Any pytree of arrays."""

GradFn = Callable[[Params], tuple[jax.Array, Params]]
"""``params -> (loss, gradient)`` on the batch and the random key of this local step."""

LossFn = Callable[[Params, Tree, jax.Array], jax.Array]
"""``(params, batch, keys) -> losses [B]``: one loss and one random key an example.

The leaves of ``batch`` are [B, ...], ``keys`` are [B]. Where batches are split over devices, B is a
share of the batch: a loss that mixes examples mixes those of a share.
"""


class Algorithm(NamedTuple):
    """A federated algorithm.

    Attributes:
        init_server: ``params -> server``; ``server.params`` holds the global parameters.
        init_client: ``params -> client``: what a client keeps between rounds; ``()`` for nothing.
        start: ``(server, client) -> local``: the client's training state as its round begins;
            ``local.params`` holds its parameters.
        step: ``(server, local, grad_fn, progress) -> (local, loss)``: one local optimiser step.
            ``progress`` is the round plus the done fraction of this client's local steps.
        end: ``(server, local) -> (update, client)``: what the server averages, and what the client
            keeps.
        update_server: ``(server, mean_update) -> server``.
        stateful: Whether clients keep anything, so that each has a place on a device.
    """

    init_server: Callable[[Params], Any]
    init_client: Callable[[Params], Tree]
    start: Callable[[Any, Tree], Any]
    step: Callable[[Any, Any, GradFn, jax.Array], tuple[Any, jax.Array]]
    end: Callable[[Any, Any], tuple[Tree, Tree]]
    update_server: Callable[[Any, Tree], Any]
    stateful: bool
