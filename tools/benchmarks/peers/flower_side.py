"""Flower's side of the comparisons: FedAvg on its simulation engine, in PyTorch.

Beutel et al., "Flower: A Friendly Federated Learning Research Framework", arXiv:2007.14390, 2020.
The simulation is started once, and answers requests from inside its server, so that its start is in
no time. Each round's messages name the clients of the cohort; a worker of the simulation keeps the
task between messages.
"""

import logging
import sys
from collections import OrderedDict
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch  # type: ignore[import-not-found]
from flwr.app import (  # type: ignore[import-not-found]
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp  # type: ignore[import-not-found]
from flwr.serverapp import Grid, ServerApp  # type: ignore[import-not-found]
from flwr.serverapp.strategy import FedAvg  # type: ignore[import-not-found]
from flwr.simulation import run_simulation  # type: ignore[import-not-found]
from torch.nn import functional  # type: ignore[import-not-found]

from tools.benchmarks.peers.exchange import Arrays, Task
from tools.benchmarks.peers.flower_client import DEVICE, train
from tools.benchmarks.peers.torch_models import examples, export_params, make_network
from tools.benchmarks.peers.trainer import CORES, serve_trainer

NODES = 100
"""Clients that the simulation has; a message says as which of the task's it is to train."""


class Cohorts(FedAvg):
    """FedAvg whose rounds have the task's cohorts."""

    def __init__(self, task: Task, folder: str) -> None:
        super().__init__(fraction_evaluate=0.0, min_available_nodes=1)
        self._task, self._folder, self._done = task, folder, 0
        self._compared = task.compared is task

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """A message for each client of the cohort."""
        del server_round, config
        nodes = list(grid.get_node_ids())
        messages = []
        for i, client in enumerate(self._task.cohort(self._done)):
            about = {"folder": self._folder, "compared": self._compared, "client": client}
            content = RecordDict({"arrays": arrays, "config": ConfigRecord(about)})
            messages.append(
                Message(content=content, message_type="train", dst_node_id=nodes[i % len(nodes)])
            )
        self._done += 1
        return messages


class Flower:
    """See ``Trainer``."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def load(self, task: Task, folder: Path) -> None:
        """See ``Trainer``."""
        self._task, self._network = task, make_network(task).to(DEVICE)
        self._arrays = ArrayRecord(OrderedDict(self._network.state_dict()))
        self._strategy = Cohorts(task, str(folder))
        if task.evaluate_every:
            self._test = examples(task.test_x, task.test_y, DEVICE)

    def rounds(self, count: int) -> None:
        """See ``Trainer``."""
        result = self._strategy.start(
            grid=self._grid,
            initial_arrays=self._arrays,
            num_rounds=count,
            evaluate_fn=self._after_round,
        )
        self._arrays = result.arrays

    def _after_round(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round == 0 or not self._task.evaluates(server_round):
            return None
        self._arrays = arrays
        return MetricRecord({"loss": self.evaluate()})

    def params(self) -> Arrays:
        """See ``Trainer``."""
        self._network.load_state_dict(self._arrays.to_torch_state_dict())
        return export_params(self._network)

    def evaluate(self) -> float:
        """See ``Trainer``."""
        self._network.load_state_dict(self._arrays.to_torch_state_dict())
        self._network.eval()
        batches = zip(*(part.split(self._task.evaluate_batch) for part in self._test), strict=True)
        with torch.no_grad():
            losses = [functional.cross_entropy(self._network(x), y).item() for x, y in batches]
        return float(np.mean(losses))

    def tune(self) -> str:
        """See ``Trainer``."""
        self.rounds(1)
        return (
            f"Flower {version('flwr')}, simulation on ray {version('ray')}, PyTorch "
            f"{torch.__version__}, {DEVICE}, workers of one core each: {CORES}"
        )


def main(answers: TextIO) -> None:
    """Starts the simulation, whose server answers requests until there are no more."""
    server = ServerApp()

    @server.main()
    def serve_requests(grid: Grid, context: Context) -> None:
        del context
        serve_trainer(Flower(grid), answers)

    client = ClientApp()
    client.train()(train)
    share: dict[str, Any] = {"num_cpus": 1, "num_gpus": 1 / CORES if DEVICE == "cuda" else 0.0}
    backend = {
        "client_resources": share,
        "init_args": {"num_cpus": CORES, "log_to_driver": False},
    }
    logging.getLogger("flwr").setLevel(logging.ERROR)  # It reports every round.
    run_simulation(server, client, NODES, backend_config=backend)


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr
    main(answers)
