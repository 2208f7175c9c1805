"""Rounds of federated pretraining to be measured, one after the other as the trainer runs them."""

import argparse
import time
from dataclasses import replace
from typing import Literal

import jax

from ufm_jax.config.command import count_argument
from ufm_jax.config.federation import FederationConfig
from ufm_jax.config.model import ModelConfig
from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.config.training import PlacementConfig
from ufm_jax.data.federated import FederatedData
from ufm_jax.fed.algorithm import LossFn
from ufm_jax.fed.engine import RoundMetrics
from ufm_jax.fed.keys import fold
from ufm_jax.fed.plan import HostPlan
from ufm_jax.models.flops import mae_forward_flops, training_flops
from ufm_jax.models.sizes import SIZES
from ufm_jax.objectives.reconstruction import FIELDS, init_params
from ufm_jax.train.feed import Feed
from ufm_jax.train.pretraining import federate

DataHome = Literal["device", "host", "stream"]
Size = Literal["xs", "ti", "s", "b", "l", "h"]


class Workload:
    """A federation in training, held between two rounds.

    Attributes:
        config: What it trains.
        federation: Its federation.
        state: Its state before the next round.
        images: Images that a round trains on.
        useful_fraction: Share of the lanes' steps in which a client trains.
        rounds: Rounds run so far.
        host_seconds: Of each round so far: until the host has nothing left to do but wait.
    """

    def __init__(
        self, config: PretrainConfig, data: FederatedData, loss_fn: LossFn | None = None
    ) -> None:
        """Prepares the first round.

        Args:
            config: A configuration.
            data: The images.
            loss_fn: In place of the configuration's objective.
        """
        self.config = config
        federation = federate(config, data)
        self.federation = replace(federation, loss_fn=loss_fn) if loss_fn else federation
        key = fold(jax.random.key(config.seed), "init")
        self.state = self.federation.init(init_params(config.model, key))
        self.host_seconds: list[float] = []
        self._feed = Feed(config.placement, data, self.federation, FIELDS)
        self._before: tuple[HostPlan, RoundMetrics] | None = None
        self.rounds = 0
        plan = self.federation.plan(0)
        self.images = int((plan.rows >= 0).sum())
        self.useful_fraction = plan.schedule.useful_fraction

    def dispatch(self) -> None:
        """What the host does for a round, as in ``train.pretraining``; the devices still run."""
        begin = time.perf_counter()
        position = self.rounds, 0
        while position[0] == self.rounds:
            chunk = self._feed.take(*position)
            self.state, metrics = self.federation.run_chunk(self.state, *chunk)
            position = self._feed.following(chunk)
            self._feed.prepare(*position)
            if self._before is not None:
                self.federation.results(*self._before)
            self._before = chunk.plan, metrics
        self.rounds += 1
        self.host_seconds.append(time.perf_counter() - begin)

    def run(self) -> None:
        """Runs a round, and returns when it is done."""
        self.dispatch()
        jax.block_until_ready(self.state)

    def lower(self) -> jax.stages.Lowered:
        """The next round as it would be compiled."""
        examples, plan, _, rows = self._feed.take(self.rounds)
        return self.federation.lower(self.state, examples, plan, rows)

    def close(self) -> None:
        """Ends background work and lets go of the devices' memory."""
        self._feed.close()
        del self._feed, self.state, self._before


def add_model_options(parser: argparse.ArgumentParser, several_sizes: bool = False) -> None:
    """Options that describe the model and its batches."""
    parser.add_argument(
        "--size",
        choices=list(SIZES),
        **({"nargs": "+", "default": ["ti"]} if several_sizes else {"default": "ti"}),
    )
    parser.add_argument("--image_size", type=count_argument, default=64)
    parser.add_argument("--patch_size", type=count_argument, default=16)
    parser.add_argument("--decoder", type=count_argument, nargs=3, default=(128, 2, 4), metavar="N")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch_size", type=count_argument, default=16)


def model_config(options: argparse.Namespace, size: Size) -> ModelConfig:
    """The model that the options describe, in one size."""
    width, depth, heads = options.decoder
    return ModelConfig(
        size=size,
        image_size=options.image_size,
        patch_size=options.patch_size,
        decoder_width=width,
        decoder_depth=depth,
        decoder_heads=heads,
        dtype=options.dtype,
    )


def run_config(
    options: argparse.Namespace, size: Size, lanes: int, data_home: DataHome = "device"
) -> PretrainConfig:
    """A run with the defaults of ``ufm_jax.pretrain`` in all that the options do not say."""
    return PretrainConfig(
        model=model_config(options, size),
        federation=FederationConfig(rounds=300, batch_size=options.batch_size),
        placement=PlacementConfig(lanes=lanes, data_home=data_home),
    )


def image_flops(model: ModelConfig) -> int:
    """Operations of forward and backward pass over one image."""
    forward = mae_forward_flops(
        SIZES[model.size],
        model.num_patches,
        model.num_kept,
        model.patch_size**2 * model.channels,
        model.decoder_width,
        model.decoder_depth,
    )
    return training_flops(forward)
