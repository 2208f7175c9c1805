"""A ragged round of pretraining against a balanced one of as many steps."""

import argparse

import numpy as np

from tools.benchmarks.measure import interleaved, ratio, spread, timed
from tools.benchmarks.output import Figures
from tools.benchmarks.workload import add_model_options, model_config, pretraining_round
from ufm_jax.fed.placement import make_placement
from ufm_jax.train.config import AugmentConfig

CLIENTS = 16


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    add_model_options(parser)
    parser.add_argument("--lanes", type=int, default=1)


def measure(options: argparse.Namespace) -> Figures:
    """Runs both rounds in turn."""
    placement = make_placement(None, options.lanes)
    steps = _ragged_steps(CLIENTS, total=32 * placement.num_devices * placement.lanes)
    counts = {"ragged": steps, "balanced": np.full(CLIENTS, steps.sum() // CLIENTS)}
    rounds = {
        name: pretraining_round(
            model_config(options), AugmentConfig(), placement, count, options.batch_size
        )
        for name, count in counts.items()
    }
    seconds = interleaved({name: timed(side.run) for name, side in rounds.items()}, options.repeats)
    rows = [
        {
            "round": name,
            **spread(seconds[name]),
            "ratio": ratio(seconds[name], seconds["balanced"]),
            "steps": int(counts[name].sum()),
            "useful": round(rounds[name].plan.schedule.useful_fraction, 4),
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
