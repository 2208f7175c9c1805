"""Quadratics whose answers can be derived by hand."""

import jax.numpy as jnp
import numpy as np

from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import make_placement


def quadratic(params, batch, keys):
    """f_i(w) = a_i / 2 (w - b_i)^2, whose gradient is a_i (w - b_i)."""
    del keys
    return batch["a"] / 2 * (params["w"] - batch["b"]) ** 2


def run(algorithm, *, a, b, start, rounds, local_steps, sizes=None, placement=(1, 1), **settings):
    """Trains one client for each of ``a`` and ``b``, and returns the state after the last round.

    Clients of ``sizes`` examples, all of them alike, take one step an example in place of
    ``local_steps``.
    """
    counts = np.ones(len(a), int) if sizes is None else np.asarray(sizes)
    one_pass = {"local_epochs": 1, "local_steps": None}
    fixed = {"local_epochs": None, "local_steps": local_steps}
    federation = Federation(
        quadratic,
        algorithm,
        np.concatenate([[0], np.cumsum(counts)]),
        Batching(1, **(fixed if sizes is None else one_pass)),
        placement=make_placement(*placement),
        **settings,
    )
    rows = {"a": np.repeat(a, counts), "b": np.repeat(b, counts)}
    examples = federation.replicate({name: jnp.array(value) for name, value in rows.items()})
    state = federation.init({"w": jnp.array(start)})
    for r in range(rounds):
        state, _ = federation.run_round(state, examples, federation.plan(r))
    return federation, state


def run_to(algorithm, **settings):
    """The server's parameter after the last round."""
    return float(run(algorithm, **settings)[1].server.params["w"])
