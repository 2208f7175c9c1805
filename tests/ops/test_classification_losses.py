"""Classification losses: numbers by hand, smoothing, unknown labels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ufm_jax.ops.classification_losses import (
    class_targets,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)

_class_targets = jax.jit(class_targets, static_argnums=(1, 2))
_sigmoid_cross_entropy = jax.jit(sigmoid_cross_entropy)
_softmax_cross_entropy = jax.jit(softmax_cross_entropy)
NAN = float("nan")


def test_smoothed_targets_by_hand():
    np.testing.assert_allclose(
        _class_targets(jnp.array(2), 4, 0.1), [0.025, 0.025, 0.925, 0.025], rtol=1e-6
    )
    np.testing.assert_array_equal(_class_targets(jnp.array(0), 3), [1, 0, 0])


def test_no_label_is_no_loss_and_no_gradient():
    targets = _class_targets(jnp.array(-1), 3, 0.1)
    value, gradient = jax.value_and_grad(_softmax_cross_entropy)(jnp.array([1.0, 2, 3]), targets)
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, 0)


def test_softmax_cross_entropy_by_hand():
    logits, targets = jnp.log(jnp.array([0.2, 0.5, 0.3])), jnp.array([0.0, 0.75, 0.25])
    expected = -(0.75 * np.log(0.5) + 0.25 * np.log(0.3))
    assert float(_softmax_cross_entropy(logits, targets)) == pytest.approx(expected, rel=1e-6)
    weighted = _softmax_cross_entropy(logits, targets, jnp.array([1.0, 2.0, 4.0]))
    expected = -(2 * 0.75 * np.log(0.5) + 4 * 0.25 * np.log(0.3))
    assert float(weighted) == pytest.approx(expected, rel=1e-6)


def test_sigmoid_cross_entropy_by_hand():
    # p = (1/2, 3/4, 1/4), labels yes, unknown, no; the mean is over two.
    logits, labels = jnp.array([0.0, np.log(3), -np.log(3)]), jnp.array([1.0, NAN, 0.0])
    loss = _sigmoid_cross_entropy(logits, labels)
    assert float(loss) == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2, rel=1e-6)
    weighted = _sigmoid_cross_entropy(logits, labels, jnp.array([3.0, 1.0, 5.0]))
    assert float(weighted) == pytest.approx(-(3 * np.log(0.5) + np.log(0.75)) / 2, rel=1e-6)


def test_unknown_labels_have_no_gradient_and_the_known_ones_theirs():
    logits, labels = jnp.array([0.0, 90.0, -90.0]), jnp.array([1.0, NAN, 1.0])
    gradient = jax.jit(jax.grad(_sigmoid_cross_entropy))(logits, labels)
    np.testing.assert_allclose(gradient, [-0.25, 0, -0.5], atol=1e-6)
    nothing = jnp.full(3, NAN)
    value, gradient = jax.value_and_grad(_sigmoid_cross_entropy)(logits, nothing)
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, 0)


def test_both_equal_optax_on_random_examples():
    rng = np.random.default_rng(0)
    logits = 5 * rng.standard_normal((20, 6)).astype(np.float32)
    targets = rng.dirichlet(np.ones(6), 20).astype(np.float32)
    np.testing.assert_allclose(
        jax.vmap(_softmax_cross_entropy)(logits, targets),
        optax.softmax_cross_entropy(logits, targets),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        jax.vmap(_sigmoid_cross_entropy)(logits, targets),
        optax.sigmoid_binary_cross_entropy(logits, targets).mean(axis=-1),
        rtol=1e-5,
    )


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="smoothing=1"):
        _class_targets(jnp.array(0), 3, 1.0)
    with pytest.raises(ValueError, match=r"softmax_cross_entropy.*\(3,\), \(2,\)"):
        _softmax_cross_entropy(jnp.zeros(3), jnp.zeros(2))
    with pytest.raises(ValueError, match="sigmoid_cross_entropy"):
        _sigmoid_cross_entropy(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
