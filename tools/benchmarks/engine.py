"""Rounds of ragged federations of small models: ours, a Python loop, FedJAX, and pfl."""

import argparse
import os
from functools import partial
from typing import Any

import jax

from tools.benchmarks import comparison
from tools.benchmarks.federations import MEAN_EXAMPLES, SMALL, SPREAD, make_task
from tools.benchmarks.measure import Row
from tools.benchmarks.output import Figures
from ufm_jax.config.command import count_argument


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--model", nargs="+", choices=SMALL, default=["mlp"])
    parser.add_argument("--clients", type=count_argument, nargs="+", default=[128])
    parser.add_argument("--batch_size", type=count_argument, default=20)
    parser.add_argument("--rounds", type=count_argument, default=3, help="timed together")
    comparison.add_options(parser, ["loop", "fedjax", "pfl"])


def measure(options: argparse.Namespace) -> Figures:
    """One row for every model, number of clients and side.

    Raises:
        RuntimeError: If a side fails, or computes something else.
        ValueError: If peers are asked for and do not run on this accelerator.
    """
    # The peers need a part of the accelerator's memory too. Read when the backend starts.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    rows: list[Row] = []
    notes: dict[str, None] = dict.fromkeys((_NOTE, *comparison.NOTES))
    with (
        jax.default_matmul_precision("float32"),
        comparison.chosen_peers(options) as (peers, missing),
    ):
        notes |= dict.fromkeys(missing)
        for model in options.model:
            for clients in options.clients:
                task = make_task(model, clients, options.batch_size)
                more, about = comparison.compare(options, task, peers, options.rounds)
                rows.extend(more)
                notes |= dict.fromkeys(about)
    return Figures(rows, partial(_draw, rows), tuple(notes))


_NOTE = (
    f"Clients have log-normal numbers of examples (mean {MEAN_EXAMPLES}, sigma {SPREAD}), rounded "
    "to whole batches on all sides, since a side that compiles its step would compile it again for "
    "every size of a last batch. One epoch a round, SGD, float32, means weighted by examples."
)


def _draw(rows: list[Row], axes: Any) -> None:
    for task, side in dict.fromkeys((row["task"], row["side"]) for row in rows):
        mine = [row for row in rows if (row["task"], row["side"]) == (task, side)]
        axes.plot(
            [row["clients"] for row in mine],
            [row["examples/s"] for row in mine],
            "o-",
            label=f"{task}, {side}",
        )
    axes.set(xscale="log", yscale="log", xlabel="clients", ylabel="examples a second")
    axes.legend()
