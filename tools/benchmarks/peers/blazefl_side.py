"""BlazeFL's side of the comparisons: its own FedAvg, in PyTorch.

Azuma, "BlazeFL", arXiv:2604.03606, 2026. Its server and its trainers run as in its benchmark's main
loop. Its data loaders draw whole batches from tensors that are ready.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found]
from blazefl.contrib import (  # type: ignore[import-not-found]
    FedAvgBaseClientTrainer,
    FedAvgBaseServerHandler,
    FedAvgPartitionType,
    FedAvgThreadPoolClientTrainer,
)
from torch import Tensor, nn
from torch.utils.data import (  # type: ignore[import-not-found]
    BatchSampler,
    DataLoader,
    SequentialSampler,
    TensorDataset,
)

from tools.benchmarks.peers.exchange import Arrays, Task
from tools.benchmarks.peers.torch_models import examples, export_params, make_network
from tools.benchmarks.peers.trainer import CORES, fastest, serve_trainer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAST = 1 << 30


class Parts:
    """What BlazeFL asks of a data set in parts, and of a choice of models."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._clients = [examples(*task.client(k), DEVICE) for k in range(len(task.sizes))]
        self._test: tuple[Tensor, Tensor] | None = None
        if task.evaluate_every:
            self._test = examples(task.test_x, task.test_y, DEVICE)

    def get_dataloader(
        self,
        type_: FedAvgPartitionType,
        cid: int | None,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> DataLoader:
        """The batches of a client, or those for evaluation, in order."""
        del generator
        if type_ == FedAvgPartitionType.TRAIN:
            assert cid is not None
            data = self._clients[cid]
        else:
            assert self._test is not None
            data, batch_size = self._test, self._task.evaluate_batch
        batches = BatchSampler(SequentialSampler(data[1]), batch_size, drop_last=False)
        return DataLoader(TensorDataset(*data), sampler=batches, batch_size=None)

    def select_model(self, model_name: str) -> nn.Module:
        """The task's model."""
        del model_name
        return make_network(self._task)


class Server(FedAvgBaseServerHandler):
    """BlazeFL's server with the task's cohorts."""

    def __init__(self, task: Task, parts: Parts) -> None:
        clients = len(task.sizes)
        ratio = task.cohorts.shape[1] / clients
        super().__init__(
            parts, task.model, parts, LAST, clients, ratio, DEVICE, task.batch_size, seed=0
        )
        self._task = task

    def sample_clients(self) -> list[int]:
        """The clients of this round."""
        return sorted(self._task.cohort(self.round))


class BlazeFl:
    """See ``Trainer``."""

    def load(self, task: Task, folder: Path) -> None:
        """See ``Trainer``."""
        del folder
        self._task, parts = task, Parts(task)
        settings: dict[str, Any] = {
            "model_selector": parts,
            "model_name": task.model,
            "dataset": parts,
            "device": DEVICE,
            "num_clients": len(task.sizes),
            "epochs": task.local_epochs,
            "batch_size": task.batch_size,
            "lr": task.learning_rate,
            "seed": 0,
        }
        self._server = Server(task, parts)
        self._in_turn = FedAvgBaseClientTrainer(**settings)
        self._in_threads = FedAvgThreadPoolClientTrainer(**settings, num_parallels=CORES)
        self._trainer: Any = self._in_turn

    def rounds(self, count: int) -> None:
        """See ``Trainer``."""
        for done in range(1, count + 1):
            cohort = self._server.sample_clients()
            self._trainer.local_process(self._server.downlink_package(), cohort)
            for package in self._trainer.uplink_package():
                self._server.load(package)
            if self._task.evaluates(done):
                self.evaluate()

    def params(self) -> Arrays:
        """See ``Trainer``."""
        return export_params(self._server.model)

    def evaluate(self) -> float:
        """See ``Trainer``."""
        loss: float = self._server.get_summary()["server_loss"]
        return loss

    def tune(self) -> str:
        """See ``Trainer``; clients in turn, each on some threads, or in threads of their own."""
        ways = {
            f"clients in turn, PyTorch threads: {CORES}": (self._in_turn, CORES),
            "clients in turn, PyTorch threads: 1": (self._in_turn, 1),
            f"threads of clients: {CORES}": (self._in_threads, 1),
        }

        def choose(way: str) -> None:
            self._trainer, threads = ways[way]
            torch.set_num_threads(threads)

        best = fastest(self, ways, choose)
        gil = "with" if getattr(sys, "_is_gil_enabled", lambda: True)() else "without"
        python = ".".join(map(str, sys.version_info[:2]))
        return (
            f"BlazeFL {version('blazefl')}, Python {python} {gil} a global lock, PyTorch "
            f"{torch.__version__}, {DEVICE}, {best} (the fastest of {len(ways)} ways)"
        )


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr
    serve_trainer(BlazeFl(), answers)
