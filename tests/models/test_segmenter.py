"""The segmenter: shapes, what feeds what, lanes, and learning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ufm_jax.models.execution import Execution
from ufm_jax.models.segmenter import (
    LightDecoder,
    Segmenter,
    UNetDecoder,
    bilinear,
    default_taps,
)
from ufm_jax.models.sizes import EncoderSize
from ufm_jax.models.vit import Encoder, stack_layers
from ufm_jax.ops.patches import patchify
from ufm_jax.ops.segmentation_losses import segmentation_loss

SIZE = EncoderSize(width=16, depth=4, heads=2)
GRID = (2, 3)
DECODERS = ["unet", "light", "linear"]


def _patches(patch_size, batch=2, channels=1):
    rng = np.random.Generator(np.random.Philox(0))
    count = GRID[0] * GRID[1]
    return rng.standard_normal((batch, count, patch_size**2 * channels), np.float32)


def _shapes(model, patches):
    return jax.eval_shape(model.init, jax.random.key(0), patches)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("patch_size", "channels"), [(8, 1), (14, 3), (16, 1), (32, 3)])
def test_every_pixel_gets_a_float32_logit_of_every_class(decoder, patch_size, channels):
    low = Execution(jnp.dtype("bfloat16"))
    model = Segmenter(SIZE, GRID, patch_size, 5, decoder, decoder_width=16, execution=low)
    patches = _patches(patch_size, channels=channels)
    variables = _shapes(model, patches)
    logits = jax.eval_shape(model.apply, variables, patches)
    assert logits.shape == (2, 2 * patch_size, 3 * patch_size, 5)
    assert logits.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    assert set(variables["params"]) == {"encoder", "decoder", "head"}


@pytest.mark.parametrize(
    ("depth", "taps"),
    [(12, (3, 5, 7, 11)), (24, (7, 11, 15, 23)), (4, (0, 1, 2, 3)), (2, (0, 0, 0, 1))],
)
def test_taps_are_the_recipes_and_at_the_same_shares_of_other_depths(depth, taps):
    assert default_taps(depth) == taps


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_encoder_is_that_of_pretraining_without_its_last_norm(decoder):
    patches = _patches(8)
    ours = _shapes(Segmenter(SIZE, GRID, 8, decoder=decoder), patches)["params"]["encoder"]
    theirs = dict(_shapes(Encoder(SIZE, GRID), patches)["params"])
    del theirs["norm"]
    assert jax.tree.map(lambda a: a.shape, ours) == jax.tree.map(lambda a: a.shape, theirs)


@pytest.mark.parametrize("decoder", ["unet", "light"])
@pytest.mark.parametrize("patch_size", [8, 14])
def test_all_four_blocks_reach_the_features(decoder, patch_size, draw_params):
    rng = np.random.Generator(np.random.Philox(0))
    maps = tuple(rng.standard_normal((4, 1, *GRID, 16), np.float32))
    picture = jnp.zeros((1, GRID[0] * patch_size, GRID[1] * patch_size, 1))
    unet = decoder == "unet"
    model = UNetDecoder(patch_size, 16) if unet else LightDecoder(16)
    rest = (picture,) if unet else ()
    variables = {"params": draw_params(model, maps, *rest)}

    @jax.jit
    @jax.grad
    def gradient(maps):
        return jnp.sum(jnp.sin(model.apply(variables, maps, *rest)))

    assert min(np.abs(each).max() for each in gradient(maps)) > 1e-5


def test_detail_finer_than_a_patch_reaches_the_pixel_it_belongs_to(draw_params):
    model, patches = Segmenter(SIZE, GRID, 8, decoder_width=16), _patches(8, batch=1)
    params = draw_params(model, patches)
    stem = params["decoder"]["stem"]

    @jax.jit
    def logits(stem):
        merged = params | {"decoder": params["decoder"] | {"stem": stem}}
        return model.apply({"params": merged}, patches)

    without = jax.tree.map(jnp.zeros_like, stem)
    fine = (logits(stem) - logits(without))[0, :, :, 0]
    within = fine[:8, :8] - fine[:8, :8].mean()
    assert jnp.abs(within).max() > 1e-3


@pytest.mark.parametrize("decoder", ["unet", "light"])
def test_examples_do_not_see_each_other(decoder, draw_params):
    model, patches = Segmenter(SIZE, GRID, 8, decoder=decoder, decoder_width=16), _patches(8)
    variables = {"params": draw_params(model, patches)}
    apply = jax.jit(model.apply)
    other = np.concatenate([patches[:1], 5 + 3 * patches[1:]])
    np.testing.assert_allclose(
        apply(variables, other)[0], apply(variables, patches)[0], rtol=1e-5, atol=1e-5
    )


def test_stacked_layers_give_the_same_logits(draw_params):
    patches = _patches(8)
    plain = Segmenter(SIZE, GRID, 8, decoder_width=16)
    lean = Execution(remat=True, scan_layers=True)
    stacked = Segmenter(SIZE, GRID, 8, decoder_width=16, execution=lean)
    params = draw_params(plain, patches)
    scanned = params | {"encoder": stack_layers(params["encoder"])}
    np.testing.assert_allclose(
        jax.jit(stacked.apply)({"params": scanned}, patches),
        jax.jit(plain.apply)({"params": params}, patches),
        atol=1e-4,
    )


def test_lanes_with_weights_of_their_own_need_no_convolution_and_no_more_products():
    model, patches = Segmenter(SIZE, GRID, 8, decoder_width=16), _patches(8)
    params = _shapes(model, patches)["params"]
    lanes = 3

    def loss(params, patches):
        return model.apply({"params": params}, patches).sum()

    def programs(function, *arguments):
        text = jax.jit(function).lower(*arguments).as_text()
        return text.count("stablehlo.convolution"), text.count("stablehlo.dot_general")

    def many(leaf):
        return jax.ShapeDtypeStruct((lanes, *leaf.shape), leaf.dtype)

    one = programs(jax.grad(loss), params, patches)
    several = programs(jax.vmap(jax.grad(loss)), jax.tree.map(many, params), many(patches))
    assert one[0] == several[0] == 0
    assert one[1] == several[1] > 0


def test_bilinear_enlarging_is_that_of_other_libraries():
    # Half-pixel centres, edges repeated: the PyTorch result of align_corners=False.
    line = jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(bilinear(line, 1, 4)[0, 0, :, 0], [0, 1, 3, 4], atol=1e-6)
    np.testing.assert_array_equal(bilinear(line, 1, 2), line)


def test_wrong_settings_are_named():
    patches = _patches(8)
    with pytest.raises(ValueError, match="decoder='fpn'"):
        _shapes(Segmenter(SIZE, GRID, 8, decoder="fpn"), patches)
    with pytest.raises(ValueError, match="give 4"):
        _shapes(Segmenter(SIZE, GRID, 8, taps=(1, 2)), patches)
    with pytest.raises(ValueError, match="patch_size=16"):
        _shapes(Segmenter(SIZE, GRID, 16), patches)


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "wanted"), [("unet", 0.95), ("light", 0.7)])
def test_a_drawn_image_is_learned_by_heart(decoder, wanted):
    """Two ellipses on noise, both across patch borders; edges finer than patches."""
    rng = np.random.Generator(np.random.Philox(1))
    rows, columns = np.mgrid[:16, :16]
    mask = ((rows - 5) / 4) ** 2 + ((columns - 5) / 3) ** 2 < 1
    mask |= ((rows - 11) / 3) ** 2 + ((columns - 11) / 4) ** 2 < 1
    image = rng.standard_normal((16, 16, 1)) + mask[..., None]
    patches = patchify(jnp.asarray(image, jnp.float32), 4)[None]
    target = jnp.asarray(mask, jnp.uint8)
    size = EncoderSize(width=16, depth=1, heads=2)
    model = Segmenter(size, (4, 4), 4, decoder=decoder, decoder_width=16)
    optimizer = optax.adam(1e-2)

    def loss(params):
        return segmentation_loss(model.apply({"params": params}, patches)[0], target)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def train(key):
        params = model.init(key, patches)["params"]
        carry, _ = jax.lax.scan(step, (params, optimizer.init(params)), length=80)
        return model.apply({"params": carry[0]}, patches)[0, ..., 0] > 0

    found = np.asarray(train(jax.random.key(0)))
    dice = 2 * (found & mask).sum() / (found.sum() + mask.sum())
    assert dice > wanted
