"""Layers whose forward or derivative is written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import AxisType, PartitionSpec

from ufm_jax.models.layers import Dense, LayerNorm, drop_path, gelu, matmul


def normal(shape, seed=0):
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape, np.float32)


def test_gelu_and_its_derivative_are_the_exact_ones():
    x = np.linspace(-30, 30, 2001)
    normal = scipy.stats.norm
    with jax.enable_x64(True):
        value, pull = jax.vjp(gelu, jnp.asarray(x))
        (derivative,) = pull(jnp.ones_like(value))
    np.testing.assert_allclose(value, x * normal.cdf(x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(derivative, normal.cdf(x) + x * normal.pdf(x), atol=1e-14)


def test_gelu_of_bfloat16_is_rounded_once():
    x = jnp.linspace(-4, 4, 101).astype(jnp.bfloat16)
    exact = jax.nn.gelu(x.astype(jnp.float32), approximate=False)
    assert gelu(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(gelu(x), exact.astype(jnp.bfloat16))


def test_matmul_has_the_gradient_of_a_matrix_product():
    rows, kernel, weights = (
        normal(shape, seed) for seed, shape in enumerate([(5, 3), (3, 4), (5, 4)])
    )
    d_rows, d_kernel = jax.grad(lambda r, k: jnp.sum(matmul(r, k) * weights), (0, 1))(rows, kernel)
    np.testing.assert_allclose(d_rows, weights @ kernel.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(d_kernel, rows.T @ weights, rtol=1e-5, atol=1e-6)


def test_matmul_accumulates_bfloat16_products_in_float32():
    # 4096 ones: a bfloat16 accumulator stops at 256.
    rows, kernel = jnp.ones((2, 4096), jnp.bfloat16), jnp.ones((4096, 1))
    assert matmul(rows, kernel).dtype == jnp.float32
    np.testing.assert_array_equal(matmul(rows, kernel), 4096.0)
    d_kernel = jax.grad(lambda k: jnp.sum(matmul(jnp.ones((4096, 2), jnp.bfloat16), k)))(
        jnp.ones((2, 1))
    )
    assert d_kernel.dtype == jnp.float32
    np.testing.assert_array_equal(d_kernel, 4096.0)


@pytest.mark.parametrize("lead", [(6,), (2, 3), (2, 1, 3)])
def test_dense_does_not_depend_on_leading_axes(lead):
    x = normal((6, 5))
    layer = Dense(4)
    variables = layer.init(jax.random.key(1), x)
    expected = x @ variables["params"]["kernel"]
    result = layer.apply(variables, x.reshape(*lead, 5))
    np.testing.assert_allclose(result.reshape(6, 4), expected, rtol=1e-5, atol=1e-6)


def test_replicated_weights_in_a_shard_are_an_error_until_cast_to_varying():
    """Uncast, ``jax.grad`` would sum their gradient over shards without a word."""
    if jax.device_count() < 2:
        pytest.skip("one device: nothing to shard over (set JAX_NUM_CPU_DEVICES)")
    mesh = jax.make_mesh((2,), ("clients",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    x, kernel = (normal(shape, seed) for seed, shape in enumerate([(4, 5), (5, 3)]))

    def gradient(k, a):
        return jax.grad(lambda w: jnp.sum(jnp.square(matmul(a, w))))(k)[None]

    def cast_gradient(k, a):
        return gradient(jax.lax.pcast(k, "clients", to="varying"), a)

    specs = {"in_specs": (PartitionSpec(), PartitionSpec("clients"))}
    specs["out_specs"] = PartitionSpec("clients")
    with pytest.raises(ValueError, match=r"[Cc]ustom VJP"):
        jax.eval_shape(jax.shard_map(gradient, mesh=mesh, **specs), kernel, x)
    sharded = jax.jit(jax.shard_map(cast_gradient, mesh=mesh, **specs))(kernel, x)
    expected = jnp.concatenate([gradient(kernel, x[:2]), gradient(kernel, x[2:])])
    np.testing.assert_allclose(sharded, expected, rtol=1e-5, atol=1e-5)


def test_layer_norm_is_exact_far_from_zero():
    # E[x^2] - E[x]^2 in float32 would leave no digit of the variance here.
    x = 1e3 + normal((3, 64))
    y = LayerNorm().apply({"params": {"scale": jnp.ones(64), "bias": jnp.zeros(64)}}, x)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    np.testing.assert_allclose(y, exact, atol=5e-4)


def test_layer_norm_of_bfloat16_is_evaluated_in_float32():
    x = (100 + normal((3, 64))).astype(jnp.bfloat16)
    variables = {"params": {"scale": jnp.ones(64), "bias": jnp.zeros(64)}}
    low = LayerNorm(jnp.dtype("bfloat16")).apply(variables, x)
    exact = LayerNorm().apply(variables, x.astype(jnp.float32))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_array_equal(low, exact.astype(jnp.bfloat16))


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    branch = jnp.ones((20_000, 2, 3))
    dropped = drop_path(branch, 0.3, jax.random.key(0))
    assert set(np.unique(dropped.reshape(20_000, -1).std(axis=1))) == {0.0}
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)
    assert float((dropped == 0).mean()) == pytest.approx(0.3, abs=0.02)
