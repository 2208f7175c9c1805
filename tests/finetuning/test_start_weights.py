"""Fine-tuning starts from what the configuration names, or says in one line why it cannot."""

import json
import pickle
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from tests.interop.test_torch_files import save_zip, state_pickle, storages
from ufm_jax.config.finetuning import FinetuneConfig, NetworkConfig, StartConfig
from ufm_jax.config.model import ModelConfig
from ufm_jax.data.labels.settings import LabelSettings
from ufm_jax.data.labels.task import Task
from ufm_jax.errors import ConfigError
from ufm_jax.finetuning.start_weights import start_params
from ufm_jax.interop.convert import params_to_torch
from ufm_jax.interop.shipped import weights_path
from ufm_jax.interop.weights_file import read_weights, write_weights
from ufm_jax.models.vit import stack_layers
from ufm_jax.objectives.reconstruction import init_params
from ufm_jax.objectives.task import make_objective
from ufm_jax.runs.checkpoint import export_params

CLASSES = Task("single", ("benign", "malignant"))
LESION = Task("segment", ("lesion",))
PRETRAINED = ModelConfig(
    size="xs",
    image_size=32,
    patch_size=8,
    channels=1,
    decoder_width=32,
    decoder_depth=1,
    decoder_heads=2,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of pretraining, as it is when it has ended."""
    folder = tmp_path_factory.mktemp("pretrained")
    params = init_params(PRETRAINED, jax.random.key(5))
    export_params(folder / "model", params)
    facts = {"config.model.image_size": 32, "config.model.patch_size": 8}
    (folder / "config.json").write_text(json.dumps(facts))
    return folder, jax.device_get(params)


def config(weights, task=CLASSES, **model):
    network = NetworkConfig(
        **{"size": "xs", "image_size": 32, "patch_size": 8, "channels": 1, **model}
    )
    data = LabelSettings(source="folders", root=".", kind=task.kind)
    return FinetuneConfig(data=data, model=network, start=StartConfig(str(weights)))


def begin(weights, task=CLASSES, **model):
    chosen = config(weights, task, **model)
    like = fresh(chosen.model, task)
    return start_params(chosen, like), like


@cache
def fresh(model, task):
    return make_objective(config("", task, **vars(model)), task).init(jax.random.key(1))


@pytest.mark.parametrize("task", [CLASSES, LESION], ids=lambda task: task.kind)
def test_the_encoder_of_a_run_is_taken_bit_for_bit_and_the_head_is_new(run, task, caplog):
    folder, pretrained = run
    with caplog.at_level("INFO"):
        start, like = begin(folder, task)
    encoder = {name: leaf for name, leaf in pretrained["encoder"].items() if name != "norm"}
    jax.tree.map(np.testing.assert_array_equal, start.params["encoder"], encoder)
    jax.tree.map(np.testing.assert_array_equal, start.params["head"], jax.device_get(like["head"]))
    assert {"head/bias", "head/kernel"} <= set(start.new)
    assert not any(path.startswith("encoder") for path in start.new)
    assert "new: " in caplog.text
    assert "head/kernel" in caplog.text


def test_an_export_a_file_and_the_run_start_alike(run, tmp_path):
    folder, pretrained = run
    expected = jax.tree.leaves(begin(folder)[0].params)
    state = params_to_torch(pretrained, (4, 4))
    write_weights(tmp_path / "weights.safetensors", state)
    save_zip(tmp_path / "weights.pth", state_pickle(state), storages(state))
    export_params(tmp_path / "export", pretrained)
    for weights in ("weights.safetensors", "weights.pth", "export"):
        start, _ = begin(tmp_path / weights)
        for ours, theirs in zip(jax.tree.leaves(start.params), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_stacked_blocks_hold_the_same_numbers(run):
    start, _ = begin(run[0])
    stacked, _ = begin(run[0], scan_layers=True)
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(stacked.params),
        jax.device_get(stack_layers(start.params)),
    )


def test_other_sizes_of_image_and_patch_are_resampled_and_said(run):
    larger, _ = begin(run[0], image_size=64, learned_position=True)
    assert larger.params["encoder"]["pos_embed"].shape[1] == 1 + 8 * 8
    assert any("from grid (4, 4) to (8, 8)" in note for note in larger.notes)
    finer, _ = begin(run[0], patch_size=4)
    assert finer.params["encoder"]["patch_embed"]["kernel"].shape[0] == 16
    assert any("patches of 8 pixels to 4" in note for note in finer.notes)


def test_random_parameters_are_all_new():
    start, like = begin("")
    jax.tree.map(np.testing.assert_array_equal, start.params, jax.device_get(like))
    assert len(start.new) == len(jax.tree.leaves(like))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("absent", "no file or folder has this name"),
        ("empty", "neither a run's folder nor one of exported parameters"),
        ("unfinished", "has not finished"),
        ("larger", "the weights are of size 'xs', config.model.size='ti' asks for width 192"),
        ("colour", "of another shape"),
        ("text", r"ends in \.safetensors, \.pth"),
        ("pickle", r"neither safetensors nor a file of torch\.save"),
        ("headless", "part='model' is for files"),
    ],
)
def test_what_cannot_be_started_from_is_named(run, tmp_path, case, message):
    weights, model, part = run[0], {}, ""
    if case == "absent":
        weights = tmp_path / "nowhere"
    elif case in ("empty", "unfinished"):
        weights = tmp_path
        if case == "unfinished":
            (tmp_path / "checkpoints/3").mkdir(parents=True)
    elif case == "larger":
        model = {"size": "ti"}
    elif case == "colour":
        model = {"channels": 3}
    elif case == "text":
        weights = tmp_path / "weights.txt"
        weights.write_text("no weights")
    elif case == "pickle":
        weights = tmp_path / "weights.pth"
        weights.write_bytes(pickle.dumps({"model": 1}))
    else:
        part = "model"
    chosen = config(weights, **model)
    chosen = replace(chosen, start=replace(chosen.start, part=part))
    like = fresh(chosen.model, CLASSES)
    with pytest.raises(ConfigError, match=message) as error:
        start_params(chosen, like)
    assert str(error.value).startswith(f"config.start.weights={str(weights)!r}: ")


def test_a_shipped_encoder_is_loaded_by_name_under_a_new_head():
    start, _ = begin("ufm_ti16", size="ti", image_size=128, patch_size=16)
    assert not any(path.startswith("encoder/") for path in start.new)
    state = read_weights(weights_path("ufm_ti16")).state
    np.testing.assert_array_equal(
        start.params["encoder"]["blocks"]["block_0"]["fc1"]["kernel"],
        state["blocks.0.mlp.fc1.weight"].T.astype(np.float32),
    )
