"""FedProx: local steps are pulled back to where the round began.

Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, "Federated Optimization in Heterogeneous Networks",
MLSys 2020 (Algorithm 2): the local objective is ``f_k(w) + mu / 2 |w - w_server|^2``.
"""

import jax
import optax

from ufm_jax.fed.algorithm import GradFn, LocalGradient, Params


def proximal(mu: float) -> LocalGradient:
    """The gradient of the proximal objective; the loss is reported without the penalty.

    Args:
        mu: Strength of the pull; 0 is FedAvg.
    """

    def gradient(anchor: Params, params: Params, grad_fn: GradFn) -> tuple[jax.Array, Params]:
        loss, grads = grad_fn(params)
        return loss, optax.tree.add_scale(grads, mu, optax.tree.sub(params, anchor))

    return gradient
