"""What a peer does when it is asked: the conversation that all peers share.

Needs numpy only, as ``exchange`` and ``process`` do.
"""

import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np

from tools.benchmarks.peers.exchange import Arrays, Task
from tools.benchmarks.peers.process import Message, serve

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

_LONG = 5.0
"""Seconds of a round that what is done at first use hardly changes."""


class Trainer(Protocol):
    """Another implementation of federated averaging."""

    def load(self, task: Task, folder: Path) -> None:
        """Builds what runs a task, from its first round; ``folder`` is where it lies."""

    def rounds(self, count: int) -> None:
        """Runs further rounds to their end, with their evaluations counted from the first."""

    def params(self) -> Arrays:
        """The global parameters."""

    def evaluate(self) -> float:
        """The loss of the global model on the task's test examples."""

    def tune(self) -> str:
        """Says what runs and how, after a round at least, so that no first use is timed."""


def serve_trainer(trainer: Trainer, answers: TextIO) -> None:
    """Answers the requests of ``sides.PeerSide`` until the input ends.

    Args:
        trainer: Does the work.
        answers: See ``process.serve``.
    """

    def check(folder: str, result: str) -> Message:
        task = Task.load(Path(folder)).compared
        trainer.load(task, Path(folder))
        trainer.rounds(1)
        np.savez(result, **trainer.params())  # type: ignore[arg-type]
        return {"loss": trainer.evaluate() if task.evaluate_every else None}

    def prepare(folder: str) -> Message:
        trainer.load(Task.load(Path(folder)), Path(folder))
        return {"note": trainer.tune()}

    def run(rounds: int) -> Message:
        return {"seconds": _seconds(trainer, rounds)}

    serve({"check": check, "prepare": prepare, "run": run}, answers)


def fastest(trainer: Trainer, ways: Iterable[str], choose: Callable[[str], None]) -> str:
    """The way in which a round took least time, which is chosen.

    Where a round is short each way has two, since what is done at first use would weigh.

    Args:
        trainer: Has a task.
        ways: Names of ways to run.
        choose: Sets one.
    """
    seconds = dict.fromkeys(ways, math.inf)
    for _ in range(2):
        for way in seconds:
            choose(way)
            seconds[way] = min(seconds[way], _seconds(trainer, 1))
        best = min(seconds, key=seconds.__getitem__)
        if seconds[best] > _LONG:
            break
    choose(best)
    return best


def _seconds(trainer: Trainer, rounds: int) -> float:
    start = time.perf_counter()
    trainer.rounds(rounds)
    return time.perf_counter() - start
