"""The measured number of lanes: rules of the choice, cache, memory, and a run that uses it."""

import dataclasses
import itertools
import json
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.config.federation import FederationConfig
from ufm_jax.config.model import ModelConfig
from ufm_jax.config.pretraining import AugmentConfig, PretrainConfig
from ufm_jax.config.training import (
    CheckpointConfig,
    OptimizerConfig,
    PlacementConfig,
    ScheduleConfig,
)
from ufm_jax.data.federated import load_federated
from ufm_jax.data.settings import PretrainingSettings
from ufm_jax.errors import ConfigError
from ufm_jax.fed.algorithm import tree_bytes
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import make_placement
from ufm_jax.train import pretraining
from ufm_jax.train.lanes import choose
from ufm_jax.train.lanes import probe as lane_probe
from ufm_jax.train.lanes.choose import candidates, choose_lanes
from ufm_jax.train.lanes.probe import OutOfDeviceMemoryError, RoundProbe
from ufm_jax.train.lanes.search import NEAR_BEST, WORTH_GOING_ON, Load, Measurement, Search
from ufm_jax.train.pretraining import pretrain, resolve_lanes

LANES = [1, 2, 4, 8]


def _search(limit=math.inf, useful=(1.0,) * 4, resident=0):
    loads = {n: Load(resident, 0, u) for n, u in zip(LANES, useful, strict=True)}
    return Search(LANES, loads.__getitem__, limit)


def _table(speeds, sizes=(1, 2, 3, 4)):
    return {
        n: Measurement(n, size, speed) for n, size, speed in zip(LANES, sizes, speeds, strict=False)
    }


@pytest.mark.parametrize(
    ("speeds", "search", "expected"),
    [
        ((100, 200, 400, 800), _search(), 8),
        ((100, 100, 100, 100), _search(), 1),
        ((100, 150, 154, 154), _search(), 2),  # 154 is within 3 % of 150
        ((100, 150, 155, 155), _search(), 4),  # 155 is not
        ((100, 95, 91, 200), _search(), 8),  # each step lower by less than 10 %
        ((100, 200, 400, 800), _search(limit=3), 4),  # eight lanes take 4 bytes
        ((100, 200, 400, 800), _search(limit=3, resident=1), 2),
        ((100, 200, 400, 800), _search(limit=0), None),
        ((100, 190, 360, 700), _search(useful=(1, 0.9, 0.4, 0.2)), 2),  # ragged clients
    ],
)
def test_the_fewest_lanes_near_the_best_that_fit(speeds, search, expected):
    assert search.best(_table(speeds)) == expected


@pytest.mark.parametrize(
    ("table", "search", "expected"),
    [
        ({}, _search(), 1),
        (_table((100,)), _search(), 2),
        (_table((100, 91)), _search(), 4),
        (_table((100, 89)), _search(), None),  # slower by more than 10 %
        (_table((100, 150), (1, 9)), _search(limit=3), None),  # memory ended
        (_table((100, None)), _search(limit=3), 2),  # did not fit another run, but fits this one
        (_table((100, 150, 200, 250)), _search(), None),
        (_table((100, 150)), _search(useful=(1, 0.5, 0.1, 0.1)), None),
    ],
)
def test_the_search_ends_where_memory_or_speed_does(table, search, expected):
    assert search.missing(table) == expected


speeds_ = st.lists(st.floats(1, 1e6), min_size=4, max_size=4)
sizes_ = st.lists(st.integers(1, 100), min_size=4, max_size=4).map(sorted)
useful_ = st.lists(st.floats(0.01, 1), min_size=4, max_size=4)


@given(speeds_, sizes_, useful_, st.integers(0, 100), st.floats(0.1, 10))
def test_the_choice_fits_is_near_the_best_and_has_no_fewer_lanes_to_offer(
    speeds, sizes, useful, limit, factor
):
    search, table = _search(limit, useful), _table(speeds, sizes)
    fitting = {n: speeds[i] * useful[i] for i, n in enumerate(LANES) if sizes[i] <= limit}
    chosen = search.best(table)
    assert (chosen is None) == (not fitting)
    if chosen is not None:
        most = max(fitting.values())
        assert fitting[chosen] >= NEAR_BEST * most
        assert all(fitting[n] < NEAR_BEST * most for n in fitting if n < chosen)
        # A faster machine of the same proportions takes as many (powers of two scale exactly).
        assert search.best(_table([4 * v for v in speeds], sizes)) == chosen


@given(speeds_, sizes_, st.integers(0, 100))
def test_the_search_measures_upward_and_no_more_than_it_must(speeds, sizes, limit):
    search, full, table = _search(limit), _table(speeds, sizes), {}
    while (lanes := search.missing(table)) is not None:
        assert lanes == LANES[len(table)]
        table[lanes] = full[lanes]
    measured = list(table)
    for before, after in itertools.pairwise(measured):
        assert search.fits(full[before])
        slower = measured[-1] == after
        assert slower or full[after].images_per_second >= WORTH_GOING_ON * (
            full[before].images_per_second
        )


class FakeProbe:
    """Answers from a table, and counts."""

    def __init__(self, speeds, sizes=(1, 2, 3, 4), exhausted=()):
        self.table = _table(speeds, sizes)
        self.exhausted, self.asked = exhausted, []

    def working_bytes(self, lanes):
        return self.table[lanes].working_bytes

    def images_per_second(self, lanes):
        self.asked.append(lanes)
        if lanes in self.exhausted:
            raise OutOfDeviceMemoryError("RESOURCE_EXHAUSTED: 4 bytes")
        return self.table[lanes].images_per_second


PARAMS = {"w": np.ones((6, 5), np.float32)}
EXAMPLE = {"image": np.zeros((1, 6), np.uint8), "extent": np.ones((1, 2), np.int32)}


def _loss(params, batch, keys):
    del keys
    return ((batch["image"].astype(jnp.float32) / 255 @ params["w"]) ** 2).sum(-1)


def _pixel_loss(params, batch, keys):
    del keys
    return ((batch["image"][..., 0].astype(jnp.float32) / 255 @ params["w"]) ** 2).mean((1, 2))


def _federation(sizes=(8,) * 8, devices=1, state="persist", sharded=False):
    return Federation(
        _loss,
        fedavg(optax.adam(1e-3), client_state=state),
        np.concatenate([[0], np.cumsum(sizes)]),
        Batching(4),
        placement=make_placement(devices),
        examples_sharded=sharded,
    )


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _choose(probe, config=None, federation=None):
    return choose_lanes(
        config or PretrainConfig(), federation or _federation(), PARAMS, EXAMPLE, probe
    )


def test_what_was_measured_once_is_not_measured_again(cache_home):
    first, second = FakeProbe((100, 150, 160, 150)), FakeProbe((1, 1, 1, 1))
    assert _choose(first) == 4
    assert set(first.asked) == {1, 2, 4, 8}
    assert _choose(second) == 4
    assert second.asked == []
    assert len(list((cache_home / "ufm_jax" / "lanes").iterdir())) == 1


def test_candidates_are_measured_again_in_turn():
    probe = FakeProbe((100, 150, 160, 100))
    _choose(probe)
    assert probe.asked == [1, 2, 4, 8] * 3


def test_one_slow_moment_does_not_decide():
    class Disturbed(FakeProbe):
        def images_per_second(self, lanes):
            speed = super().images_per_second(lanes)
            return speed / 10 if self.asked == [1, 2] else speed

    probe = Disturbed((100, 150, 200, 100))
    assert _choose(probe) == 4
    assert probe.asked[:6] == [1, 2, 1, 2, 1, 2]


def test_rates_and_data_share_measurements_batches_and_models_do_not():
    config = PretrainConfig()
    _choose(FakeProbe((100, 150, 160, 150)), config)
    rate = dataclasses.replace(config, client_optimizer=OptimizerConfig(learning_rate=1.0))
    batch = dataclasses.replace(config, federation=FederationConfig(batch_size=3))
    model = dataclasses.replace(config, model=ModelConfig(size="s"))
    for other, measures in ((rate, False), (batch, True), (model, True)):
        probe = FakeProbe((100, 150, 160, 150))
        _choose(probe, other)
        assert bool(probe.asked) == measures
    ragged = _federation((80, 4, 4, 4, 4, 4, 4, 4))
    probe = FakeProbe((1, 1, 1, 1))
    assert _choose(probe, config, ragged) == 1  # 27 steps, of which the longest client takes 20
    assert probe.asked == []


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"key": {}, "measurements": []}', '{"measurements": 3}']
)
def test_a_damaged_cache_is_measured_again_with_a_warning(cache_home, damage, caplog):
    _choose(FakeProbe((100, 150, 160, 150)))
    (path,) = (cache_home / "ufm_jax" / "lanes").iterdir()
    path.write_text(damage)
    probe = FakeProbe((100, 90, 80, 70))
    assert _choose(probe) == 1
    assert probe.asked
    assert any(r.levelno == logging.WARNING and str(path) in r.message for r in caplog.records)
    json.loads(path.read_text())


def test_damaged_rows_are_damage_too(cache_home, caplog):
    _choose(FakeProbe((100, 150, 160, 150)))
    (path,) = (cache_home / "ufm_jax" / "lanes").iterdir()
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"measurements": [[1, 2]]}))
    probe = FakeProbe((100, 90, 80, 70))
    assert _choose(probe) == 1
    assert "damaged" in caplog.text


def test_too_little_memory_for_one_lane_is_an_error_that_names_parts_and_remedies():
    probe = FakeProbe((100,) * 4, sizes=(10**15,) * 4)
    with pytest.raises(ConfigError) as caught:
        _choose(probe)
    message = str(caught.value)
    for part in ("1000000.00 GB to train", "images", "clients' states", "memory_fraction=0.9"):
        assert part in message
    for remedy in ("batch_size", "remat", "data_home='host'", "client_state", "smaller model"):
        assert remedy in message
    assert probe.asked == []


def test_exhausted_memory_ends_the_search_and_is_not_kept(cache_home, caplog):
    assert _choose(FakeProbe((100, 150, 200, 250), exhausted=(4,))) == 2
    assert "4 lanes do not fit: RESOURCE_EXHAUSTED" in caplog.text
    again = FakeProbe((100, 150, 200, 250))
    assert _choose(again) == 8
    assert 4 in again.asked


def test_the_log_has_one_line_of_candidates_choice_and_source(caplog):
    caplog.set_level(logging.INFO, "ufm_jax")
    for source in ("measured", "from "):
        caplog.clear()
        _choose(FakeProbe((100, 150, 160, 130)))
        (line,) = [r.message for r in caplog.records if "lanes a device:" in r.message]
        assert line.startswith("lanes a device: 4 of (1: 100 images/s with 100% of the slots in")
        assert source in line


@pytest.mark.parametrize(
    ("cohort", "devices", "expected"),
    [(8, 1, [1, 2, 4, 8]), (8, 2, [1, 2, 4]), (8, 3, [1, 2]), (1, 8, [1]), (7, 1, [1, 2, 4])],
)
def test_no_more_lanes_than_clients_of_a_device(cohort, devices, expected):
    federation = dataclasses.replace(_federation(devices=devices), cohort_size=cohort)
    assert candidates(federation) == expected


@pytest.mark.parametrize("state", ["persist", "reset"])
def test_shapes_of_the_state_are_those_of_a_real_one(state):
    federation = _federation(devices=2, state=state)
    real, shapes = federation.init(PARAMS), federation.state_shapes(PARAMS)
    assert jax.tree.structure(real) == jax.tree.structure(shapes)
    for leaf, shape in zip(jax.tree.leaves(real), jax.tree.leaves(shapes), strict=True):
        assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)
    assert tree_bytes(shapes) == sum(leaf.nbytes for leaf in jax.tree.leaves(real))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_probe_compiles_once_and_its_memory_grows_with_the_lanes(sharded, monkeypatch):
    probe = RoundProbe(_federation(devices=2, sharded=sharded), PARAMS, EXAMPLE)
    sizes = [probe.working_bytes(lanes) for lanes in (1, 4)]
    # Each lane has parameters and two moments of its own.
    assert sizes[1] - sizes[0] >= 3 * 3 * tree_bytes(PARAMS)
    assert probe.images_per_second(4) > 0
    assert probe._federation(4)[0].compilations == 1


def test_what_a_probe_says_of_exhausted_memory(monkeypatch):
    probe = RoundProbe(_federation(), PARAMS, EXAMPLE)

    def failing(message):
        def run_chunk(*_):
            raise jax.errors.JaxRuntimeError(message)

        monkeypatch.setattr(Federation, "run_chunk", run_chunk)

    failing("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes\nmore")
    with pytest.raises(OutOfDeviceMemoryError, match=r"allocating 5 bytes$"):
        probe.images_per_second(1)
    failing("INTERNAL: other")
    with pytest.raises(jax.errors.JaxRuntimeError, match="other"):
        probe.images_per_second(1)


def test_images_and_clients_states_of_the_run_count():
    federation = _federation((8,) * 8, devices=2)
    placement = PlacementConfig()
    load = choose._load(placement, federation, PARAMS, EXAMPLE, 2)
    assert load.image_bytes == 32 * (6 + 8)  # every device holds those of its own clients
    unpinned = choose._load(placement, _federation((8,) * 8, 2, "reset"), PARAMS, EXAMPLE, 2)
    assert unpinned.image_bytes == 64 * (6 + 8)
    assert load.client_bytes == 4 * (2 * tree_bytes(PARAMS) + 4)  # two moments and a count
    assert load.useful == 1.0
    host = choose._load(
        dataclasses.replace(placement, data_home="host"), federation, PARAMS, EXAMPLE, 2
    )
    # At most 5 steps of 2 lanes of 4 images, and as many to come while they train.
    assert host.image_bytes == 2 * 40 * (6 + 8)


def test_a_device_without_a_limit_of_its_own_has_a_share_of_the_machine(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(lane_probe, "_GROUP_LIMIT", limit)
    whole = lane_probe.device_memory(make_placement(1))
    assert lane_probe.device_memory(make_placement(4)) == pytest.approx(whole / 4)
    limit.write_text("max\n")
    assert lane_probe.device_memory(make_placement(1)) == whole
    limit.write_text("4096\n")
    assert lane_probe.device_memory(make_placement(2)) == 2048


@pytest.fixture
def run_config(tmp_path):
    return PretrainConfig(
        data=PretrainingSettings(
            holdout_fraction=0.0,
            source="synthetic",
            num_sites=4,
            mean_size=6,
            working_size=32,
            cache_dir=str(tmp_path / "decoded"),
        ),
        model=ModelConfig(
            size="xs",
            image_size=16,
            patch_size=8,
            channels=1,
            decoder_width=16,
            decoder_depth=1,
            decoder_heads=2,
        ),
        augment=AugmentConfig(degrade=0.0, scan_conversion=0.0),
        federation=FederationConfig(rounds=1, batch_size=4),
        schedule=ScheduleConfig(warmup_rounds=0),
        placement=PlacementConfig(devices=2, lanes=0),
        checkpoint=CheckpointConfig(every_rounds=1),
    )


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_goes_on_with_the_lanes_it_began_with(
    real, run_config, tmp_path, cache_home, caplog, monkeypatch
):
    if not real:  # A model that compiles in no time.
        monkeypatch.setattr(pretraining, "make_loss", lambda *_: _pixel_loss)
        monkeypatch.setattr(pretraining, "init_params", lambda *_: {"w": jnp.ones((32, 5))})
    caplog.set_level(logging.INFO, "ufm_jax")
    workdir = tmp_path / "run"
    began = pretrain(run_config, workdir).federation.placement.lanes
    assert began in (1, 2)
    assert json.loads((workdir / "config.json").read_text())["config.placement.lanes"] == began
    assert "the round was compiled 1 time(s) for 1 rounds" in caplog.text

    (path,) = (cache_home / "ufm_jax" / "lanes").iterdir()
    kept, other = json.loads(path.read_text()), 3 - began
    rows = [[began, 1.0, 1.0], [other, 1.0, 1e9]]
    path.write_text(json.dumps(kept | {"measurements": rows}))
    data = load_federated(run_config.data)
    assert resolve_lanes(run_config, data, tmp_path / "fresh") == other
    assert pretrain(run_config, workdir).federation.placement.lanes == began
    with pytest.raises(ConfigError, match=f"config.placement.lanes: {began} there, {other} here"):
        pretrain(
            dataclasses.replace(run_config, placement=PlacementConfig(devices=2, lanes=other)),
            workdir,
        )
