"""The loss on images that are held out: right, on all devices, and without a trace in training."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from ufm_jax.config.federation import FederationConfig
from ufm_jax.config.model import ModelConfig
from ufm_jax.config.pretraining import HeldOutConfig, PretrainConfig
from ufm_jax.config.training import (
    CheckpointConfig,
    OptimizerConfig,
    PlacementConfig,
    ScheduleConfig,
)
from ufm_jax.data.cache.store import ArrayStore
from ufm_jax.data.federated import FederatedData
from ufm_jax.data.settings import PretrainingSettings
from ufm_jax.errors import ConfigError
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import make_placement
from ufm_jax.objectives.reconstruction import held_out_views
from ufm_jax.runs.checkpoint import load_params
from ufm_jax.runs.history import read_history
from ufm_jax.train import feature_probe, held_out, pretraining
from ufm_jax.train.image_function import ImageFunction


def images(count, names=("a",)):
    """Images whose pixels are the number of their row; the first client has most."""
    rows = np.arange(count, dtype=np.uint8)
    store = ArrayStore(
        np.broadcast_to(rows[:, None, None, None], (count, 4, 4, 1)),
        np.full((count, 2), 4, np.int32),
        np.zeros((count, 7), np.float32),
        np.zeros(count, np.int32),
    )
    return FederatedData(names, np.array([0, *range(count - len(names) + 1, count + 1)]), store)


def brightness():
    return lambda params, batch: params["w"] * batch["image"].astype(jnp.float32).mean((1, 2, 3))


@pytest.mark.parametrize(("devices", "data_parallel"), [(1, 1), (8, 1), (8, 2), (4, 4)])
@pytest.mark.parametrize("size", [1, 5, 64])
@pytest.mark.parametrize("resident", [True, False])
def test_each_image_has_its_loss_whatever_the_batches_and_devices(
    devices, data_parallel, size, resident
):
    placement = make_placement(devices, data_parallel=data_parallel)
    losses = ImageFunction(brightness(), images(11), placement, size, resident)
    for w in (2.0, 3.0):
        found = losses(placement.put({"w": np.float32(w)}, placement.replicated))
        np.testing.assert_array_equal(found, w * np.arange(11))
    part = losses(placement.put({"w": np.float32(1)}, placement.replicated), 3, 7)
    np.testing.assert_array_equal(part, [3, 4, 5, 6])
    # What was kept of a part serves a longer one that begins there.
    longer = losses(placement.put({"w": np.float32(1)}, placement.replicated), 3, 11)
    np.testing.assert_array_equal(longer, np.arange(3, 11))
    assert losses.compilations == 1


def test_a_batch_is_cut_over_all_devices():
    placement = make_placement(8, data_parallel=2)
    losses = ImageFunction(brightness(), images(11), placement, 16, resident=True)
    losses(placement.put({"w": np.float32(1)}, placement.replicated))
    (batch,) = losses._held.values()
    assert {shard.data.shape for shard in batch["image"].addressable_shards} == {(2, 4, 4, 1)}
    assert len({shard.device for shard in batch["image"].addressable_shards}) == 8


MODEL = ModelConfig(
    size="xs", image_size=32, patch_size=4, channels=1, decoder_width=32, decoder_depth=1,
    decoder_heads=4,
)  # fmt: skip


def test_the_mask_of_an_image_is_a_function_of_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 255, (6, 40, 40, 1), np.uint8)
    pixels[5] = pixels[0]
    batch = {"image": pixels, "extent": np.full((6, 2), 40, np.int32)}
    views = held_out_views(batch, MODEL)
    mask = np.asarray(views.masking.mask)
    np.testing.assert_array_equal(mask[5], mask[0])
    order = np.array([3, 1, 4, 0, 2])
    moved = held_out_views(jax.tree.map(lambda leaf: leaf[order], batch), MODEL)
    np.testing.assert_array_equal(moved.masking.mask, mask[order])
    assert len({row.tobytes() for row in mask}) == 5
    one_pixel = pixels.copy()
    one_pixel[:, 20, 20] ^= 1
    changed = held_out_views(batch | {"image": one_pixel}, MODEL)
    assert (np.asarray(changed.masking.mask) != mask).any(axis=1).all()
    np.testing.assert_array_equal(views.clean, views.degraded)


@pytest.fixture
def config(tmp_path):
    """Three clients of 20, 20 and one image, of a model that compiles in no time."""
    rng = np.random.default_rng(0)
    for client, count in (("a", 20), ("b", 20), ("lone", 1)):
        (tmp_path / "data" / client).mkdir(parents=True)
        for n in range(count):
            pixels = rng.integers(0, 255, (32, 32), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / client / f"{n}.png")
    return PretrainConfig(
        data=PretrainingSettings(
            source="folders",
            root=str(tmp_path / "data"),
            cache_dir=str(tmp_path / "cache"),
            working_size=32,
            holdout_fraction=0.1,
            detect_geometry=False,
        ),
        model=MODEL,
        federation=FederationConfig(rounds=3, batch_size=4, client_state="reset"),
        schedule=ScheduleConfig(warmup_rounds=0),
        placement=PlacementConfig(devices=2),
        evaluation=HeldOutConfig(every_rounds=1),
    )


def _params(*_):
    return {"mean": jnp.zeros(()), "slope": jnp.zeros(())}


def _squared(params, batch):
    brightness = batch["image"].astype(jnp.float32).mean((1, 2, 3)) / 255
    return (params["mean"] + params["slope"] * brightness - brightness) ** 2


@pytest.fixture
def toy(monkeypatch):
    """A regression of an image's brightness in the place of the autoencoder."""
    monkeypatch.setattr(pretraining, "make_loss", lambda *_: lambda p, b, keys: _squared(p, b))
    monkeypatch.setattr(pretraining, "init_params", _params)
    monkeypatch.setattr(held_out, "make_held_out_loss", lambda *_: _squared)


def trained(config, workdir):
    ended = pretraining.pretrain(config, workdir)
    return ended, jax.device_get(ended.state.server.params), read_history(workdir)


def test_what_is_recorded_is_the_mean_loss_of_the_images_that_are_held_out(toy, config, tmp_path):
    ended, params, history = trained(config, tmp_path / "run")
    held = ended.data.held_out
    losses = np.asarray(_squared(params, held.store.read(np.arange(held.num_rows))))
    assert (held.names, held.sizes.tolist()) == (("a", "b"), [2, 2])
    assert ended.data.names == ("a", "b", "lone")  # which trains, and gives nothing
    last = history[-1]
    assert last.held_out_loss == pytest.approx(losses.mean(), rel=1e-6)
    by_client = {"a": losses[:2].mean(), "b": losses[2:].mean()}
    assert last.held_out == pytest.approx(by_client, rel=1e-6)
    assert all(record.judging_seconds > 0 for record in history)
    assert not any(record.probe for record in history)  # There are no labels.
    listed = json.loads((tmp_path / "run" / "data.json").read_text())
    assert listed["held_out"] == list(held.images)
    assert [row["held_out"] for row in listed["clients"]] == [2, 2, 0]


def test_judging_leaves_no_trace_in_training(toy, config, tmp_path):
    always = trained(config, tmp_path / "always")
    never_config = dataclasses.replace(config, evaluation=HeldOutConfig(every_rounds=1000))
    once = trained(never_config, tmp_path / "once")
    jax.tree.map(np.testing.assert_array_equal, always[1], once[1])
    assert [np.isfinite(record.held_out_loss) for record in once[2]] == [False, False, True]
    assert always[0].federation.compilations == 1


def test_clients_with_parameters_of_their_own_are_judged_with_these(toy, config, tmp_path):
    personal = dataclasses.replace(
        config, federation=dataclasses.replace(config.federation, personal=("mean",))
    )
    ended, _, history = trained(personal, tmp_path / "run")
    held, expected = ended.data.held_out, {}
    for k, name in enumerate(held.names):
        own = ended.federation.client_params(ended.state, ended.data.names.index(name))
        rows = held.store.read(np.arange(*held.offsets[k : k + 2]))
        expected[name] = float(np.asarray(_squared(jax.device_get(own), rows)).mean())
    assert history[-1].held_out == pytest.approx(expected, rel=1e-6)
    assert expected["a"] != expected["b"]


def test_patience_ends_the_training_and_the_best_model_is_exported(
    toy, config, tmp_path, monkeypatch
):
    """Training moves the mean to that of the images, 0.5; the judge wants less."""
    monkeypatch.setattr(
        held_out,
        "make_held_out_loss",
        lambda *_: lambda p, batch: abs(p["mean"] - 0.2) + 0.0 * batch["extent"][:, 0],
    )
    patient = dataclasses.replace(
        config,
        schedule=ScheduleConfig(warmup_rounds=0, patience=2),
        federation=dataclasses.replace(config.federation, rounds=30),
        client_optimizer=OptimizerConfig(
            name="sgd", learning_rate=0.01, betas=(0, 0), weight_decay=0, scale_by_batch=False
        ),
        checkpoint=CheckpointConfig(every_rounds=100),
    )
    ended, params, history = trained(patient, tmp_path / "run")
    losses = [record.held_out_loss for record in history]
    best = int(np.argmin(losses))
    assert best > 0
    assert len(history) == best + 3 < 30
    assert ended.best == best + 1
    exported = load_params(tmp_path / "run" / "model")
    jax.tree.map(np.testing.assert_array_equal, exported, params)
    assert abs(exported["mean"] - 0.2) == pytest.approx(losses[best], rel=1e-5)
    # The same command finds nothing left to do.
    again, _, unchanged = trained(patient, tmp_path / "run")
    assert [record.round for record in unchanged] == [record.round for record in history]
    assert again.best == ended.best


def test_patience_without_images_to_judge_by_is_refused(toy, config, tmp_path):
    nothing = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, holdout_fraction=0.0),
        schedule=ScheduleConfig(warmup_rounds=0, patience=2),
    )
    with pytest.raises(ConfigError, match=r"schedule\.patience=2: no image is held out"):
        pretraining.pretrain(nothing, tmp_path / "run")


def test_nothing_judges_a_federation_that_holds_out_nothing(toy, config, tmp_path, caplog):
    few = dataclasses.replace(config, data=dataclasses.replace(config.data, holdout_fraction=1e-3))
    ended, _, history = trained(few, tmp_path / "run")
    assert ended.data.held_out is None
    assert all(np.isnan(record.held_out_loss) for record in history)
    assert "no image is held out, so that nothing judges the shared model" in caplog.text


@pytest.mark.parametrize(
    ("images", "cohort", "epochs", "every"),
    [(5, 10, 1, 1), (9, 10, 1, 1), (10, 10, 1, 2), (45, 1, 1, 50), (45, 1, 5, 10)],
)
def test_a_look_costs_three_hundredths_of_the_training_at_most(images, cohort, epochs, every):
    """Ten clients of ten images; a look's image costs a third of a trained one."""
    federation = Federation(
        _squared,
        fedavg(optax.sgd(0.1)),
        np.arange(0, 101, 10),
        Batching(4, epochs),
        cohort_size=cohort,
    )
    assert held_out._every(images, federation) == every


def with_training(config, training):
    return dataclasses.replace(
        config, federation=dataclasses.replace(config.federation, training=training)
    )


def test_each_way_to_train_sees_the_same_images_as_often_and_is_judged_on_the_same(
    toy, config, tmp_path
):
    ways = ("federated", "centralised", "local")
    runs = {way: trained(with_training(config, way), tmp_path / way) for way in ways}
    for ended, _, history in runs.values():
        assert [record.images for record in history] == [37] * 3
        assert ended.data.held_out.images == runs["federated"][0].data.held_out.images
        assert set(history[-1].held_out) == {"a", "b"}
    assert runs["centralised"][0].data.names == ("all",)
    # A local run leaves the shared parameters as they began, and a model a client.
    local = runs["local"][0]
    jax.tree.map(np.testing.assert_array_equal, runs["local"][1], _params())
    folder = tmp_path / "local" / pretraining.CLIENT_MODELS
    models = [load_params(folder / str(k)) for k in range(local.data.num_clients)]
    assert len({float(model["mean"]) for model in models}) == 3
    rows = local.data.held_out.store.read(np.arange(2))
    assert runs["local"][2][-1].held_out["a"] == pytest.approx(
        float(np.asarray(_squared(models[0], rows)).mean()), rel=1e-6
    )
    assert not (tmp_path / "local" / "model").exists()


@pytest.fixture
def labelled(config, tmp_path, monkeypatch):
    """Two sites whose bright and dark images have labels; features are an image's brightness."""
    rng = np.random.default_rng(0)
    for site in ("north", "south"):
        (tmp_path / "sets" / site).mkdir(parents=True)
        rows = ["image,label"]
        for n in range(40):
            pixels = rng.integers(0, 100, (32, 32), np.uint8) + 150 * (n % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "sets" / site / f"{n}.png")
            rows.append(f"{n}.png,{('dark', 'bright')[n % 2]}")
        (tmp_path / "sets" / site / "index.csv").write_text("\n".join(rows))

    def features(params, batch):
        brightness = batch["image"].astype(jnp.float32).mean((1, 2, 3)) / 255
        return jnp.stack([brightness, 1 - brightness], 1) + 0 * params["mean"]

    monkeypatch.setattr(feature_probe, "make_features", lambda model: features)
    data = dataclasses.replace(config.data, source="index", root=str(tmp_path / "sets"))
    evaluation = HeldOutConfig(every_rounds=3, probe_looks=2)
    return dataclasses.replace(config, data=data, evaluation=evaluation)


@pytest.mark.parametrize("training", ["federated", "local"])
def test_features_are_probed_so_often_in_a_run_and_after_its_last_round(
    toy, labelled, tmp_path, training
):
    _, _, history = trained(with_training(labelled, training), tmp_path / "run")
    assert [bool(record.probe) for record in history] == [False, True, True]
    assert [np.isfinite(record.held_out_loss) for record in history] == [False, True, True]
    assert history[-1].probe["bright, dark"]["linear_auroc"] == pytest.approx(1.0)


def test_probes_of_several_encoders_are_averaged():
    found = held_out._mean(iter([{"a": {"x": 0.5}}, {"a": {"x": 0.7}}, {"a": {"x": 0.9}}]))
    assert found == {"a": {"x": pytest.approx(0.7)}}
