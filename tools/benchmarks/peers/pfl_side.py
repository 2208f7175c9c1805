"""pfl's side of the engine's comparison: FederatedAveraging on its SimulatedBackend, in PyTorch.

Granqvist et al., "pfl-research: simulation framework for accelerating research in Private
Federated Learning", NeurIPS 2024. The models are those of ``federations``, written as PyTorch's
own layers; parameters are brought to their layouts and back.
"""

import sys
import time
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]
from pfl.aggregate.simulate import SimulatedBackend  # type: ignore[import-not-found]
from pfl.aggregate.weighting import WeightByDatapoints  # type: ignore[import-not-found]
from pfl.algorithm.base import NNAlgorithmParams  # type: ignore[import-not-found]
from pfl.algorithm.federated_averaging import (  # type: ignore[import-not-found]
    FederatedAveraging,
)
from pfl.data.dataset import Dataset  # type: ignore[import-not-found]
from pfl.data.federated_dataset import FederatedDataset  # type: ignore[import-not-found]
from pfl.data.sampling import get_user_sampler  # type: ignore[import-not-found]
from pfl.hyperparam import NNTrainHyperParams  # type: ignore[import-not-found]
from pfl.internal.ops.pytorch_ops import get_default_device  # type: ignore[import-not-found]
from pfl.metrics import Weighted  # type: ignore[import-not-found]
from pfl.model.pytorch import PyTorchModel  # type: ignore[import-not-found]
from torch import Tensor, nn
from torch.nn import functional  # type: ignore[import-not-found]

from tools.benchmarks.peers.exchange import Arrays, Task
from tools.benchmarks.peers.process import Message, serve

SIDE, CLASSES = 28, 62
HIDDEN = 256
CHANNELS = (16, 32)
WIDTH, HEADS, WIDENED = 64, 4, 128
NEVER = 1 << 30
CORES = torch.get_num_threads()


class Classifier(nn.Module):
    """What pfl asks of a model beside its forward pass."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of a batch."""
        return functional.cross_entropy(self(x), y)

    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Weighted]:
        """What pfl evaluates before and after each client's training in round 0, and only then."""
        with torch.no_grad():
            return {"loss": Weighted(self.loss(x, y).item() * len(y), len(y))}


class LogReg(Classifier):
    """Logistic regression."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(SIDE * SIDE, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.out(x)


class Mlp(Classifier):
    """Two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(SIDE * SIDE, HIDDEN)
        self.hidden2 = nn.Linear(HIDDEN, HIDDEN)
        self.out = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = functional.relu(self.hidden1(x))
        x = functional.relu(self.hidden2(x))
        return self.out(x)


class Cnn(Classifier):
    """Two convolutions and a dense layer, on channels before rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, CHANNELS[0], 3, padding=1)
        self.conv2 = nn.Conv2d(*CHANNELS, 3, padding=1)
        self.out = nn.Linear((SIDE // 4) ** 2 * CHANNELS[1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = x.view(-1, 1, SIDE, SIDE)
        x = functional.avg_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.avg_pool2d(functional.relu(self.conv2(x)), 2)
        return self.out(x.flatten(1))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, WIDENED), nn.Linear(WIDENED, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens."""
        heads = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.relu(self.up(self.norm2(x))))


class Transformer(Classifier):
    """An encoder over the rows of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(SIDE, WIDTH)
        self.position = nn.Parameter(torch.zeros(SIDE, WIDTH))
        self.block0, self.block1 = Block(), Block()
        self.norm = nn.LayerNorm(WIDTH)
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        tokens = self.embed(x.view(-1, SIDE, SIDE)) + self.position
        return self.out(self.norm(self.block1(self.block0(tokens))).mean(dim=1))


MODELS = {"logreg": LogReg, "mlp": Mlp, "cnn": Cnn, "transformer": Transformer}


def import_params(model: nn.Module, params: Arrays) -> None:
    """Brings parameters as ``federations`` names and lays them out into a model."""
    for name, parameter in model.named_parameters():
        value = torch.from_numpy(params[_our_name(model, name)])
        with torch.no_grad():
            parameter.copy_(_to_torch(model, name, value, parameter.shape))


def export_params(model: nn.Module) -> Arrays:
    """The inverse of ``import_params``."""
    return {
        _our_name(model, name): _from_torch(model, name, parameter.detach().cpu()).numpy()
        for name, parameter in model.named_parameters()
    }


def _our_name(model: nn.Module, name: str) -> str:
    """PyTorch calls the scale of a normalisation a weight."""
    layer, _, kind = name.rpartition(".")
    return (
        f"{layer}.scale"
        if isinstance(_layer(model, name), nn.LayerNorm) and (kind == "weight")
        else name
    )


def _layer(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _to_torch(model: nn.Module, name: str, value: Tensor, shape: torch.Size) -> Tensor:
    if not name.endswith(".weight") or value.ndim == 1:
        return value
    if len(shape) == 4:  # [9 C, out] to [out, C, 3, 3]
        return value.reshape(3, 3, shape[1], shape[0]).permute(3, 2, 0, 1)
    if _after_pictures(model, name):  # Inputs by row, column, channel to channel, row, column.
        value = (
            value.reshape(SIDE // 4, SIDE // 4, CHANNELS[1], -1).permute(2, 0, 1, 3).flatten(0, 2)
        )
    return value.T


def _from_torch(model: nn.Module, name: str, value: Tensor) -> Tensor:
    if not name.endswith(".weight") or value.ndim == 1:
        return value
    if value.ndim == 4:
        return value.permute(2, 3, 1, 0).flatten(0, 2)
    if _after_pictures(model, name):
        return (
            value.T.reshape(CHANNELS[1], SIDE // 4, SIDE // 4, -1).permute(1, 2, 0, 3).flatten(0, 2)
        )
    return value.T


def _after_pictures(model: nn.Module, name: str) -> bool:
    return isinstance(model, Cnn) and name == "out.weight"


class PflSide:
    """Answers to requests, with the state between them."""

    def load(self, file: str) -> Message:
        """Reads a task and builds what runs it."""
        task = Task.load(file)
        network = MODELS[task.model]()
        import_params(network, task.params)
        # float32 as on the other sides: TF32 is on by default where there are convolutions.
        torch.backends.cudnn.allow_tf32 = False
        self._model = PyTorchModel(
            network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0)
        )
        device = get_default_device()
        clients = {
            k: Dataset((torch.from_numpy(x).to(device), torch.from_numpy(y).long().to(device)))
            for k, (x, y) in enumerate(task.clients)
        }
        users = FederatedDataset(
            clients.__getitem__, get_user_sampler("minimize_reuse", list(clients))
        )
        self._backend = SimulatedBackend(users, users, postprocessors=[WeightByDatapoints()])
        self._algorithm: Any = FederatedAveraging()
        self._train = NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=task.learning_rate,
            local_batch_size=task.batch_size,
        )
        self._cohort, self._done = len(clients), 0
        return {}

    def first_round(self, file: str) -> Message:
        """Runs round 0, writes the parameters after it, and chooses the number of threads."""
        self._rounds(1)
        params: Any = export_params(self._model.pytorch_model)
        np.savez(file, **params)
        threads = self._choose_threads()
        device = get_default_device()
        return {
            "note": f"pfl 0.6.0, PyTorch {torch.__version__}, {device}, {threads} threads (the "
            f"faster of 1 and {CORES})"
        }

    def run(self, rounds: int) -> Message:
        """Times more rounds."""
        return {"seconds": self._timed(rounds)}

    def _timed(self, rounds: int) -> float:
        start = time.perf_counter()
        self._rounds(rounds)
        return time.perf_counter() - start

    def _rounds(self, rounds: int) -> None:
        # pfl evaluates all clients in rounds divisible by the frequency: here in round 0 alone.
        self._done += rounds
        params = NNAlgorithmParams(
            central_num_iterations=self._done,
            evaluation_frequency=NEVER,
            train_cohort_size=self._cohort,
            val_cohort_size=None,
        )
        self._algorithm.run(
            params, self._backend, self._model, self._train, send_metrics_to_platform=False
        )
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _choose_threads(self) -> int:
        """Sets the faster of one thread and all cores: small models often want one."""
        seconds: dict[int, list[float]] = {CORES: [], 1: []}
        for threads in (CORES, 1, CORES, 1):
            torch.set_num_threads(threads)
            seconds[threads].append(self._timed(1))
        best = min(seconds, key=lambda threads: min(seconds[threads]))
        torch.set_num_threads(best)
        return best


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr
    side = PflSide()
    serve({"load": side.load, "first_round": side.first_round, "run": side.run}, answers)
