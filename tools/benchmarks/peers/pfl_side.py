"""pfl's side of the comparisons: FederatedAveraging on its SimulatedBackend, in PyTorch.

Granqvist et al., "pfl-research: simulation framework for accelerating research in Private
Federated Learning", NeurIPS 2024.
"""

import sys
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found]
from pfl.aggregate.simulate import SimulatedBackend  # type: ignore[import-not-found]
from pfl.aggregate.weighting import WeightByDatapoints  # type: ignore[import-not-found]
from pfl.algorithm.base import NNAlgorithmParams  # type: ignore[import-not-found]
from pfl.algorithm.federated_averaging import (  # type: ignore[import-not-found]
    FederatedAveraging,
)
from pfl.callback.base import TrainingProcessCallback  # type: ignore[import-not-found]
from pfl.data.dataset import Dataset  # type: ignore[import-not-found]
from pfl.data.federated_dataset import FederatedDataset  # type: ignore[import-not-found]
from pfl.hyperparam import (  # type: ignore[import-not-found]
    NNEvalHyperParams,
    NNTrainHyperParams,
)
from pfl.internal.ops.pytorch_ops import get_default_device  # type: ignore[import-not-found]
from pfl.metrics import Metrics, StringMetricName, Weighted  # type: ignore[import-not-found]
from pfl.model.pytorch import PyTorchModel  # type: ignore[import-not-found]
from torch import Tensor, nn
from torch.nn import functional  # type: ignore[import-not-found]

from tools.benchmarks.peers.exchange import Arrays, Task
from tools.benchmarks.peers.torch_models import examples, export_params, make_network
from tools.benchmarks.peers.trainer import CORES, fastest, serve_trainer

NEVER = 1 << 30


class Classifier(nn.Module):
    """What pfl asks of a model beside its forward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of a batch."""
        self.train()
        return functional.cross_entropy(self.network(x), y)

    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Weighted]:
        """What pfl evaluates: on test examples, and on each client's in round 0, and only then."""
        self.eval()
        with torch.no_grad():
            loss = functional.cross_entropy(self.network(x), y).item()
        return {"loss": Weighted(loss * len(y), len(y))}


class Pfl(TrainingProcessCallback):
    """See ``Trainer``."""

    def load(self, task: Task, folder: Path) -> None:
        """See ``Trainer``."""
        del folder
        network = Classifier(make_network(task))
        self._task = task
        self._model = PyTorchModel(
            network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0)
        )
        device = get_default_device()
        clients = [Dataset(examples(*task.client(k), device)) for k in range(len(task.sizes))]
        turns = chain.from_iterable(map(task.cohort, cycle(range(len(task.cohorts)))))
        users = FederatedDataset(clients.__getitem__, turns.__next__)
        self._backend = SimulatedBackend(users, users, postprocessors=[WeightByDatapoints()])
        self._algorithm: Any = FederatedAveraging()
        self._train = NNTrainHyperParams(
            local_num_epochs=task.local_epochs,
            local_learning_rate=task.learning_rate,
            local_batch_size=task.batch_size,
        )
        if task.evaluate_every:
            self._test = Dataset(examples(task.test_x, task.test_y, device))
        self._begun, self._done = 0, 0

    def rounds(self, count: int) -> None:
        """See ``Trainer``."""
        self._begun = self._done
        params = NNAlgorithmParams(
            central_num_iterations=self._done + count,
            evaluation_frequency=NEVER,
            train_cohort_size=self._task.cohorts.shape[1],
            val_cohort_size=None,
        )
        self._algorithm.run(
            params,
            self._backend,
            self._model,
            self._train,
            callbacks=[self],
            send_metrics_to_platform=False,
        )
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """What pfl calls after each round."""
        del aggregate_metrics, model, central_iteration
        self._done += 1
        if self._task.evaluates(self._done - self._begun):
            self.evaluate()
        return False, Metrics()

    def params(self) -> Arrays:
        """See ``Trainer``."""
        return export_params(self._model.pytorch_model.network)

    def evaluate(self) -> float:
        """See ``Trainer``."""
        metrics = self._model.evaluate(
            self._test,
            StringMetricName,
            NNEvalHyperParams(local_batch_size=self._task.evaluate_batch),
        )
        return float(metrics.to_simple_dict(to_lowercase=True)["loss"])

    def tune(self) -> str:
        """See ``Trainer``; small models often want one thread."""
        threads = fastest(self, (str(CORES), "1"), lambda way: torch.set_num_threads(int(way)))
        return (
            f"pfl 0.6.0, PyTorch {torch.__version__}, {get_default_device()}, threads: {threads} "
            f"(the faster of 1 and {CORES})"
        )


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr
    serve_trainer(Pfl(), answers)
