"""Ragged federations of small models: the work of the engine's comparison.

All models read 784 numbers, a picture of 28 x 28, and tell 62 classes apart (the shape of FEMNIST;
Caldas et al., "LEAF: A Benchmark for Federated Settings", 2018).
"""

import math

import numpy as np
import numpy.typing as npt

from tools.benchmarks.models import CLASSES, FEATURES, MODELS, init_params
from tools.benchmarks.peers.exchange import Task, everybody

SMALL = ("logreg", "mlp", "cnn", "transformer")
"""The models that read such pictures."""

MEAN_EXAMPLES = 100
"""Mean of the log-normal sizes before they are rounded to whole batches."""

SPREAD = 1.0
"""Standard deviation of the logarithm of the sizes."""


def make_task(
    model: str,
    clients: int,
    batch_size: int,
    *,
    seed: int = 0,
    mean_examples: float = MEAN_EXAMPLES,
) -> Task:
    """A federation of ``clients`` ragged clients with synthetic examples that can be learnt.

    Args:
        model: A name among ``SMALL``.
        clients: K.
        batch_size: B.
        seed: Of sizes, examples and parameters.
        mean_examples: Mean size of a client before rounding.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    sizes = ragged_sizes(clients, batch_size, rng, mean_examples)
    rows = int(sizes.sum())
    x = rng.standard_normal((rows, FEATURES), np.float32)
    teacher = rng.standard_normal((FEATURES, CLASSES), np.float32)
    return Task(
        name=model,
        model=model,
        batch_size=batch_size,
        learning_rate=0.05,
        params=init_params(MODELS[model].shapes, rng),
        x=x,
        y=(x @ teacher).argmax(axis=1).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        cohorts=everybody(clients),
    )


def ragged_sizes(
    clients: int, batch_size: int, rng: np.random.Generator, mean_examples: float
) -> npt.NDArray[np.int64]:
    """[K] log-normal numbers of examples, rounded to whole batches, one at least.

    Whole, since a side that compiles a step would compile it again for each size of a last batch.
    """
    sizes = rng.lognormal(math.log(mean_examples) - SPREAD**2 / 2, SPREAD, clients)
    return batch_size * np.maximum(1, np.round(sizes / batch_size)).astype(np.int64)
