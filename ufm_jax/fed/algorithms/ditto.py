"""Ditto: each client also trains a model of its own, which is pulled towards the shared one.

Li, Hu, Beirami and Smith, "Ditto: Fair and Robust Federated Learning Through Personalization", ICML
2021 (Algorithm 1). The personal model v_k descends ``f_k(v) + lambda / 2 |v - w|^2``, w being the
server's parameters as the round began. It never leaves its client, and does not change the shared
model. A step takes two gradients.
"""

from typing import Any, NamedTuple

import jax
import optax

from ufm_jax.fed.algorithm import Algorithm, GradFn, Params, Tree, Turn
from ufm_jax.fed.algorithms.fedavg import LrFactor, apply_scaled
from ufm_jax.fed.algorithms.fedprox import proximal


class Client(NamedTuple):
    """What the algorithm beneath keeps, and the client's own model."""

    inner: Tree
    own: Params


class Local(NamedTuple):
    """A client while it trains both models."""

    inner: Any
    own: Params
    opt_state: Tree

    @property
    def params(self) -> Params:
        """The client's parameters of the shared model."""
        return self.inner.params


def ditto(
    base: Algorithm,
    optimizer: optax.GradientTransformation,
    strength: float,
    *,
    lr_factor: LrFactor | None = None,
) -> Algorithm:
    """Builds Ditto.

    Args:
        base: The algorithm of the shared model; all parameters are shared.
        optimizer: The optimiser of the personal models; its state is reset every round.
        strength: lambda. With 0 each client trains alone; a larger value keeps personal models
            closer to the shared one.
        lr_factor: ``progress -> factor`` on every step of the personal models.
    """
    pulled = proximal(strength)

    def init_client(params: Params) -> Client:
        return Client(base.init_client(params), params)

    def start(server: Any, client: Client) -> Local:
        return Local(base.start(server, client.inner), client.own, optimizer.init(client.own))

    def step(
        server: Any, local: Local, grad_fn: GradFn, progress: jax.Array
    ) -> tuple[Local, jax.Array]:
        inner, loss = base.step(server, local.inner, grad_fn, progress)
        _, grads = pulled(server.params, local.own, grad_fn)
        updates, opt_state = optimizer.update(grads, local.opt_state, local.own)
        return Local(inner, apply_scaled(local.own, updates, lr_factor, progress), opt_state), loss

    def end(server: Any, local: Local, turn: Turn) -> tuple[Tree, Client]:
        update, kept = base.end(server, local.inner, turn)
        return update, Client(kept, local.own)

    def client_params(server: Any, client: Client) -> Params:
        del server
        return client.own

    return base._replace(
        init_client=init_client,
        start=start,
        step=step,
        end=end,
        client_params=client_params,
        stateful=True,
    )
