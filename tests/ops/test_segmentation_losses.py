"""Segmentation losses: numbers by hand, ignored pixels, empty masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ufm_jax.ops.segmentation_losses import (
    IGNORED,
    dice_losses,
    pixel_cross_entropy,
    segmentation_loss,
)

_dice_losses = jax.jit(dice_losses)
_pixel_cross_entropy = jax.jit(pixel_cross_entropy)
_loss = jax.jit(segmentation_loss)
_gradient = jax.jit(jax.grad(segmentation_loss))


def _logit(probabilities):
    probabilities = np.asarray(probabilities, np.float64)
    return jnp.asarray(np.log(probabilities / (1 - probabilities))[..., None], jnp.float32)


def test_binary_loss_by_hand():
    # p = (0.8, 0.4; 0.2, 0.1), t = (1, 1; 0, 0). Dice: 1 - 2 (0.8 + 0.4) / (1.5 + 2).
    logits, mask = _logit([[0.8, 0.4], [0.2, 0.1]]), jnp.array([[1, 1], [0, 0]])
    cross_entropy = -(np.log(0.8) + np.log(0.4) + np.log(0.8) + np.log(0.9)) / 4
    dice = 1 - 2.4 / 3.5
    assert float(_pixel_cross_entropy(logits, mask)) == pytest.approx(cross_entropy, rel=1e-5)
    np.testing.assert_allclose(_dice_losses(logits, mask), [dice], rtol=1e-5)
    assert float(_loss(logits, mask)) == pytest.approx(cross_entropy + dice, rel=1e-5)
    half = segmentation_loss(logits, mask, dice_weight=0.5)
    assert float(half) == pytest.approx(cross_entropy + dice / 2, rel=1e-5)


def test_the_sigmoid_is_applied_once():
    # A logit of 20 in the right place costs nothing; through a second sigmoid it costs 0.31.
    logits = jnp.array([[20.0, -20.0]])[..., None]
    assert float(_loss(logits, jnp.array([[1, 0]]))) < 1e-6


def test_multi_class_loss_by_hand():
    p = np.array([[[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], [[0.2, 0.2, 0.6], [0.5, 0.25, 0.25]]])
    mask = jnp.array([[0, 1], [2, 0]])
    cross_entropy = -np.log([0.7, 0.6, 0.6, 0.5]).mean()
    dice = [1 - 2 * 0.6 / (1.25 + 1), 1 - 2 * 0.6 / (1.25 + 1)]
    logits = jnp.asarray(np.log(p) + 3, jnp.float32)  # a softmax forgets the constant
    np.testing.assert_allclose(_dice_losses(logits, mask), dice, rtol=1e-5)
    assert float(_loss(logits, mask)) == pytest.approx(cross_entropy + np.mean(dice), rel=1e-5)


def test_class_weights_give_the_weighted_mean_over_pixels():
    logits, mask = _logit([[0.8, 0.4], [0.2, 0.5]]), jnp.array([[1, 0], [0, IGNORED]])
    errors, weights = -np.log([0.8, 0.6, 0.8]), np.array([3.0, 1.0, 1.0])
    loss = segmentation_loss(logits, mask, 0.0, jnp.array([1.0, 3.0]))
    assert float(loss) == pytest.approx((errors * weights).sum() / 5, rel=1e-5)


def test_an_absent_class_costs_its_mean_probability_over_the_pixels_that_count():
    logits, mask = _logit([[0.8, 0.4], [0.3, 0.9]]), jnp.array([[0, 0], [0, IGNORED]])
    np.testing.assert_allclose(_dice_losses(logits, mask), [0.5], rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda x: dice_losses(x, mask)[0]))(logits)[..., 0]
    expected = np.array([[0.8 * 0.2, 0.4 * 0.6], [0.3 * 0.7, 0]]) / 3
    np.testing.assert_allclose(gradient, expected, rtol=1e-4)


@pytest.mark.parametrize("classes", [1, 3])
def test_an_empty_mask_teaches_to_predict_nothing(classes):
    empty = jnp.zeros((64, 64), jnp.uint8)

    def dice(logits):
        return _dice_losses(logits, empty).mean()

    logits = jnp.zeros((64, 64, classes))
    before = float(dice(logits))
    gradient = jax.jit(jax.grad(dice))
    for _ in range(3):
        logits = logits - 64 * 64 * gradient(logits)
    assert float(dice(logits)) < 0.9 * before


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4]))
def test_ignored_pixels_have_no_influence_and_everything_is_finite(seed, classes):
    rng = np.random.default_rng(seed)
    mask = rng.choice([*range(max(classes, 2)), IGNORED], (6, 6)).astype(np.uint8)
    logits = 50 * rng.standard_normal((6, 6, classes)).astype(np.float32)
    other = np.where(mask[..., None] == IGNORED, 1000 - logits, logits)
    assert float(_loss(logits, mask)) == pytest.approx(float(_loss(other, mask)), rel=1e-5)
    gradient = np.asarray(_gradient(other, mask))
    assert np.isfinite(gradient).all()
    assert not gradient[mask == IGNORED].any()
    assert 0 <= float(_loss(logits, mask)) < np.inf


@pytest.mark.parametrize("classes", [1, 3])
def test_an_example_of_ignored_pixels_alone_is_silent(classes):
    mask, logits = jnp.full((4, 4), IGNORED, jnp.uint8), jnp.ones((4, 4, classes))
    assert float(_loss(logits, mask)) == 0
    np.testing.assert_array_equal(_gradient(logits, mask), 0)


def test_two_classes_by_softmax_equal_one_by_sigmoid():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((5, 5, 2)).astype(np.float32)
    mask = rng.integers(0, 2, (5, 5))
    binary = (logits[..., 1:] - logits[..., :1]).astype(np.float32)
    assert float(_loss(logits, mask)) == pytest.approx(float(_loss(binary, mask)), rel=1e-5)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"\(4, 4, 1\) and \(4, 5\)"):
        segmentation_loss(jnp.zeros((4, 4, 1)), jnp.zeros((4, 5)))
    with pytest.raises(ValueError, match="dice_weight=-1"):
        segmentation_loss(jnp.zeros((4, 4, 1)), jnp.zeros((4, 4)), -1)
    with pytest.raises(ValueError, match="give 2 numbers"):
        segmentation_loss(jnp.zeros((4, 4, 1)), jnp.zeros((4, 4)), 1, jnp.ones(1))
