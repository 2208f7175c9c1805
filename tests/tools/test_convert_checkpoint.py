"""The command: what it reads, changes, leaves out and writes is said, and is so."""

import argparse
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.interop.test_torch_files import save_zip, state_pickle, storages
from tools import convert_checkpoint
from ufm_jax.errors import ConfigError
from ufm_jax.interop.architecture import describe
from ufm_jax.interop.convert import params_to_torch
from ufm_jax.interop.weights_file import read_weights, write_weights
from ufm_jax.models.classifier import Classifier
from ufm_jax.models.mae import MAE
from ufm_jax.models.sizes import EncoderSize
from ufm_jax.models.vit import stack_layers
from ufm_jax.runs.checkpoint import export_params, load_params

SIZE, GRID = EncoderSize(width=8, depth=2, heads=2), (2, 2)


def convert(*arguments):
    convert_checkpoint.main([str(a) for a in arguments])


def random_like(model, *inputs):
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.Generator(np.random.Philox(0))
    return jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape, np.float32)), shapes)


@pytest.fixture(scope="module")
def mae():
    """Images of 8 x 8, patches of 4."""
    patches, ids = np.zeros((1, 4, 48), np.float32), np.zeros((1, 4), np.int32)
    return random_like(MAE(SIZE, GRID, 4, 1, 1), patches, ids, ids)


@pytest.fixture(scope="module")
def classifier():
    model = Classifier(SIZE, GRID, num_classes=3, learned_position=True)
    return random_like(model, np.zeros((1, 4, 48), np.float32))


def assert_equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_run_of_ours_there_and_back_is_bitwise(mae, stacked, tmp_path, capsys):
    """The grid is the run's; its optimiser and configuration stay where they are."""
    export_params(tmp_path / "run" / "model", stack_layers(mae) if stacked else mae)
    facts = {"config.model.image_size": 8, "config.model.patch_size": 4}
    (tmp_path / "run" / "config.json").write_text(json.dumps(facts))
    convert(tmp_path / "run", tmp_path / "out" / "mae.safetensors", "--to=torch")
    state = read_weights(tmp_path / "out" / "mae.safetensors").state
    expected = params_to_torch(jax.tree.map(np.asarray, mae), GRID)
    assert_equal(state, expected)
    convert(tmp_path / "out" / "mae.safetensors", tmp_path / "back", "--to=ours")
    assert_equal(load_params(tmp_path / "back"), mae)
    said = capsys.readouterr().out
    assert "read: " in said
    assert "model: mae: width 8, 2 blocks, patches of 4, images of 8 x 8 x 3" in said
    assert said.count("read back equal bit for bit") == 2


def test_a_classifier_there_and_back_is_bitwise(classifier, tmp_path):
    export_params(tmp_path / "model", classifier)
    convert(tmp_path / "model", tmp_path / "vit.safetensors", "--to=torch")
    convert(tmp_path / "vit.safetensors", tmp_path / "back", "--to=ours")
    assert_equal(load_params(tmp_path / "back"), classifier)


def test_the_encoder_alone_at_another_size_leaves_out_the_rest_and_says_so(
    classifier, tmp_path, capsys
):
    export_params(tmp_path / "model", classifier)
    sizes = ("--image_size", 24, 16, "--patch_size", 8)
    output = tmp_path / "x.safetensors"
    convert(tmp_path / "model", output, "--to=torch", "--encoder_only", *sizes)
    state = read_weights(output).state
    assert state["pos_embed"].shape == (1, 1 + 3 * 2, 8)
    assert state["patch_embed.proj.weight"].shape == (8, 3, 8, 8)
    same = params_to_torch({"encoder": jax.tree.map(np.asarray, classifier["encoder"])}, GRID)
    for name in same.keys() - {"pos_embed", "patch_embed.proj.weight"}:
        np.testing.assert_array_equal(state[name], same[name])
    said = capsys.readouterr().out
    assert "left out, as --encoder_only says: head, norm" in said
    assert "changed: pos_embed: resampled from 2 x 2 to 3 x 2 patches" in said


def test_half_the_bytes_keep_what_the_model_is_and_its_numbers_to_a_thousandth(
    mae, tmp_path, capsys
):
    export_params(tmp_path / "model", mae)
    common = (tmp_path / "model", "--to=torch", "--encoder_only", "--image_size", 8)
    convert(*common[:1], tmp_path / "whole.safetensors", *common[1:])
    convert(*common[:1], tmp_path / "half.safetensors", *common[1:], "--float16")
    whole, half = (read_weights(tmp_path / f"{n}.safetensors") for n in ("whole", "half"))
    assert {array.dtype for array in half.state.values()} == {np.dtype(np.float16)}
    for name, array in whole.state.items():
        np.testing.assert_allclose(half.state[name], array, rtol=2e-3, atol=1e-4)
    assert describe(half.state) == describe(whole.state)
    assert "changed: float16, which moves no number by more than 0.00" in capsys.readouterr().out
    large = jax.tree.map(lambda leaf: 1e5 * leaf, mae)
    export_params(tmp_path / "large", large)
    with pytest.raises(ConfigError, match=r"holds numbers beyond 65504\.0"):
        convert(tmp_path / "large", tmp_path / "x.safetensors", *common[1:], "--float16")


def test_what_stands_beside_the_weights_is_named_and_never_written(mae, tmp_path, capsys):
    state = params_to_torch(jax.tree.map(np.asarray, mae), GRID)
    beside = pickle.dumps({"args": argparse.Namespace(path="secret"), "epoch": 3}, 2)
    content = beside[:-1] + b"Vmodel\n" + state_pickle(state)[2:-1] + b"s."
    save_zip(tmp_path / "training.pth", content, storages(state))
    convert(tmp_path / "training.pth", tmp_path / "x.safetensors", "--to=torch")
    convert(tmp_path / "training.pth", tmp_path / "ours", "--to=ours")
    said = capsys.readouterr().out
    assert "in its part 'model'" in said
    assert "left out, no parameters of the model: args, epoch" in said
    assert "secret" not in said
    ours = [path for path in (tmp_path / "ours").rglob("*") if path.is_file()]
    written = [tmp_path / "x.safetensors", *ours]
    assert not any(b"secret" in p.read_bytes() for p in written)
    assert_equal(load_params(tmp_path / "ours"), mae)


def test_an_export_holds_no_name_but_the_parameters(classifier, tmp_path):
    export_params(tmp_path / "secret_place" / "model", classifier)
    convert(tmp_path / "secret_place" / "model", tmp_path / "x.safetensors", "--to=torch")
    assert b"secret_place" not in (tmp_path / "x.safetensors").read_bytes()


def test_mistakes_are_errors_of_one_line(mae, classifier, tmp_path):
    export_params(tmp_path / "mae", mae)
    export_params(tmp_path / "vit", classifier)
    state = params_to_torch(jax.tree.map(np.asarray, mae), GRID)
    write_weights(tmp_path / "mae.safetensors", state)
    more = state | {"gamma": np.zeros(1), "delta": np.zeros(1)}
    write_weights(tmp_path / "more.safetensors", more)
    for arguments, message in (
        (("mae", "x.safetensors", "--to=torch"), "give --image_size"),
        (("mae", "x", "--to=torch"), "end the name in .safetensors"),
        (("mae", "x.pth", "--to=torch"), "written as .safetensors alone"),
        (("mae", "x.pth", "--to=ours"), "ours is a folder"),
        (("mae", "vit", "--to=ours"), "vit exists"),
        (("mae", "x.safetensors", "--to=torch", "--part=model"), "it has no parts"),
        (("mae.safetensors", "x", "--to=ours", "--image_size=10"), "10 x 10 does not divide"),
        (("mae.safetensors", "x", "--to=ours", "--patch_size=8"), "encoder alone"),
        (("vit", "x", "--to=ours", "--grid", "3", "2"), "give the grid"),
        (("more.safetensors", "x", "--to=ours"), "unexpected ['delta', 'gamma']"),
        (("absent.pth", "x", "--to=ours"), "absent.pth"),
        ((".", "x", "--to=ours"), "neither a run's folder"),
    ):
        source, out, *rest = arguments
        with pytest.raises((ConfigError, FileNotFoundError)) as error:
            convert(tmp_path / source, tmp_path / out, *rest)
        assert message in str(error.value), arguments
        assert not (tmp_path / "x").exists()
        assert not list(tmp_path.glob("x.*"))
