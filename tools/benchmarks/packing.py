"""A ragged round of pretraining against a balanced one of as many steps."""

import argparse

import numpy as np

from tools.benchmarks.images import random_images
from tools.benchmarks.measure import interleaved, ratio, spread, timed
from tools.benchmarks.output import Figures
from tools.benchmarks.workload import Workload, add_model_options, run_config
from ufm_jax.config.command import count_argument
from ufm_jax.fed.placement import make_placement

CLIENTS = 16
STORED = 256
"""Side of the stored images, pixels."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    add_model_options(parser)
    parser.add_argument("--lanes", type=count_argument, default=1)


def measure(options: argparse.Namespace) -> Figures:
    """Runs both rounds in turn, over random pixels."""
    config = run_config(options, options.size, options.lanes)
    steps = _ragged_steps(CLIENTS, total=32 * make_placement().num_devices * options.lanes)
    counts = {"ragged": steps, "balanced": np.full(CLIENTS, steps.sum() // CLIENTS)}
    rounds = {
        name: Workload(config, random_images(count * options.batch_size, STORED))
        for name, count in counts.items()
    }
    seconds = interleaved({name: timed(side.run) for name, side in rounds.items()}, options.repeats)
    rows = [
        {
            "round": name,
            **spread(seconds[name]),
            "ratio": ratio(seconds[name], seconds["balanced"]),
            "steps": int(counts[name].sum()),
            "useful": round(rounds[name].useful_fraction, 4),
        }
        for name in rounds
    ]
    return Figures(rows)


def _ragged_steps(clients: int, total: int) -> np.ndarray:
    """Log-normal (sigma 1) step counts that sum to ``total``, a multiple of ``clients``."""
    sizes = np.random.default_rng(0).lognormal(0.0, 1.0, clients)
    steps = np.maximum(1, np.floor(sizes / sizes.sum() * total)).astype(int)
    steps[np.argsort(-sizes)[: total - steps.sum()]] += 1
    return steps
