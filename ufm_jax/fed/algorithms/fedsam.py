"""FedSAM: clients descend the loss at the worst point nearby, towards flat minima.

Qu, Li, Duan, Liu, Tang and Lu, "Generalized Federated Learning via Sharpness Aware Minimization",
ICML 2022; Caldarola, Caputo and Ciccone, ECCV 2022. Each client takes the step of sharpness-aware
minimisation (Foret et al., ICLR 2021), ``grad f(w + rho grad f(w) / |grad f(w)|)``, which takes two
gradients.
"""

import jax
import optax

from ufm_jax.fed.algorithm import GradFn, LocalGradient, Params


def sharpness_aware(rho: float) -> LocalGradient:
    """The gradient at the worst point, to first order; the loss is that at ``params``.

    Args:
        rho: Radius of the neighbourhood; 0 is FedAvg.
    """

    def gradient(anchor: Params, params: Params, grad_fn: GradFn) -> tuple[jax.Array, Params]:
        del anchor
        loss, grads = grad_fn(params)
        # The addend keeps rho / length within float32 where the gradient all but vanishes.
        length = optax.tree.norm(grads) + 1e-12
        _, worst = grad_fn(optax.tree.add_scale(params, rho / length, grads))
        return loss, worst

    return gradient
