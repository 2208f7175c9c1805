"""Federated averaging, with any client and any server optimiser.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017 (Algorithm 1). The server side is that of Reddi et al., "Adaptive Federated
Optimization", ICLR 2021 (Algorithm 1): the weighted mean of the clients' ``w - w_k`` is a
pseudo-gradient for ``server_optimizer``. Plain FedAvg is ``optax.sgd(1.0)``, which gives
``w - sum_k p_k (w - w_k) = sum_k p_k w_k``.

With personal parameters it shares a part: FedPer (Arivazhagan et al., "Federated Learning with
Personalization Layers", 2019) if the head is personal, FedBN (Li et al., ICLR 2021) if norms are,
and local training if all parameters are.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ufm_jax.fed.algorithm import (
    Algorithm,
    GradFn,
    LocalGradient,
    Outcome,
    Params,
    Tree,
    Turn,
    plain_gradient,
)
from ufm_jax.fed.paths import join_by_path, split_by_path

ClientState = Literal["reset", "persist", "average"]
LrFactor = Callable[[jax.Array], jax.Array]
"""``progress in rounds -> factor`` on the learning rate."""


class Client(NamedTuple):
    """The state of a client: personal parameters by path, and optimiser state; often both empty."""

    personal: dict[str, jax.Array]
    opt_state: Tree


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
    """What is averaged: the pseudo-gradient, and the optimiser state if it is shared."""

    pseudo_gradient: Params
    opt_state: Tree


def fedavg(
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    *,
    client_state: ClientState = "reset",
    personal: Sequence[str] = (),
    gradient: LocalGradient = plain_gradient,
    lr_factor: LrFactor | None = None,
) -> Algorithm:
    """Builds FedAvg.

    Args:
        client_optimizer: Local optimiser at its peak learning rate.
        server_optimizer: Applied to the pseudo-gradient; by default ``optax.sgd(1.0)``.
        client_state: What becomes of the local optimiser's state after a round. ``reset``: every
            round starts afresh. ``persist``: each client keeps its own. ``average``: it is averaged
            like the parameters, and every client of the next cohort starts from the mean.
        personal: Regular expressions of the paths of parameters that stay with each client, such as
            'head/.*'; the server's copies of them never change.
        gradient: What local steps descend.
        lr_factor: ``progress -> factor`` on every local update, ``progress`` in rounds. For
            optimisers whose update is proportional to their learning rate (all the usual ones),
            this is the learning rate's schedule.

    Raises:
        ValueError: If ``client_state`` is unknown or would average personal parameters' moments;
            on use, if a pattern matches no parameter.
    """
    if client_state not in ("reset", "persist", "average"):
        raise ValueError(f"client_state={client_state!r}: choose 'reset', 'persist' or 'average'")
    if personal and client_state == "average":
        raise ValueError(
            "client_state='average' would average the moments of personal parameters: use 'reset' "
            "or 'persist'"
        )
    server_opt = optax.sgd(1.0) if server_optimizer is None else server_optimizer
    persists, averages = client_state == "persist", client_state == "average"

    def shared(params: Params) -> Params:
        return split_by_path(params, personal)[0] if personal else params

    def own(params: Params) -> dict[str, jax.Array]:
        return split_by_path(params, personal)[1] if personal else {}

    def init_server(params: Params) -> Server:
        common = client_optimizer.init(params) if averages else ()
        return Server(params, server_opt.init(shared(params)), common)

    def init_client(params: Params) -> Client:
        return Client(own(params), client_optimizer.init(params) if persists else ())

    def client_params(server: Server, client: Client) -> Params:
        return join_by_path(server.params, client.personal) if personal else server.params

    def broadcast(server: Server) -> Tree:
        return shared(server.params), server.client_opt_state

    def start(server: Server, client: Client) -> Local:
        params = client_params(server, client)
        if persists:
            return Local(params, client.opt_state)
        return Local(params, server.client_opt_state if averages else client_optimizer.init(params))

    def step(
        server: Server, local: Local, grad_fn: GradFn, progress: jax.Array
    ) -> tuple[Local, jax.Array]:
        anchor = join_by_path(server.params, own(local.params)) if personal else server.params
        loss, grads = gradient(anchor, local.params, grad_fn)
        updates, opt_state = client_optimizer.update(grads, local.opt_state, local.params)
        return Local(apply_scaled(local.params, updates, lr_factor, progress), opt_state), loss

    def end(server: Server, local: Local, turn: Turn) -> tuple[Update, Client]:
        del turn
        pseudo_gradient = optax.tree.sub(shared(server.params), shared(local.params))
        common = _to_float(local.opt_state) if averages else ()
        kept = Client(own(local.params), local.opt_state if persists else ())
        return Update(pseudo_gradient, common), kept

    def update_server(server: Server, mean: Update, outcome: Outcome) -> Server:
        del outcome
        params = shared(server.params)
        updates, opt_state = server_opt.update(mean.pseudo_gradient, server.opt_state, params)
        params = optax.apply_updates(params, updates)
        if personal:
            params = join_by_path(params, own(server.params))
        common = jax.tree.map(_like, mean.opt_state, server.client_opt_state)
        return Server(params, opt_state, common)

    return Algorithm(
        init_server,
        init_client,
        start,
        step,
        end,
        update_server,
        client_params,
        broadcast,
        stateful=bool(personal) or persists,
    )


def apply_scaled(
    params: Params, updates: Params, lr_factor: LrFactor | None, progress: jax.Array
) -> Params:
    """Parameters after an optimiser's updates, scaled by the learning rate's schedule."""
    if lr_factor is not None:
        updates = optax.tree.scale(lr_factor(progress), updates)
    return optax.apply_updates(params, updates)


def _to_float(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), tree)


def _like(mean: jax.Array, leaf: Any) -> jax.Array:
    """A mean in the dtype of ``leaf``; step counters, in which clients differ, are rounded."""
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return jnp.round(mean).astype(leaf.dtype)
    return mean.astype(leaf.dtype)
