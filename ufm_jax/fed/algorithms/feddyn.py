"""FedDyn: a dynamic regulariser makes the clients' optima agree with the server's.

Acar, Zhao, Matas, Mattina, Whatmough and Saligrama, "Federated Learning Based on Dynamic
Regularization", ICLR 2021 (Algorithm 1). Client k descends
``f_k(w) - <h_k, w> + alpha / 2 |w - w_server|^2``, and with d_k = w_server - w_k

    h_k <- h_k + alpha d_k                    (so that at its optimum h_k = grad f_k(w_k))
    h   <- h + alpha share mean_S d_k
    w   <- w - mean_S d_k - h / alpha

The mean is weighted. The share is the cohort's part of the population's weight, so that h stays the
mean of all h_k; with the paper's uniform weights it is |S| / K.
"""

import jax
import optax

from ufm_jax.fed.algorithm import Algorithm, GradFn, Outcome, Params, Turn
from ufm_jax.fed.algorithms.controlled import Controlled, controlled
from ufm_jax.fed.algorithms.fedavg import Update
from ufm_jax.fed.algorithms.fedprox import proximal


def feddyn(base: Algorithm, alpha: float) -> Algorithm:
    """Builds FedDyn.

    Args:
        base: FedAvg with the local optimiser, all parameters shared, and ``optax.sgd(1.0)`` on the
            server.
        alpha: Strength of the regulariser.
    """
    pulled = proximal(alpha)

    def start(server: Controlled, client: Controlled) -> Controlled:
        return Controlled(base.start(server.inner, client.inner), client.control)

    def step(
        server: Controlled, local: Controlled, grad_fn: GradFn, progress: jax.Array
    ) -> tuple[Controlled, jax.Array]:
        def corrected(params: Params) -> tuple[jax.Array, Params]:
            loss, grads = pulled(server.params, params, grad_fn)
            return loss, optax.tree.sub(grads, local.control)

        inner, loss = base.step(server.inner, local.inner, corrected, progress)
        return Controlled(inner, local.control), loss

    def end(server: Controlled, local: Controlled, turn: Turn) -> tuple[Update, Controlled]:
        update, kept = base.end(server.inner, local.inner, turn)
        control = optax.tree.add_scale(local.control, alpha, update.pseudo_gradient)
        return update, Controlled(kept, control)

    def update_server(server: Controlled, mean: Update, outcome: Outcome) -> Controlled:
        moved = mean.pseudo_gradient
        control = optax.tree.add_scale(server.control, alpha * outcome.share, moved)
        moved = optax.tree.add_scale(moved, 1 / alpha, control)
        inner = base.update_server(server.inner, mean._replace(pseudo_gradient=moved), outcome)
        return Controlled(inner, control)

    return controlled(
        base, start, step, end, update_server, lambda server: base.broadcast(server.inner)
    )
