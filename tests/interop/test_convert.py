"""Whole models through files: bitwise there and back, and the published outputs."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interop.test_torch_files import save_zip, state_pickle, storages
from ufm_jax.interop.architecture import describe
from ufm_jax.interop.convert import (
    encoder_alone,
    params_from_torch,
    params_to_torch,
    patch_of,
    resized,
)
from ufm_jax.interop.torch_names import fixed_position
from ufm_jax.interop.weights_file import read_weights, write_weights
from ufm_jax.models.classifier import Classifier
from ufm_jax.models.mae import MAE
from ufm_jax.models.sizes import EncoderSize
from ufm_jax.models.vit import Encoder
from ufm_jax.ops.masking import masking_from_noise
from ufm_jax.ops.patches import patchify

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def make_params(kind, width, depth, grid, patch, channels, learned):
    """Random parameters of the real modules' shapes."""
    size, tokens = EncoderSize(width, depth, heads=1), grid[0] * grid[1]
    patches = jax.ShapeDtypeStruct((1, tokens, patch**2 * channels), np.float32)
    ids = jax.ShapeDtypeStruct((1, tokens), np.int32)
    models = {
        "mae": lambda: (MAE(size, grid, 4, 1, 1), (patches, ids, ids)),
        "mean": lambda: (Classifier(size, grid, 3, "mean", learned), (patches,)),
        "class": lambda: (Classifier(size, grid, 3, "class", learned), (patches,)),
        "encoder": lambda: (Encoder(size, grid, learned_position=learned), (patches,)),
        "no norm": lambda: (Encoder(size, grid, 0.0, False, learned), (patches,)),
    }
    model, inputs = models[kind]()
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.Generator(np.random.Philox(0))
    params = jax.tree.map(lambda a: rng.standard_normal(a.shape, np.float32), shapes)
    return params if "encoder" in params else {"encoder": params}


def make_state(kind="class", grid=(2, 2), patch=4, learned=True):
    return params_to_torch(make_params(kind, 8, 2, grid, patch, 3, learned), grid)


@given(
    kind=st.sampled_from(["mae", "mean", "class", "encoder", "no norm"]),
    width=st.sampled_from([4, 8]),
    depth=st.integers(1, 2),
    grid=st.sampled_from([(1, 1), (2, 2), (2, 3)]),
    patch=st.sampled_from([1, 2, 5]),
    channels=st.sampled_from([1, 3]),
    learned=st.booleans(),
)
@settings(max_examples=25)
def test_ours_to_a_file_of_pytorch_and_back_is_bitwise(
    tmp_path_factory, kind, width, depth, grid, patch, channels, learned
):
    learned = learned and kind != "mae"
    params = make_params(kind, width, depth, grid, patch, channels, learned)
    path = tmp_path_factory.getbasetemp() / "round.safetensors"
    write_weights(path, params_to_torch(params, grid))
    state = read_weights(path).state
    architecture = describe(state, grid)
    assert (architecture.width, architecture.depth) == (width, depth)
    assert (architecture.patch_size, architecture.channels) == (patch, channels)
    assert architecture.learned_position == learned
    restored = params_from_torch(state, architecture)
    assert jax.tree.structure(restored) == jax.tree.structure(params)
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), restored, params)


def reference(shared, name):
    with np.load(shared / "reference" / name) as arrays:
        values = dict(arrays)
    state = {
        k.removeprefix("state_dict/"): v for k, v in values.items() if k.startswith("state_dict/")
    }
    return values, state


def to_patches(images_nchw):
    return patchify(jnp.asarray(images_nchw).transpose(0, 2, 3, 1), 16)


def assert_close(value, expected):
    assert np.abs(np.asarray(value) - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_published_autoencoder_predicts_the_same_through_a_file(shared, tmp_path, suffix):
    values, state = reference(shared, "mae_forward.npz")
    if suffix == ".pth":
        save_zip(tmp_path / "mae.pth", state_pickle(state), storages(state))
    else:
        write_weights(tmp_path / "mae.safetensors", state)
    read = read_weights(tmp_path / f"mae{suffix}").state
    architecture = describe(read)
    assert (architecture.kind, architecture.decoder) == ("mae", (64, 2))
    params = params_from_torch(read, architecture)
    masking = jax.vmap(lambda n: masking_from_noise(n, 4))(jnp.asarray(values["noise"]))
    model = MAE(EncoderSize(96, 3, 3), (4, 4), 64, 2, 4)
    patches = to_patches(values["input_degraded_nchw"])
    prediction = quick_jit(model.apply)(
        {"params": params}, patches, masking.keep_ids, masking.restore_ids
    )
    assert_close(prediction, values["pred"])


def test_the_published_classifier_answers_the_same_through_a_file(shared, tmp_path):
    values, state = reference(shared, "vit_cls_token_forward.npz")
    path = save_zip(tmp_path / "vit.pth", state_pickle(state), storages(state))
    read = read_weights(path).state
    architecture = describe(read)
    assert (architecture.pool, architecture.classes) == ("class", 5)
    assert architecture.learned_position
    model = Classifier(EncoderSize(96, 3, 3), (4, 4), 5, "class", learned_position=True)
    params = params_from_torch(read, architecture)
    logits = quick_jit(model.apply)({"params": params}, to_patches(values["input_nchw"]))
    assert_close(logits, values["logits"])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("mae", ["mae", "decoder of width 4, 1 blocks", "fixed"]),
        ("mean", ["classifier", "head of 3 classes on the mean patch token", "learned"]),
        ("class", ["classifier", "head of 3 classes on the class token", "images of 8 x 8 x 3"]),
        ("encoder", ["encoder", "width 8, 2 blocks", "patches of 4"]),
    ],
)
def test_what_a_state_is_of_is_said(kind, words):
    text = str(describe(make_state(kind, learned=kind != "mae")))
    assert all(word in text for word in words), text


def test_a_fixed_position_that_training_moved_a_little_is_learned():
    state = make_state(learned=False)
    assert not describe(state).learned_position
    half = {name: array.astype(np.float16) for name, array in state.items()}
    assert not describe(half).learned_position
    state["pos_embed"] = state["pos_embed"] + np.float32(1e-4)
    assert describe(state).learned_position


def test_missing_and_unexpected_names_are_all_listed():
    state = make_state()
    del state["blocks.1.mlp.fc2.bias"], state["norm.weight"]
    state |= {"dist_token": np.zeros(1), "blocks.0.ls1.gamma": np.zeros(8)}
    with pytest.raises(ValueError) as error:
        params_from_torch(state, describe(state))
    for name in ("blocks.1.mlp.fc2.bias", "norm.weight", "dist_token", "blocks.0.ls1.gamma"):
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("patch_embed.proj.weight"), r"no patch_embed\.proj\.weight among its 31"),
        (lambda s: s.update(pos_embed=np.zeros((1, 6, 8))), "give the grid"),
        (lambda s: s.update(pos_embed=np.zeros((4, 8))), r"pos_embed: shape \(4, 8\)"),
        (lambda s: s.update({"patch_embed.proj.weight": np.zeros((8, 3, 4, 2))}), "4 x 2 pixels"),
    ],
)
def test_other_architectures_are_refused(change, message):
    state = make_state()
    change(state)
    with pytest.raises(ValueError, match=message):
        describe(state)


def test_an_encoder_alone_leaves_out_decoder_and_head_and_names_them():
    state, dropped = encoder_alone(make_state("mae", learned=False))
    assert describe(state).kind == "encoder"
    assert "mask_token" in dropped
    assert "decoder_pos_embed" in dropped
    state, dropped = encoder_alone(make_state("mean"))
    assert sorted(dropped) == ["fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight"]
    assert set(params_from_torch(state, describe(state))) == {"encoder"}


def test_another_size_changes_position_and_kernel_alone_and_says_so():
    state = make_state()
    result, notes = resized(state, (2, 2), (3, 5), 8)
    changed = {name for name in state if result[name] is not state[name]}
    assert changed == {"pos_embed", "patch_embed.proj.weight"}
    assert result["pos_embed"].shape == (1, 16, 8)
    assert result["patch_embed.proj.weight"].shape == (8, 3, 8, 8)
    assert re.search("4 to 8 pixels.* from 2 x 2 to 3 x 5 patches", " ".join(notes))
    assert resized(state, (2, 2), (2, 2), 4) == (state, [])


def test_an_autoencoder_gets_the_fixed_embeddings_of_another_size():
    state = make_state("mae", learned=False)
    result, _ = resized(state, (2, 2), (4, 4), 4)
    np.testing.assert_array_equal(result["pos_embed"], fixed_position(8, (4, 4)))
    np.testing.assert_array_equal(result["decoder_pos_embed"], fixed_position(4, (4, 4)))
    assert not describe(result).learned_position
    with pytest.raises(ValueError, match=r"predicts patches of 4 .* encoder alone"):
        resized(state, (2, 2), (2, 2), 8)


@given(st.integers(1, 40), st.sampled_from([1, 3]))
def test_the_patch_is_found_from_the_kernels_rows(side, channels):
    assert patch_of(np.zeros((side**2 * channels, 1))) == (side, channels)


def test_a_segmenter_is_not_converted_but_its_encoder():
    params = make_params("encoder", 8, 2, (2, 2), 4, 3, False)
    with pytest.raises(ValueError, match="segmenter"):
        params_to_torch({**params, "decoder": {"unit_0": {}}, "head": {}}, (2, 2))
    with pytest.raises(ValueError, match="give parameters of a model of ours"):
        params_to_torch({"layers": {}}, (2, 2))
