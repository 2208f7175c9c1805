"""FedJAX's side of the comparisons: federated_averaging on its jit backend.

Ro, Suresh and Wu, "FedJAX: Federated learning simulation with JAX", 2021. Clients are its
ClientDataset, batched by shuffle_repeat_batch without the shuffle; the model and its gradient are
the functions that our side uses.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

# FedJAX 0.0.17 calls what jax has removed since.
jax.tree_map = jax.tree_util.tree_map  # type: ignore[attr-defined]

import fedjax  # type: ignore[import-not-found]  # noqa: E402
from fedjax.algorithms import fed_avg  # type: ignore[import-not-found]  # noqa: E402

from tools.benchmarks.models import MODELS, losses  # noqa: E402
from tools.benchmarks.peers.exchange import Arrays, Task  # noqa: E402
from tools.benchmarks.peers.trainer import serve_trainer  # noqa: E402


class FedJax:
    """See ``Trainer``."""

    def load(self, task: Task, folder: Path) -> None:
        """See ``Trainer``."""
        del folder
        model = MODELS[task.model]

        def loss(params: Any, batch: Any, key: jax.Array) -> jax.Array:
            return losses(model.forward_alone, params, batch, key if task.dropout else None).mean()

        fedjax.set_for_each_client_backend("jit")
        self._algorithm = fed_avg.federated_averaging(
            jax.grad(loss),
            client_optimizer=fedjax.optimizers.sgd(task.learning_rate),
            server_optimizer=fedjax.optimizers.sgd(1.0),
            client_batch_hparams=fedjax.ShuffleRepeatBatchHParams(
                batch_size=task.batch_size,
                num_epochs=task.local_epochs,
                skip_shuffle=True,
                drop_remainder=True,
            ),
        )
        self._task, self._round = task, 0
        self._evaluation = jax.jit(model.evaluate)
        key = np.asarray(jax.random.PRNGKey(0))
        clients = (task.client(k) for k in range(len(task.sizes)))
        self._clients = [
            (k, fedjax.ClientDataset({"x": x, "y": y}), key) for k, (x, y) in enumerate(clients)
        ]
        if task.evaluate_every:
            self._test = jax.device_put(task.test_batches)
        self._state = self._algorithm.init(jax.device_put(task.params))

    def rounds(self, count: int) -> None:
        """See ``Trainer``."""
        for done in range(1, count + 1):
            cohort = [self._clients[k] for k in self._task.cohort(self._round)]
            self._state, _ = self._algorithm.apply(self._state, cohort)
            self._round += 1
            if self._task.evaluates(done):
                self.evaluate()
        jax.block_until_ready(self._state.params)

    def params(self) -> Arrays:
        """See ``Trainer``."""
        params: Arrays = jax.device_get(self._state.params)
        return params

    def evaluate(self) -> float:
        """See ``Trainer``."""
        return float(self._evaluation(self._state.params, self._test))

    def tune(self) -> str:
        """See ``Trainer``."""
        self.rounds(1)
        if self._task.evaluate_every:
            self.evaluate()
        device = jax.devices()[0].device_kind
        return f"FedJAX 0.0.17, jit backend, jax {jax.__version__}, one device ({device})"


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr
    serve_trainer(FedJax(), answers)
