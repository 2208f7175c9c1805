"""What a worker of Flower's simulation does: it trains one client.

A module of its own, since workers are processes that import it.
"""

from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

import torch  # type: ignore[import-not-found]
from flwr.app import (  # type: ignore[import-not-found]
    ArrayRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from torch import nn
from torch.nn import functional  # type: ignore[import-not-found]

from tools.benchmarks.peers.exchange import Task
from tools.benchmarks.peers.torch_models import examples, make_network

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@lru_cache(maxsize=1)
def kept(folder: str, compared: bool) -> tuple[Task, nn.Module]:
    """A task and its network, which a worker keeps."""
    task = Task.load(Path(folder))
    task = task.compared if compared else task
    return task, make_network(task).to(DEVICE)


def train(message: Message, context: Context) -> Message:
    """Trains one client."""
    del context
    config = message.content["config"]
    task, network = kept(config["folder"], config["compared"])
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=task.learning_rate)
    x, y = examples(*task.client(config["client"]), DEVICE)
    for _ in range(task.local_epochs):
        batches = zip(x.split(task.batch_size), y.split(task.batch_size), strict=True)
        for features, labels in batches:
            optimizer.zero_grad()
            functional.cross_entropy(network(features), labels).backward()
            optimizer.step()
    content = RecordDict(
        {
            "arrays": ArrayRecord(OrderedDict(network.state_dict())),
            "metrics": MetricRecord({"num-examples": len(y)}),
        }
    )
    return Message(content=content, reply_to=message)
