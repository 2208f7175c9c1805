"""A new model's encoder is the other's; only its head is new, and that is said."""

import jax
import numpy as np
import pytest

from ufm_jax.interop.resample import resample_position
from ufm_jax.interop.start import start_from
from ufm_jax.interop.torch_names import fixed_position
from ufm_jax.models.classifier import Classifier
from ufm_jax.models.mae import MAE
from ufm_jax.models.segmenter import Segmenter
from ufm_jax.models.sizes import EncoderSize
from ufm_jax.models.vit import stack_layers

SIZE, GRID = EncoderSize(width=8, depth=2, heads=2), (2, 2)


def random_params(model, grid, features, *ids):
    patches = jax.ShapeDtypeStruct((1, grid[0] * grid[1], features), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), patches, *ids)["params"]
    rng = np.random.Generator(np.random.Philox(len(jax.tree.leaves(shapes))))
    return jax.tree.map(lambda a: rng.standard_normal(a.shape, np.float32), shapes)


def classifier(pool="mean", learned=False, grid=GRID, patch=4, channels=3, width=8):
    size = EncoderSize(width, depth=2, heads=2)
    model = Classifier(size, grid, num_classes=3, pool=pool, learned_position=learned)
    return random_params(model, grid, patch**2 * channels)


@pytest.fixture(scope="module")
def mae():
    ids = jax.ShapeDtypeStruct((1, 4), np.int32)
    return random_params(MAE(SIZE, GRID, 4, 1, 1), GRID, 48, ids, ids)


def assert_encoder_equal(params, source, apart=()):
    for name in params["encoder"]:
        if name not in apart:
            jax.tree.map(
                np.testing.assert_array_equal, params["encoder"][name], source["encoder"][name]
            )


def test_only_the_head_of_a_classifier_is_new(mae):
    like = classifier()
    start = start_from(mae, like, GRID)
    assert jax.tree.structure(start.params) == jax.tree.structure(like)
    assert_encoder_equal(start.params, mae)
    assert start.new == ("head/bias", "head/kernel", "norm/bias", "norm/scale")
    for part in ("head", "norm"):
        jax.tree.map(np.testing.assert_array_equal, start.params[part], like[part])
    assert "encoder/norm/scale" in start.left_out
    assert "decoder/mask_token" in start.left_out
    assert start.notes == ()


def test_a_class_token_head_takes_the_encoders_norm(mae):
    start = start_from(mae, classifier("class"), GRID)
    assert start.new == ("head/bias", "head/kernel")
    assert_encoder_equal(start.params, mae)
    assert not any(path.startswith("encoder") for path in start.left_out)


def test_a_segmenters_decoder_is_new(mae):
    model = Segmenter(SIZE, GRID, num_classes=1, patch_size=4, decoder="light", taps=(0, 0, 1, 1))
    start = start_from(mae, random_params(model, GRID, 48), GRID)
    assert_encoder_equal(start.params, mae)
    assert {path.split("/")[0] for path in start.new} == {"decoder", "head"}


def test_a_learned_embedding_starts_from_the_fixed_one_of_the_sources_grid(mae):
    same = start_from(mae, classifier(learned=True), GRID)
    np.testing.assert_array_equal(same.params["encoder"]["pos_embed"], fixed_position(8, GRID))
    like = classifier(learned=True, grid=(3, 4))
    other = start_from(mae, like, (3, 4), source_grid=GRID)
    expected = resample_position(fixed_position(8, GRID), GRID, (3, 4))
    np.testing.assert_array_equal(other.params["encoder"]["pos_embed"], expected)
    assert "(2, 2) to (3, 4)" in other.notes[0]


def test_another_image_and_patch_size_are_resampled_and_said():
    source = classifier(learned=True)
    like = classifier(learned=True, grid=(3, 3), patch=8)
    start = start_from(source, like, (3, 3))
    shapes, wanted = (jax.tree.map(np.shape, p) for p in (start.params, like))
    assert shapes == wanted
    assert len(start.notes) == 2
    assert_encoder_equal(start.params, source, apart=("pos_embed", "patch_embed"))
    expected = resample_position(source["encoder"]["pos_embed"], GRID, (3, 3))
    np.testing.assert_array_equal(start.params["encoder"]["pos_embed"], expected)


def test_a_fixed_embedding_for_another_grid_is_said_to_be_computed_anew(mae):
    start = start_from(mae, classifier(grid=(3, 3)), (3, 3), source_grid=GRID)
    assert "computed anew for (3, 3)" in start.notes[0]


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"width": 4}, r"another shape \['encoder/blocks/block_0/fc1/bias \(32,\) for \(16,\)'"),
        ({"channels": 1}, r"encoder/patch_embed/kernel \(48, 8\) for \(16, 8\)"),
    ],
)
def test_an_encoder_of_another_shape_is_refused(mae, like, message):
    with pytest.raises(ValueError, match=message):
        start_from(mae, classifier(**like), GRID)


def test_other_layouts_and_settings_are_refused_with_the_remedy(mae):
    with pytest.raises(ValueError, match="learned_position=True"):
        start_from(classifier(learned=True), classifier(), GRID)
    with pytest.raises(ValueError, match=r"missing \['encoder/blocks/block_0/.*layout"):
        start_from(stack_layers(mae), classifier(), GRID)
    oblong = classifier(learned=True, grid=(2, 3))
    with pytest.raises(ValueError, match="give source_grid"):
        start_from(oblong, classifier(learned=True, grid=(3, 3)), (3, 3))
    with pytest.raises(ValueError, match=r"missing \['encoder/norm/bias', 'encoder/norm/scale'\]"):
        start_from(classifier("mean"), classifier("class"), GRID)
