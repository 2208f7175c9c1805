"""One task on all sides: first compared with each other, then timed in turn."""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jax
import numpy as np

from tools.benchmarks.measure import Row, interleaved, ratio, spread
from tools.benchmarks.peers.environment import ACCELERATORS
from tools.benchmarks.peers.exchange import Task
from tools.benchmarks.peers.kinds import PEERS, running_peers
from tools.benchmarks.peers.process import Peer
from tools.benchmarks.sides import TOLERANCE, Loop, Ours, PeerSide, Side, check_agreement
from ufm_jax.config.command import count_or_zero
from ufm_jax.fed.placement import make_placement

NOTES = (
    "seconds: of a round. Ours plans and shuffles every round anew, inside the time; the other "
    "sides keep one order. Sides run in turn, after a round that is not counted.",
    "times ours: median over repeats of a side's time over ours next to it.",
    "apart: distance of the global parameters from ours after a round with the same order of "
    f"examples, over how far the round moved ours; refused above {TOLERANCE:.0e}.",
)


def add_options(parser: argparse.ArgumentParser, default_sides: list[str]) -> None:
    """Adds the options of a comparison."""
    parser.add_argument(
        "--lanes", type=count_or_zero, default=0, help="0: 1 on CPUs, up to 64 elsewhere"
    )
    parser.add_argument(
        "--sides",
        nargs="*",
        choices=["loop", *PEERS],
        default=default_sides,
        help="against ours",
    )
    parser.add_argument(
        "--accelerator",
        choices=list(ACCELERATORS.values()),
        help="what peers are installed for; default: what JAX uses here",
    )


@contextmanager
def chosen_peers(
    options: argparse.Namespace,
) -> Iterator[tuple[dict[str, Peer], tuple[str, ...]]]:
    """The peers that were asked for and run here, and a note for each that does not.

    Raises:
        ValueError: If peers are asked for and none runs on this accelerator.
    """
    names = [name for name in PEERS if name in options.sides]
    backend = jax.default_backend()
    if names and options.accelerator is None and backend not in ACCELERATORS:
        raise ValueError(
            f"peers do not run on {backend}: name --accelerator=cpu, or leave them out with "
            "--sides=loop"
        )
    accelerator = options.accelerator or ACCELERATORS.get(backend, "cpu")
    with running_peers(names, accelerator) as peers:
        yield peers


def compare(
    options: argparse.Namespace, task: Task, peers: Mapping[str, Peer], rounds: int
) -> tuple[list[Row], list[str]]:
    """Checks that all sides compute the same, then times so many rounds of them: rows and notes.

    Raises:
        RuntimeError: If a side fails, or computes something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        if peers:
            task.save(Path(folder))
        sides: dict[str, Side] = {"ours": Ours(task, make_placement(None, _lanes(options, task)))}
        if "loop" in options.sides:
            sides["loop"] = Loop(task)
        sides |= {name: PeerSide(peer, Path(folder)) for name, peer in peers.items()}
        ours = sides["ours"].check()
        apart = {
            name: check_agreement(name, ours if name == "ours" else side.check(), ours, task.params)
            for name, side in sides.items()
        }
        notes = [f"{task.name}, {name}: {side.prepare()}." for name, side in sides.items()]
        runs = {name: partial(side.run, rounds) for name, side in sides.items()}
        seconds = {
            name: [value / rounds for value in values]
            for name, values in interleaved(runs, options.repeats, warmup=0).items()
        }
    return list(_rows(task, seconds, apart)), notes


def _lanes(options: argparse.Namespace, task: Task) -> int:
    if options.lanes or jax.default_backend() == "cpu":
        return options.lanes or 1
    return min(64, -(-task.cohorts.shape[1] // jax.device_count()))


def _rows(
    task: Task, seconds: Mapping[str, list[float]], apart: Mapping[str, float]
) -> Iterator[Row]:
    for name, values in seconds.items():
        yield {
            "task": task.name,
            "clients": task.cohorts.shape[1],
            "side": name,
            **spread(values),
            "examples/s": round(task.examples_per_round / float(np.median(values))),
            "times ours": ratio(values, seconds["ours"]),
            "apart": f"{apart[name]:.0e}",
        }
