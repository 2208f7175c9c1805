"""A round of federated pretraining to be measured: any model, any sizes of clients."""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation, HostPlan
from ufm_jax.fed.placement import Placement
from ufm_jax.models.sizes import SIZES
from ufm_jax.train.config import AugmentConfig, ModelConfig, OptimizerConfig
from ufm_jax.train.objective import init_params, make_loss
from ufm_jax.train.optimizers import make_optimizer, warmup_cosine

STORED = 256
"""Side of the stored images, pixels."""


class Round(NamedTuple):
    """A round that can be run again and again.

    Attributes:
        run: Runs it, and returns when it is done.
        plan: Who trains where and when.
        federation: Whose round it is.
    """

    run: Callable[[], None]
    plan: HostPlan
    federation: Federation


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options that describe the model and its batches."""
    parser.add_argument("--size", default="ti", choices=list(SIZES))
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--patch_size", type=int, default=16)
    parser.add_argument("--decoder", type=int, nargs=3, default=(128, 2, 4), metavar="N")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch_size", type=int, default=16)


def model_config(options: argparse.Namespace) -> ModelConfig:
    """The model that the options describe."""
    width, depth, heads = options.decoder
    return ModelConfig(
        size=options.size,
        image_size=options.image_size,
        patch_size=options.patch_size,
        decoder_width=width,
        decoder_depth=depth,
        decoder_heads=heads,
        dtype=options.dtype,
    )


def pretraining_round(
    model: ModelConfig,
    augment: AugmentConfig,
    placement: Placement,
    steps: np.ndarray,
    batch_size: int,
) -> Round:
    """A round over random pixels in device memory.

    Args:
        model: The masked autoencoder.
        augment: Augmentation, inside the step.
        placement: Devices and lanes.
        steps: [K] local steps of each client.
        batch_size: B.
    """
    offsets = np.concatenate([[0], np.cumsum(steps * batch_size)])
    federation = Federation(
        make_loss(model, augment),
        fedavg(
            make_optimizer(OptimizerConfig(), batch_size),
            client_state="persist",
            lr_factor=warmup_cosine(300, 40),
        ),
        offsets,
        Batching(batch_size),
        placement=placement,
    )
    rng = np.random.default_rng(0)
    count = int(offsets[-1])
    geometry = np.array([[1, 0, 0, STORED - 1, STORED - 1, 0, 0]], np.float32)
    examples = federation.replicate(
        {
            "image": rng.integers(0, 255, (count, STORED, STORED, 1), dtype=np.uint8),
            "extent": np.full((count, 2), STORED, np.int32),
            "geometry": np.tile(geometry, (count, 1)),
        }
    )
    state = federation.init(init_params(model, jax.random.key(0)))
    plan = federation.plan(0)

    def run() -> None:
        nonlocal state
        state, _ = federation.run_round(state, examples, plan)
        jax.block_until_ready(state)

    return Round(run, plan, federation)
