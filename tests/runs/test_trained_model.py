"""A trained model is read as it was trained_model, with what belongs to it, or not at all."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from ufm_jax.config.finetuning import FinetuneConfig, resolve_finetune
from ufm_jax.config.schema import flatten
from ufm_jax.data.labels.task import Task
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import RunError
from ufm_jax.runs import trained_model
from ufm_jax.runs.exported import read_ours
from ufm_jax.runs.folder import CONFIG_FILE, TASK_FILE, write_json
from ufm_jax.runs.seen_images import SEEN_FILE, SeenImages, write_seen_images
from ufm_jax.runs.trained_model import TrainedModel, load_config, load_model, save_model


def make_run(folder, seed):
    """A finished run, of which nothing was trained."""
    folder.mkdir()
    kernel = np.random.default_rng(seed).normal(size=(8, 4)).astype(np.float32)
    params = {"encoder": {"kernel": kernel}, "head": {"kernel": kernel[:, :2]}}
    settings = flatten(FinetuneConfig(seed=seed)) | {"data.clients": ["a"]}
    write_json(folder / CONFIG_FILE, settings | {"config.start.weights (content)": "digest"})
    write_seen_images(folder, SeenImages("print", frozenset({str(seed)})))
    personal = {"head/kernel": np.stack([kernel[:, :2], kernel[:, 2:]])}
    task = Task("single", ("cyst", "mass"))
    save_model(folder, TrainedModel(params, task, personal, ("a", "b"), 1, {"mass": 0.3}))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder / str(seed), seed) for seed in (0, 1)]


@pytest.fixture
def run(runs, tmp_path):
    return shutil.copytree(runs[0], tmp_path / "run")


def test_a_model_is_read_as_it_was_saved(run, runs):
    model, whole = load_model(run), load_model(runs[0])
    for name in ("encoder", "head"):
        np.testing.assert_array_equal(model.params[name]["kernel"], whole.params[name]["kernel"])
    assert model.thresholds == {"mass": 0.3}
    assert load_config(run).seed == 0


def belonging(run):
    return sorted(path for path in run.rglob("*") if path.is_file())


def test_one_bit_anywhere_in_what_belongs_to_a_model_is_an_error(run):
    for number, path in enumerate(belonging(run)):
        content = path.read_bytes()
        if not content:
            continue
        place = (number * 7919) % len(content)
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(RunError, match="restore it") as error:
            load_model(run)
        assert str(run) in str(error.value)
        assert "\n" not in str(error.value)
        path.write_bytes(content)
    load_model(run)


@pytest.mark.parametrize("name", [CONFIG_FILE, SEEN_FILE, TASK_FILE, "model", "personal"])
def test_a_part_of_another_run_is_an_error(run, runs, name):
    """Whole in itself, and yet not what the model was saved with."""
    for path in (run / name, run / f"{name}.sha256"):
        if path.is_dir():
            shutil.rmtree(path)
            shutil.copytree(runs[1] / path.name, path)
        elif path.exists():
            shutil.copy(runs[1] / path.name, path)
    with pytest.raises(RunError, match="differs from what"):
        load_model(run)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"config.seed": 0}'])
def test_a_configuration_without_its_keys_is_an_error_that_names_them(run, content):
    (run / CONFIG_FILE).write_text(content)
    with pytest.raises(RunError, match=rf"{CONFIG_FILE} is damaged"):
        load_config(run)
    without_digests(run)
    with pytest.raises(RunError, match=rf"{CONFIG_FILE} (is damaged|lacks the keys \['config\.)"):
        load_config(run)


def without_digests(run):
    """As versions before digests wrote it."""
    facts = json.loads((run / TASK_FILE).read_text())
    for name in ("digest", "digests"):
        del facts[name]
    write_json(run / TASK_FILE, facts)
    for path in run.glob("*.sha256"):
        path.unlink()


def test_a_run_of_before_digests_is_read_with_a_warning(run, caplog, monkeypatch):
    without_digests(run)
    load_model(run)
    assert any("model is read unchecked" in line for line in caplog.messages)
    stored = json.loads((run / CONFIG_FILE).read_text())
    del stored["config.seed"]
    write_json(run / CONFIG_FILE, stored)
    with pytest.raises(RunError, match=r"lacks the keys \['config\.seed'\]"):
        load_config(run)
    monkeypatch.setitem(trained_model._BEFORE, "config.seed", 5)
    assert load_config(run).seed == 5


def test_a_run_that_the_first_version_stored_is_read(run):
    """It had other names for the images' keys, lacked some keys, and had one that is gone."""
    without_digests(run)
    stored = json.loads((run / CONFIG_FILE).read_text())
    images = {f"config.data.{key}" for key in vars(DataSettings())}
    old = {
        key.replace("config.data.", "config.data.data.") if key in images else key: value
        for key, value in stored.items()
        if key not in trained_model._BEFORE
    }
    old |= {"config.data.data.root": "elsewhere", "config.placement.loop": "steps"}
    write_json(run / CONFIG_FILE, old)
    config = load_config(run)
    assert config.data.root == "elsewhere"
    assert config.client_optimizer.moment_dtype == "float32"
    resolve_finetune(config)


def test_each_key_that_the_first_version_did_not_store_has_a_value_for_its_runs():
    """A key that is new must be in ``_BEFORE``, or no run that is older can be read."""
    first = sorted(flatten(FinetuneConfig()).keys() - trained_model._BEFORE.keys())
    assert len(first) == 186
    assert hashlib.sha256("\n".join(first).encode()).hexdigest()[:16] == "f275ed7f88c4892a"


def test_an_encoder_is_not_taken_from_a_damaged_run(run):
    read_ours(run)
    stored = json.loads((run / CONFIG_FILE).read_text())
    for change in ({"config.model.patch_size": "8"}, {"config.model.image_size": None}):
        write_json(run / CONFIG_FILE, stored | change)
        with pytest.raises(RunError, match=rf"{CONFIG_FILE} is damaged"):
            read_ours(run)
    write_json(run / CONFIG_FILE, stored)
    next(path for path in (run / "model").rglob("d/*") if path.stat().st_size).write_bytes(b"")
    with pytest.raises(RunError, match=r"model/.* is damaged: it differs .*model\.sha256"):
        read_ours(run)


def test_weights_of_a_diverged_run_are_refused_by_the_name_of_the_array(run, tmp_path):
    params = {"encoder": {"kernel": np.array([1, np.nan], np.float32)}}
    trained_model.export_params(tmp_path / "diverged", params)
    with pytest.raises(ValueError, match=r"diverged: 1 of the 2 numbers of encoder/kernel are nan"):
        read_ours(tmp_path / "diverged")
