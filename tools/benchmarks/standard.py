"""Others' published comparisons in their authors' shapes: ours, pfl, FedJAX, BlazeFL and Flower."""

import argparse
import os
from functools import partial
from typing import Any

import jax

from tools.benchmarks import comparison
from tools.benchmarks.measure import Row
from tools.benchmarks.output import Figures
from tools.benchmarks.peers.kinds import PEERS
from tools.benchmarks.standard_tasks import STANDARDS, Cifar, read_cifar
from ufm_jax.config.command import count_or_zero, path_argument


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument(
        "--task", nargs="+", choices=list(STANDARDS), default=list(STANDARDS), help="whose"
    )
    parser.add_argument(
        "--rounds",
        type=count_or_zero,
        default=0,
        help="at most so many, timed together; default: as many as the authors ran",
    )
    parser.add_argument(
        "--data",
        type=path_argument,
        help="a folder with CIFAR-10: the python version's pickles data_batch_1 to data_batch_5 "
        "and test_batch, or x_train.npy, y_train.npy, x_test.npy and y_test.npy (uint8 pictures "
        "[N, 32, 32, 3], labels [N]); default: random pictures of the same shape",
    )
    comparison.add_options(parser, list(PEERS))


def measure(options: argparse.Namespace) -> Figures:
    """One row for every task and side.

    Raises:
        DataError: If the pictures cannot be used.
        RuntimeError: If a side fails, or computes something else.
        ValueError: If peers are asked for and do not run on this accelerator.
    """
    # The peers need a part of the accelerator's memory too. Read when the backend starts.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    cifar = read_cifar(options.data)
    rows: list[Row] = []
    notes: dict[str, None] = dict.fromkeys((*_NOTES, *comparison.NOTES, cifar.note))
    with (
        jax.default_matmul_precision("float32"),
        comparison.chosen_peers(options) as (peers, missing),
    ):
        notes |= dict.fromkeys(missing)
        for name in options.task:
            more, about = _measure_task(options, name, cifar, peers)
            rows.extend(more)
            notes |= dict.fromkeys(about)
    return Figures(rows, partial(_draw, rows), tuple(notes))


_NOTES = (
    "pfl: the CIFAR10 comparison of pfl-research (Granqvist et al., NeurIPS 2024, table 1): 1,000 "
    "users of 50 images IID, 50 a round, one epoch in batches of 10, SGD 0.1, server SGD 1.0, and "
    "an evaluation of 10,000 images every 10 rounds. blazefl: the benchmark of BlazeFL: 100 "
    "clients of two of 200 shards by label, all in every round, 5 epochs in batches of 50, SGD "
    "0.1, and an evaluation of 10,000 images every round. Evaluations are in the times.",
    "All sides get the same float32 arrays, normalised beforehand, and the same cohorts; the "
    "random crops and flips that BlazeFL's example adds on its own side, and not on Flower's, are "
    "left out. Evaluations take batches of 200.",
    "Masks of dropout cannot be equal across frameworks: the round that is compared has no "
    "dropout, the times have it where the authors do. At BlazeFL's rate its 50 steps a client make "
    "differences of a hundredth of the movement from rounding alone: it is compared at SGD 0.01.",
)


def _measure_task(
    options: argparse.Namespace, name: str, cifar: Cifar, peers: Any
) -> tuple[list[Row], list[str]]:
    standard = STANDARDS[name]
    rounds = min(options.rounds or standard.rounds, standard.rounds)
    print(f"measuring {name}, {rounds} rounds", flush=True)
    rows, notes = comparison.compare(options, standard.make(cifar), peers, rounds)
    return [row | {"rounds": rounds} for row in rows], notes


def _draw(rows: list[Row], axes: Any) -> None:
    labels = [f"{row['side']}\n{row['task']}" for row in rows]
    axes.bar(labels, [row["examples/s"] for row in rows])
    axes.set(yscale="log", ylabel="examples a second")
