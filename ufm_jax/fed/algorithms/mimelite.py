"""MimeLite: clients use the server's optimiser state, which they do not change.

Karimireddy, Jaggi, Kale, Mohri, Reddi, Stich and Suresh, "Breaking the Centralized Barrier for
Cross-Device Federated Learning", NeurIPS 2021 (Algorithm 1, MimeLite). Every local step applies the
optimiser with the statistics that the server had when the round began. The server renews them once
a round from the clients' mean gradient at its parameters. That gradient is taken over the batches
of the round (with one epoch, over all of a client's data) and costs a second gradient a step.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ufm_jax.fed.algorithm import Algorithm, GradFn, Outcome, Params, Tree, Turn
from ufm_jax.fed.algorithms.fedavg import LrFactor, apply_scaled


class Server(NamedTuple):
    """The global parameters, and the optimiser's statistics."""

    params: Params
    opt_state: Tree


class Local(NamedTuple):
    """A client while it trains, with the sum over its steps of gradients at the server's."""

    params: Params
    gradients: Params
    steps: jax.Array


class Update(NamedTuple):
    """What is averaged: the pseudo-gradient, and the gradient at the server's parameters."""

    pseudo_gradient: Params
    gradient: Params


def mimelite(
    optimizer: optax.GradientTransformation, *, lr_factor: LrFactor | None = None
) -> Algorithm:
    """Builds MimeLite.

    Args:
        optimizer: The optimiser whose statistics are shared, such as SGD with momentum, or Adam.
        lr_factor: ``progress -> factor`` on every local update.
    """

    def init_server(params: Params) -> Server:
        return Server(params, optimizer.init(params))

    def start(server: Server, client: Tree) -> Local:
        del client
        return Local(server.params, optax.tree.zeros_like(server.params), jnp.float32(0))

    def step(
        server: Server, local: Local, grad_fn: GradFn, progress: jax.Array
    ) -> tuple[Local, jax.Array]:
        loss, grads = grad_fn(local.params)
        updates, _ = optimizer.update(grads, server.opt_state, local.params)
        params = apply_scaled(local.params, updates, lr_factor, progress)
        gradients = optax.tree.add(local.gradients, grad_fn(server.params)[1])
        return Local(params, gradients, local.steps + 1), loss

    def end(server: Server, local: Local, turn: Turn) -> tuple[Update, Tree]:
        del turn
        gradient = optax.tree.scale(1 / jnp.maximum(local.steps, 1), local.gradients)
        return Update(optax.tree.sub(server.params, local.params), gradient), ()

    def update_server(server: Server, mean: Update, outcome: Outcome) -> Server:
        del outcome
        _, opt_state = optimizer.update(mean.gradient, server.opt_state, server.params)
        return Server(optax.tree.sub(server.params, mean.pseudo_gradient), opt_state)

    return Algorithm(
        init_server,
        lambda params: (),
        start,
        step,
        end,
        update_server,
        client_params=lambda server, client: server.params,
        broadcast=lambda server: server,
        stateful=False,
    )
