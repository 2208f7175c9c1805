"""Images a second of federated pretraining, and where the time goes."""

import argparse

import numpy as np

from tools.benchmarks.measure import interleaved, ratio, spread, timed
from tools.benchmarks.output import Figures
from tools.benchmarks.workload import add_model_options, model_config, pretraining_round
from ufm_jax.fed.placement import make_placement
from ufm_jax.models.flops import mae_forward_flops, training_flops
from ufm_jax.models.sizes import SIZES
from ufm_jax.train.config import AugmentConfig


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    add_model_options(parser)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4, help="local steps a client")


def measure(options: argparse.Namespace) -> Figures:
    """The full step (augmentation to average), and the same with cropping and flipping only."""
    placement = make_placement(None, options.lanes)
    per_client = np.full(placement.num_devices * placement.lanes, options.steps)
    model = model_config(options)
    augments = {
        "everything": AugmentConfig(),
        "crop and flip only": AugmentConfig(degrade=0.0, scan_conversion=0.0),
    }
    sides = {
        name: timed(
            pretraining_round(model, augment, placement, per_client, options.batch_size).run
        )
        for name, augment in augments.items()
    }
    seconds = interleaved(sides, options.repeats)
    images = int(per_client.sum()) * options.batch_size
    flops = training_flops(
        mae_forward_flops(
            SIZES[model.size],
            model.num_patches,
            model.num_kept,
            model.patch_size**2 * model.channels,
            model.decoder_width,
            model.decoder_depth,
        )
    )
    rows = [
        {
            "side": name,
            **spread(values),
            "ratio": ratio(values, seconds["everything"]),
            "images/s": round(images / float(np.median(values)), 1),
            "model GFLOP/s": round(images * flops / float(np.median(values)) / 1e9, 1),
        }
        for name, values in seconds.items()
    ]
    return Figures(rows)
