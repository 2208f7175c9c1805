"""SCAFFOLD: control variates take the client's drift out of each local step.

Karimireddy, Kale, Mohri, Reddi, Stich and Suresh, "SCAFFOLD: Stochastic Controlled Averaging for
Federated Learning", ICML 2020 (Algorithm 1). Client k descends ``g - c_k + c``; at its end

    option I:   c_k <- the gradient at the server's parameters
    option II:  c_k <- c_k - c + (w - w_k) / (T_k eta)

and the server adds the mean change of the c_k times the cohort's share of the population to c, so
that c stays the mean of all c_k. The paper's share is ``|S| / K``; here it is the weight of the
clients whose updates came in. Under SGD, option II is the mean of the client's own gradients g over
its steps. It is computed in this way, which holds for any schedule of the learning rate. Option I
takes the mean of the gradients at w over the round's batches (with one epoch, over all of a
client's data), and costs a second gradient a step.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ufm_jax.fed.algorithm import Algorithm, GradFn, Outcome, Params, Tree, Turn
from ufm_jax.fed.algorithms.controlled import Controlled, controlled

Option = Literal["I", "II"]


class Local(NamedTuple):
    """A client while it trains, with the sum of its gradients over ``steps``."""

    inner: Any
    control: Params
    gradients: Params
    steps: jax.Array

    @property
    def params(self) -> Params:
        """The client's parameters."""
        return self.inner.params


class Update(NamedTuple):
    """What is averaged: the update beneath, and the change of c_k."""

    inner: Tree
    control: Params


def scaffold(base: Algorithm, *, option: Option = "II") -> Algorithm:
    """Builds SCAFFOLD.

    Args:
        base: FedAvg with the local and the server optimiser; all parameters shared.
        option: How the control variates are renewed.

    Raises:
        ValueError: If ``option`` is neither.
    """
    if option not in ("I", "II"):
        raise ValueError(f"option={option!r}: choose 'I' or 'II'")

    def start(server: Controlled, client: Controlled) -> Local:
        inner = base.start(server.inner, client.inner)
        zero = optax.tree.zeros_like(client.control)
        return Local(inner, client.control, zero, jnp.float32(0))

    def step(
        server: Controlled, local: Local, grad_fn: GradFn, progress: jax.Array
    ) -> tuple[Local, jax.Array]:
        loss, grads = grad_fn(local.params)
        drift = optax.tree.sub(server.control, local.control)
        corrected = optax.tree.add(grads, drift)
        inner, _ = base.step(server.inner, local.inner, lambda _: (loss, corrected), progress)
        renewing = grads if option == "II" else grad_fn(server.params)[1]
        gradients = optax.tree.add(local.gradients, renewing)
        return Local(inner, local.control, gradients, local.steps + 1), loss

    def end(server: Controlled, local: Local, turn: Turn) -> tuple[Update, Controlled]:
        update, kept = base.end(server.inner, local.inner, turn)
        control = optax.tree.scale(1 / jnp.maximum(local.steps, 1), local.gradients)
        change = optax.tree.sub(control, local.control)
        return Update(update, change), Controlled(kept, control)

    def update_server(server: Controlled, mean: Update, outcome: Outcome) -> Controlled:
        inner = base.update_server(server.inner, mean.inner, outcome)
        return Controlled(inner, optax.tree.add_scale(server.control, outcome.share, mean.control))

    def broadcast(server: Controlled) -> Tree:
        return base.broadcast(server.inner), server.control

    return controlled(base, start, step, end, update_server, broadcast)
