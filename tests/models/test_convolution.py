"""The 3 x 3 convolution against XLA's own, forward and backward, alone and under vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.models.convolution import convolve


def _by_xla(images, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers)


@pytest.fixture(scope="module")
def operands():
    rng = np.random.Generator(np.random.Philox(0))
    return rng.standard_normal((2, 3, 5, 7, 4), np.float32), rng.standard_normal(
        (2, 3, 3, 4, 6), np.float32
    )


def _with_gradients(function):
    def loss(images, kernel):
        result = function(images, kernel)
        return jnp.sum(jnp.sin(result)), result

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)


def test_it_equals_xlas_convolution_in_value_and_gradients_for_every_lane(operands):
    ours = jax.jit(jax.vmap(_with_gradients(convolve)))(*operands)
    for lane in range(2):
        expected = jax.jit(_with_gradients(_by_xla))(*(a[lane] for a in operands))
        jax.tree.map(
            lambda a, b, lane=lane: np.testing.assert_allclose(a[lane], b, atol=2e-4),
            ours,
            expected,
        )


def test_low_precision_stays_close_and_keeps_its_type(operands):
    images, kernel = (a[0] for a in operands)
    low = jax.jit(convolve)(images.astype(jnp.bfloat16), kernel)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(np.float32), _by_xla(images, kernel), atol=0.15)


def test_no_convolution_is_in_the_program_of_several_lanes(operands):
    def programs(function):
        return jax.jit(jax.vmap(_with_gradients(function))).lower(*operands).as_text()

    assert "stablehlo.convolution" in programs(_by_xla)
    assert "stablehlo.convolution" not in programs(convolve)
