"""Training gives the same bits wherever the images live."""

import dataclasses

import jax
import numpy as np
import pytest

from ufm_jax.config.federation import FederationConfig
from ufm_jax.config.model import ModelConfig
from ufm_jax.config.pretraining import AugmentConfig, PretrainConfig
from ufm_jax.config.training import PlacementConfig, ScheduleConfig
from ufm_jax.data.federated import load_federated
from ufm_jax.data.settings import PretrainingSettings
from ufm_jax.objectives.reconstruction import FIELDS, init_params
from ufm_jax.train.feed import Feed
from ufm_jax.train.pretraining import federate


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return PretrainConfig(
        data=PretrainingSettings(
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
        schedule=ScheduleConfig(warmup_rounds=1),
    )


def _train(config, home, chunk_steps=0):
    config = dataclasses.replace(
        config,
        placement=PlacementConfig(devices=2, lanes=1, data_home=home, chunk_steps=chunk_steps),
    )
    data = load_federated(config.data)
    federation = federate(config, data)
    state = federation.init(init_params(config.model, jax.random.key(0)))
    feed = Feed(config.placement, data, federation, FIELDS)
    position, chunk = (0, 0), feed.take(0)
    while position[0] < config.federation.rounds:
        chunk = feed.take(*position)
        state, _ = federation.run_chunk(state, *chunk)
        position = feed.following(chunk)
        if position[0] < 2:
            feed.prepare(*position)  # and round 2 comes unprepared
    feed.close()
    return state, federation, chunk.examples["image"]


def test_device_host_and_stream_train_to_the_same_bits_in_any_chunks(config):
    expected, _, _ = _train(config, "device")
    total = load_federated(config.data).num_rows
    homes = ("host", 0), ("stream", 0), ("host", 1), ("stream", 2), ("device", 2)
    for home, chunk_steps in homes:
        state, federation, images = _train(config, home, chunk_steps)
        assert federation.compilations == 1
        jax.tree.map(np.testing.assert_array_equal, state, expected)
        if chunk_steps and home != "device":
            assert len(images) == 2 * min(chunk_steps * 4, total)


@pytest.mark.parametrize("client_state", ["persist", "reset"])
def test_a_device_holds_the_images_of_the_clients_that_may_train_there(config, client_state):
    federation = dataclasses.replace(config.federation, client_state=client_state, rounds=1)
    _, run, images = _train(dataclasses.replace(config, federation=federation), "device")
    data, clients = load_federated(config.data), np.arange(4)
    for shard in images.addressable_shards:
        if client_state == "persist":
            device = shard.index[0].start // shard.data.shape[0]
            clients = np.flatnonzero(run.home_device == device)
        own = np.concatenate(
            [data.store.read(np.arange(*data.offsets[k : k + 2]))["image"] for k in clients]
        )
        np.testing.assert_array_equal(shard.data[: len(own)], own)
        assert not np.any(shard.data[len(own) :])


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
