"""Rounds of ragged federations of small models: ours, a Python loop, FedJAX, and pfl."""

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import numpy as np

from tools.benchmarks.federations import MEAN_EXAMPLES, MODELS, SPREAD, make_task
from tools.benchmarks.measure import Row, interleaved, ratio, spread
from tools.benchmarks.output import Figures
from tools.benchmarks.peers.environment import ACCELERATORS
from tools.benchmarks.peers.exchange import Task
from tools.benchmarks.peers.process import Peer
from tools.benchmarks.sides import (
    PEERS,
    TOLERANCE,
    Loop,
    Ours,
    Side,
    check_agreement,
    peer_side,
    running_peer,
)
from ufm_jax.fed.placement import make_placement


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=["mlp"])
    parser.add_argument("--clients", type=int, nargs="+", default=[128])
    parser.add_argument("--batch_size", type=int, default=20)
    parser.add_argument("--lanes", type=int, default=0, help="0: 1 on CPUs, 64 elsewhere")
    parser.add_argument("--rounds", type=int, default=3, help="timed together")
    parser.add_argument(
        "--sides",
        nargs="*",
        choices=["loop", *PEERS],
        default=["loop", *PEERS],
        help="against ours",
    )
    parser.add_argument(
        "--accelerator",
        choices=list(ACCELERATORS.values()),
        help="what peers are installed for; default: what JAX uses here",
    )


def measure(options: argparse.Namespace) -> Figures:
    """One row for every model, number of clients and side.

    Raises:
        RuntimeError: If an environment cannot be made, or a side computes something else.
        ValueError: If peers are asked for and do not run on this accelerator.
    """
    # The peers need a part of the accelerator's memory too. Read when the backend starts.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    rows: list[Row] = []
    notes: dict[str, None] = dict.fromkeys(_NOTES)
    with jax.default_matmul_precision("float32"), ExitStack() as stack:
        peers = {
            name: stack.enter_context(running_peer(name, _accelerator(options)))
            for name in PEERS
            if name in options.sides
        }
        for model in options.model:
            for clients in options.clients:
                task = make_task(model, clients, options.batch_size)
                more, about = measure_task(options, task, peers)
                rows.extend(more)
                notes |= dict.fromkeys(about)
    return Figures(rows, partial(_draw, rows), tuple(notes))


_NOTES = (
    f"Clients have log-normal numbers of examples (mean {MEAN_EXAMPLES}, sigma {SPREAD}), rounded "
    "to whole batches on all sides, since a side that compiles its step would compile it again for "
    "every size of a last batch. One epoch a round, SGD, float32, means weighted by examples.",
    "seconds: of a round. Ours plans and shuffles every round anew, inside the time; the other "
    "sides keep the order of our round 0 and do not shuffle. Sides run in turn.",
    "times ours: median over repeats of a side's time over ours next to it.",
    "apart: distance of the global parameters from ours after round 0, over how far the round "
    f"moved ours; refused above {TOLERANCE:.0e}.",
)


def _accelerator(options: argparse.Namespace) -> str:
    """What peers are installed for."""
    backend = jax.default_backend()
    if options.accelerator is None and backend not in ACCELERATORS:
        raise ValueError(
            f"peers do not run on {backend}: name --accelerator=cpu, or leave them out with "
            "--sides=loop"
        )
    return options.accelerator or ACCELERATORS[backend]


def measure_task(
    options: argparse.Namespace, task: Task, peers: Mapping[str, Peer]
) -> tuple[list[Row], list[str]]:
    """Checks that all sides compute the same, then times them: rows and notes."""
    lanes = options.lanes or (1 if jax.default_backend() == "cpu" else 64)
    ours = Ours(task, make_placement(None, lanes))
    with ExitStack() as stack:
        sides: dict[str, Side] = {"ours": ours}
        if "loop" in options.sides:
            sides["loop"] = Loop(ours.task)
        for name, peer in peers.items():
            sides[name] = stack.enter_context(peer_side(peer, ours.task))
        after = {name: side.first_round() for name, side in sides.items()}
        apart = {
            name: check_agreement(name, params, after["ours"], task.params)
            for name, params in after.items()
        }
        runs = {name: partial(side.run, options.rounds) for name, side in sides.items()}
        seconds = {
            name: [value / options.rounds for value in values]
            for name, values in interleaved(runs, options.repeats).items()
        }
        notes = [f"{task.model}, {name}: {side.note}." for name, side in sides.items()]
    return list(_rows(task, seconds, apart)), notes


def _rows(
    task: Task, seconds: Mapping[str, list[float]], apart: Mapping[str, float]
) -> Iterator[Row]:
    for name, values in seconds.items():
        yield {
            "model": task.model,
            "clients": len(task.sizes),
            "side": name,
            **spread(values),
            "examples/s": round(len(task.y) / float(np.median(values))),
            "times ours": ratio(values, seconds["ours"]),
            "apart": f"{apart[name]:.0e}",
        }


def _draw(rows: list[Row], axes: Any) -> None:
    for model, side in dict.fromkeys((row["model"], row["side"]) for row in rows):
        mine = [row for row in rows if (row["model"], row["side"]) == (model, side)]
        axes.plot(
            [row["clients"] for row in mine],
            [row["examples/s"] for row in mine],
            "o-",
            label=f"{model}, {side}",
        )
    axes.set(xscale="log", yscale="log", xlabel="clients", ylabel="examples a second")
    axes.legend()
