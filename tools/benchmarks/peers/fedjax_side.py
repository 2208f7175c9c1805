"""FedJAX's side of the engine's comparison: federated_averaging on its jit backend.

Ro, Suresh and Wu, "FedJAX: Federated learning simulation with JAX", 2021. Clients are its
ClientDataset, batched by shuffle_repeat_batch without the shuffle; the model and its gradient are
the functions that our side uses.
"""

import sys
import time
from typing import Any

import jax
import numpy as np

# FedJAX 0.0.17 calls what jax has removed since.
jax.tree_map = jax.tree_util.tree_map  # type: ignore[attr-defined]

import fedjax  # type: ignore[import-not-found]  # noqa: E402
from fedjax.algorithms import fed_avg  # type: ignore[import-not-found]  # noqa: E402

from tools.benchmarks.federations import MODELS, losses  # noqa: E402
from tools.benchmarks.peers.exchange import Task  # noqa: E402
from tools.benchmarks.peers.process import Message, serve  # noqa: E402


class FedJaxSide:
    """Answers to requests, with the state between them."""

    def load(self, file: str) -> Message:
        """Reads a task and builds what runs it."""
        task = Task.load(file)
        forward = MODELS[task.model].forward_alone

        def loss(params: Any, batch: Any, key: jax.Array) -> jax.Array:
            del key
            return losses(forward, params, batch).mean()

        fedjax.set_for_each_client_backend("jit")
        self._algorithm = fed_avg.federated_averaging(
            jax.grad(loss),
            client_optimizer=fedjax.optimizers.sgd(task.learning_rate),
            server_optimizer=fedjax.optimizers.sgd(1.0),
            client_batch_hparams=fedjax.ShuffleRepeatBatchHParams(
                batch_size=task.batch_size, skip_shuffle=True, drop_remainder=True
            ),
        )
        key = np.asarray(jax.random.PRNGKey(0))
        self._clients = [
            (k, fedjax.ClientDataset({"x": x, "y": y}), key)
            for k, (x, y) in enumerate(task.clients)
        ]
        self._state = self._algorithm.init(jax.device_put(task.params))
        return {}

    def first_round(self, file: str) -> Message:
        """Runs round 0, writes the parameters after it, and says what runs."""
        self._rounds(1)
        np.savez(file, **jax.device_get(self._state.params))
        device = jax.devices()[0].device_kind
        return {"note": f"FedJAX 0.0.17, jit backend, jax {jax.__version__}, one device ({device})"}

    def run(self, rounds: int) -> Message:
        """Times more rounds."""
        start = time.perf_counter()
        self._rounds(rounds)
        return {"seconds": time.perf_counter() - start}

    def _rounds(self, rounds: int) -> None:
        for _ in range(rounds):
            self._state, _ = self._algorithm.apply(self._state, self._clients)
        jax.block_until_ready(self._state.params)


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr
    side = FedJaxSide()
    serve({"load": side.load, "first_round": side.first_round, "run": side.run}, answers)
