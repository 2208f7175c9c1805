"""FedDyn: a dynamic regulariser makes the clients' optima agree with the server's.

Acar, Zhao, Matas, Mattina, Whatmough and Saligrama, "Federated Learning Based on Dynamic
Regularization", ICLR 2021 (Algorithm 1). Client k descends
``f_k(w) - <h_k, w> + alpha / 2 |w - w_server|^2``, and with d_k = w_server - w_k

    h_k <- h_k + alpha d_k                    (so that at its optimum h_k = grad f_k(w_k))
    h   <- h + alpha share mean_S d_k
    w   <- w - mean_S d_k - h / alpha

The mean is that of the cohort's weights, and the share is the cohort's of the population's weight,
so that h stays the mean of all h_k; with the paper's uniform weights it is |S| / K.
"""

from typing import Any, NamedTuple

import jax
import optax

from ufm_jax.fed.algorithm import Algorithm, GradFn, Outcome, Params, Turn
from ufm_jax.fed.algorithms.controlled import Client, Server
from ufm_jax.fed.algorithms.fedavg import Update
from ufm_jax.fed.algorithms.fedprox import proximal


class Local(NamedTuple):
    """A client while it trains, and its h_k."""

    inner: Any
    control: Params

    @property
    def params(self) -> Params:
        """The client's parameters."""
        return self.inner.params


def feddyn(base: Algorithm, alpha: float) -> Algorithm:
    """Builds FedDyn.

    Args:
        base: FedAvg with the local optimiser, all parameters shared, and ``optax.sgd(1.0)`` on the
            server.
        alpha: Strength of the regulariser.
    """
    pulled = proximal(alpha)

    def init_server(params: Params) -> Server:
        return Server(base.init_server(params), optax.tree.zeros_like(params))

    def init_client(params: Params) -> Client:
        return Client(base.init_client(params), optax.tree.zeros_like(params))

    def start(server: Server, client: Client) -> Local:
        return Local(base.start(server.inner, client.inner), client.control)

    def step(
        server: Server, local: Local, grad_fn: GradFn, progress: jax.Array
    ) -> tuple[Local, jax.Array]:
        def corrected(params: Params) -> tuple[jax.Array, Params]:
            loss, grads = pulled(server.params, params, grad_fn)
            return loss, optax.tree.sub(grads, local.control)

        inner, loss = base.step(server.inner, local.inner, corrected, progress)
        return Local(inner, local.control), loss

    def end(server: Server, local: Local, turn: Turn) -> tuple[Update, Client]:
        update, kept = base.end(server.inner, local.inner, turn)
        control = optax.tree.add_scale(local.control, alpha, update.pseudo_gradient)
        return update, Client(kept, control)

    def update_server(server: Server, mean: Update, outcome: Outcome) -> Server:
        moved = mean.pseudo_gradient
        control = optax.tree.add_scale(server.control, alpha * outcome.share, moved)
        moved = optax.tree.add_scale(moved, 1 / alpha, control)
        inner = base.update_server(server.inner, mean._replace(pseudo_gradient=moved), outcome)
        return Server(inner, control)

    def client_params(server: Server, client: Client) -> Params:
        return base.client_params(server.inner, client.inner)

    return Algorithm(
        init_server,
        init_client,
        start,
        step,
        end,
        update_server,
        client_params,
        broadcast=lambda server: base.broadcast(server.inner),
        stateful=True,
    )
