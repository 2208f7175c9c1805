"""FedNova: updates are normalised by how far each client's steps could carry it.

Wang, Liu, Liang, Joshi and Poor, "Tackling the Objective Inconsistency Problem in Heterogeneous
Federated Optimization", NeurIPS 2020. Local SGD moves client k by ``rate sum_s a_s g_s``; where
clients take unequal numbers of steps, FedAvg weights them by |a|_1 besides p_k and converges to
another objective. FedNova averages directions, and then goes as far as the clients went on average:

    w <- w - (sum_k p_k |a_k|_1) sum_k p_k (w - w_k) / |a_k|_1

With momentum rho, step t adds f_t m_t to |a|_1, where m_t = 1 + rho m_{t-1} and f_t is the learning
rate's factor.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ufm_jax.fed.algorithm import Algorithm, GradFn, Outcome, Params, Tree, Turn
from ufm_jax.fed.algorithms.fedavg import LrFactor, fedavg


class Local(NamedTuple):
    """A client while it trains, with its momentum's weight m and the length |a|_1 so far."""

    inner: Any
    weight: jax.Array
    length: jax.Array

    @property
    def params(self) -> Params:
        """The client's parameters."""
        return self.inner.params


class Update(NamedTuple):
    """What is averaged: the direction, and how far the client went."""

    inner: Tree
    length: jax.Array


def fednova(
    optimizer: optax.GradientTransformation,
    momentum: float = 0.0,
    server_optimizer: optax.GradientTransformation | None = None,
    *,
    lr_factor: LrFactor | None = None,
) -> Algorithm:
    """Builds FedNova.

    Args:
        optimizer: The local optimiser: SGD, whose rates may differ between parameters.
        momentum: The momentum of ``optimizer``, from which |a|_1 follows.
        server_optimizer: Applied to the pseudo-gradient; by default ``optax.sgd(1.0)``.
        lr_factor: ``progress -> factor`` on every local update.
    """
    base = fedavg(optimizer, server_optimizer, lr_factor=lr_factor)

    def start(server: Any, client: Tree) -> Local:
        return Local(base.start(server, client), jnp.float32(0), jnp.float32(0))

    def step(
        server: Any, local: Local, grad_fn: GradFn, progress: jax.Array
    ) -> tuple[Local, jax.Array]:
        inner, loss = base.step(server, local.inner, grad_fn, progress)
        weight = 1 + momentum * local.weight
        factor = lr_factor(progress) if lr_factor else 1.0
        return Local(inner, weight, local.length + factor * weight), loss

    def end(server: Any, local: Local, turn: Turn) -> tuple[Update, Tree]:
        update, kept = base.end(server, local.inner, turn)
        # A length of zero (a rate of zero throughout) moved nothing.
        length = jnp.where(local.length > 0, local.length, 1)
        return Update(optax.tree.scale(1 / length, update), local.length), kept

    def update_server(server: Any, mean: Update, outcome: Outcome) -> Any:
        return base.update_server(server, optax.tree.scale(mean.length, mean.inner), outcome)

    return base._replace(start=start, step=step, end=end, update_server=update_server)
