"""CIFAR-10 as the authors of other frameworks share it among clients for their comparisons."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tools.benchmarks.models import MODELS, init_params
from tools.benchmarks.peers.exchange import Task, everybody
from ufm_jax.errors import DataError

SHAPE = (32, 32, 3)
CLASSES = 10
TRAIN, TEST = 50_000, 10_000

_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_COHORTS = 100
"""Cohorts that are drawn, after which they repeat."""


class Cifar(NamedTuple):
    """CIFAR-10, or random pictures of its shape.

    Attributes:
        x: float32 [50000, 32, 32, 3], normalised by channel.
        y: int32 [50000].
        test_x: float32 [10000, 32, 32, 3].
        test_y: int32 [10000].
        note: For the reader.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int32]
    test_x: npt.NDArray[np.float32]
    test_y: npt.NDArray[np.int32]
    note: str


class Standard(NamedTuple):
    """A published comparison.

    Attributes:
        make: Its task.
        rounds: That its authors ran.
    """

    make: Callable[[Cifar], Task]
    rounds: int


def read_cifar(folder: Path | None) -> Cifar:
    """CIFAR-10 from a folder; random pictures that can be learnt where there is none.

    Raises:
        DataError: If a file is missing, or holds something else.
    """
    if folder is None:
        return _random_cifar()
    inner = folder / "cifar-10-batches-py"
    folder = inner if inner.is_dir() else folder
    if (folder / "x_train.npy").is_file():
        parts = [_read_arrays(folder, "train"), _read_arrays(folder, "test")]
    else:
        batches = [_read_batch(folder / name) for name in _BATCHES]
        train_x, train_y = (np.concatenate(part) for part in zip(*batches, strict=True))
        parts = [(train_x, train_y), _read_batch(folder / "test_batch")]
    for (x, y), count in zip(parts, (TRAIN, TEST), strict=True):
        if (
            x.shape != (count, *SHAPE)
            or y.shape != (count,)
            or not 0 <= y.min() <= y.max() < CLASSES
        ):
            raise DataError(
                f"{folder}: pictures {x.shape} and labels {y.shape} are not CIFAR-10, which has "
                f"{count} x 32 x 32 x 3 and labels 0 to 9: name a folder that holds it"
            )
    (x, y), (test_x, test_y) = parts
    mean = x.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    std = x.std(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    scaled = ((np.float32(1) / std) * (part.astype(np.float32) - mean) for part in (x, test_x))
    return Cifar(
        next(scaled),
        y.astype(np.int32),
        next(scaled),
        test_y.astype(np.int32),
        f"Pictures: CIFAR-10 from {folder}.",
    )


def _read_arrays(folder: Path, part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    try:
        x, y = (np.load(folder / f"{axis}_{part}.npy") for axis in "xy")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}: x_{part}.npy and y_{part}.npy cannot be read: {error}"
        ) from None
    return x, y.reshape(-1)


def _read_batch(file: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    try:
        with file.open("rb") as stream:
            content = pickle.load(stream, encoding="latin1")
        x = content["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return x, np.asarray(content["labels"])
    except (OSError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read as a batch of CIFAR-10's python version: {error}"
        ) from None


def _random_cifar() -> Cifar:
    rng = np.random.Generator(np.random.Philox(0))
    x = rng.standard_normal((TRAIN + TEST, *SHAPE), np.float32)
    teacher = rng.standard_normal((np.prod(SHAPE), CLASSES), np.float32)
    y = (x.reshape(len(x), -1) @ teacher).argmax(axis=1).astype(np.int32)
    note = "Pictures: random numbers in the shape of CIFAR-10, with labels of a linear teacher."
    return Cifar(x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:], note)


def pfl_task(cifar: Cifar) -> Task:
    """pfl-research's comparison: 1,000 users of 50 images IID, 50 of them a round."""
    rng = np.random.Generator(np.random.Philox(1))
    order = rng.permutation(TRAIN)
    cohorts = np.stack([np.sort(rng.choice(1000, 50, replace=False)) for _ in range(_COHORTS)])
    return Task(
        name="pfl",
        model="pfl_cnn",
        batch_size=10,
        learning_rate=0.1,
        params=init_params(MODELS["pfl_cnn"].shapes, rng),
        x=cifar.x[order],
        y=cifar.y[order],
        offsets=np.arange(1001) * 50,
        cohorts=cohorts,
        dropout=True,
        evaluate_every=10,
        test_x=cifar.test_x,
        test_y=cifar.test_y,
    )


def blazefl_task(cifar: Cifar) -> Task:
    """BlazeFL's comparison: 200 shards of images sorted by label, two for each of 100 clients."""
    rng = np.random.Generator(np.random.Philox(2))
    shards = np.argsort(cifar.y, kind="stable").reshape(200, -1)
    clients = shards[rng.permutation(200)].reshape(100, -1)
    order = rng.permuted(clients, axis=1).reshape(-1)
    return Task(
        name="blazefl",
        model="blazefl_cnn",
        batch_size=50,
        learning_rate=0.1,
        params=init_params(MODELS["blazefl_cnn"].shapes, rng),
        x=cifar.x[order],
        y=cifar.y[order],
        offsets=np.arange(101) * 500,
        cohorts=everybody(100),
        local_epochs=5,
        compared_rate=0.01,
        evaluate_every=1,
        test_x=cifar.test_x,
        test_y=cifar.test_y,
    )


STANDARDS = {"pfl": Standard(pfl_task, 1500), "blazefl": Standard(blazefl_task, 5)}
"""By whose they are."""
