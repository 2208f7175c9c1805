"""Training gives the same bits wherever the images live."""

import dataclasses

import jax
import numpy as np
import pytest

from ufm_jax.data.federated import load_federated
from ufm_jax.data.settings import DataSettings
from ufm_jax.train.config import (
    AugmentConfig,
    FederationConfig,
    ModelConfig,
    PlacementConfig,
    PretrainConfig,
    ScheduleConfig,
)
from ufm_jax.train.feed import Feed
from ufm_jax.train.objective import FIELDS, init_params
from ufm_jax.train.pretraining import federate


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return PretrainConfig(
        data=DataSettings(
            source="synthetic",
            num_sites=4,
            mean_size=8,
            working_size=40,
            cache_dir=str(tmp_path_factory.mktemp("cache")),
        ),
        model=ModelConfig(
            size="xs",
            image_size=32,
            patch_size=8,
            channels=1,
            decoder_width=48,
            decoder_depth=1,
            decoder_heads=3,
            scan_layers=True,
        ),
        augment=AugmentConfig(degrade=0.0, scan_conversion=0.0),  # compiles in half the time
        federation=FederationConfig(rounds=3, batch_size=4, cohort_size=3),
        schedule=ScheduleConfig(warmup_rounds=0),
    )


def _train(config, home):
    config = dataclasses.replace(
        config, placement=PlacementConfig(devices=2, lanes=1, data_home=home)
    )
    data = load_federated(config.data)
    federation = federate(config, data)
    state = federation.init(init_params(config.model, jax.random.key(0)))
    feed = Feed(config.placement, data, federation, FIELDS)
    for r in range(config.federation.rounds):
        state, _ = federation.run_chunk(state, *feed.take(r))
        if r == 0:
            feed.prepare(1)  # and round 2 comes unprepared
    feed.close()
    return state, federation


def test_device_host_and_stream_train_to_the_same_bits(config):
    states = {}
    for home in ("device", "host", "stream"):
        states[home], federation = _train(config, home)
        assert federation.compilations == 1
    for home in ("host", "stream"):
        jax.tree.map(np.testing.assert_array_equal, states[home], states["device"])


def test_there_is_room_for_every_poisson_batch(config):
    federated = dataclasses.replace(
        config.federation, batch_sampling="poisson", local_epochs=0, local_steps=1, cohort_size=1
    )
    config = dataclasses.replace(
        config,
        federation=federated,
        placement=PlacementConfig(devices=1, lanes=1, data_home="host"),
    )
    data = load_federated(config.data)
    federation = federate(config, data)
    feed = Feed(config.placement, data, federation, FIELDS)
    for r in range(20):
        feed.take(r)
    feed.close()
