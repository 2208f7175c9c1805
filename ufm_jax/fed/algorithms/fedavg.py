"""Federated averaging, with any client and any server optimiser.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017 (Algorithm 1). The server side is that of Reddi et al., "Adaptive Federated
Optimization", ICLR 2021 (Algorithm 1): the weighted mean of the clients' ``w - w_k`` is a
pseudo-gradient for ``server_optimizer``. Plain FedAvg is ``optax.sgd(1.0)``, which gives
``w - sum_k p_k (w - w_k) = sum_k p_k w_k``.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ufm_jax.fed.algorithm import Algorithm, GradFn, Params, Tree

ClientState = Literal["reset", "persist", "average"]


class Server(NamedTuple):
    """Global parameters, the server optimiser's state, and the clients' common optimiser state."""

    params: Params
    opt_state: Tree
    client_opt_state: Tree


class Local(NamedTuple):
    """A client's parameters and optimiser state while it trains."""

    params: Params
    opt_state: Tree


class Update(NamedTuple):
    """What is averaged: the pseudo-gradient, and the optimiser state where it is shared."""

    pseudo_gradient: Params
    opt_state: Tree


def fedavg(
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    *,
    client_state: ClientState = "reset",
    lr_factor: Callable[[jax.Array], jax.Array] | None = None,
) -> Algorithm:
    """Builds FedAvg.

    Args:
        client_optimizer: Local optimiser at its peak learning rate.
        server_optimizer: Applied to the pseudo-gradient; default ``optax.sgd(1.0)``.
        client_state: What becomes of the local optimiser's state after a round. ``reset``: every
            round starts afresh. ``persist``: each client keeps its own. ``average``: it is averaged
            like the parameters, and every client of the next cohort starts from the mean.
        lr_factor: ``progress -> factor`` on every local update, ``progress`` in rounds. For
            optimisers whose update is proportional to their learning rate (all the usual ones),
            this is the learning rate's schedule.

    Raises:
        ValueError: If ``client_state`` is none of the three.
    """
    if client_state not in ("reset", "persist", "average"):
        raise ValueError(f"client_state={client_state!r}: choose 'reset', 'persist' or 'average'")
    server_opt = optax.sgd(1.0) if server_optimizer is None else server_optimizer

    def init_server(params: Params) -> Server:
        shared = client_optimizer.init(params) if client_state == "average" else ()
        return Server(params, server_opt.init(params), shared)

    def init_client(params: Params) -> Tree:
        return client_optimizer.init(params) if client_state == "persist" else ()

    def start(server: Server, client: Tree) -> Local:
        if client_state == "reset":
            return Local(server.params, client_optimizer.init(server.params))
        return Local(
            server.params, client if client_state == "persist" else server.client_opt_state
        )

    def step(
        server: Server, local: Local, grad_fn: GradFn, progress: jax.Array
    ) -> tuple[Local, jax.Array]:
        del server
        loss, grads = grad_fn(local.params)
        updates, opt_state = client_optimizer.update(grads, local.opt_state, local.params)
        if lr_factor is not None:
            updates = optax.tree.scale(lr_factor(progress), updates)
        return Local(optax.apply_updates(local.params, updates), opt_state), loss

    def end(server: Server, local: Local) -> tuple[Update, Tree]:
        pseudo_gradient = optax.tree.sub(server.params, local.params)
        shared = _to_float(local.opt_state) if client_state == "average" else ()
        return Update(pseudo_gradient, shared), local.opt_state if client_state == "persist" else ()

    def update_server(server: Server, mean: Update) -> Server:
        updates, opt_state = server_opt.update(
            mean.pseudo_gradient, server.opt_state, server.params
        )
        shared = jax.tree.map(_like, mean.opt_state, server.client_opt_state)
        return Server(optax.apply_updates(server.params, updates), opt_state, shared)

    return Algorithm(init_server, init_client, start, step, end, update_server)


def _to_float(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), tree)


def _like(mean: jax.Array, leaf: Any) -> jax.Array:
    """A mean in the dtype of ``leaf``: step counters are rounded, since clients differ in steps."""
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return jnp.round(mean).astype(leaf.dtype)
    return mean.astype(leaf.dtype)
