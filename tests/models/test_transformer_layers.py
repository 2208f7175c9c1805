"""Layers whose forward or derivative is written out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import AxisType, PartitionSpec

from ufm_jax.models.layers import (
    LAYER_NORM_EPSILON,
    Affine,
    Dense,
    LayerNorm,
    add_bias,
    drop_path,
    fold,
    gelu,
    matmul,
    normalise,
)


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
    d_rows, d_kernel = jax.grad(lambda r, k: jnp.sum(matmul(r, k)[0] * weights), (0, 1))(
        rows, kernel
    )
    np.testing.assert_allclose(d_rows, weights @ kernel.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(d_kernel, rows.T @ weights, rtol=1e-5, atol=1e-6)


def test_matmul_accumulates_bfloat16_products_in_float32():
    # 4096 ones: a bfloat16 accumulator stops at 256.
    (product,) = matmul(jnp.ones((2, 4096), jnp.bfloat16), jnp.ones((4096, 1)))
    assert product.dtype == jnp.bfloat16
    np.testing.assert_array_equal(product, 4096.0)
    d_kernel = jax.grad(lambda k: jnp.sum(matmul(jnp.ones((4096, 2), jnp.bfloat16), k)[0]))(
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
        return jax.grad(lambda w: jnp.sum(jnp.square(matmul(a, w)[0])))(k)[None]

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


def test_normalise_has_the_gradient_of_automatic_differentiation():
    def plain(x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + LAYER_NORM_EPSILON)

    x, weights = 3 + 2 * normal((2, 3, 64)), normal((2, 3, 64), 1)
    gradient, expected = (
        jax.grad(lambda a, f=f: jnp.sum(f(a) * weights))(x) for f in (normalise, plain)
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("scaled", [True, False])
def test_a_norm_folded_into_a_dense_layer_is_the_norm_and_then_the_layer(parts, scaled):
    x, shift, scale = (normal(shape, seed) for seed, shape in enumerate([(2, 3, 8), (8,), (8,)]))
    params = Dense(6).init(jax.random.key(0), x)["params"] | {"bias": normal((6,), 3)}
    weights = normal((2, 3, 6), 4)

    def folded(norm, params):
        products, biases = Dense(6).apply({"params": params}, x, parts, norm, method="parts")
        outputs = list(map(add_bias, products, biases))
        return jnp.sum(jnp.concatenate(outputs, axis=-1) * weights)

    def plain(norm, params):
        outputs = (x * (norm.scale if scaled else 1) + norm.shift) @ params["kernel"] + params[
            "bias"
        ]
        return jnp.sum(outputs * weights)

    (one, ours), (other, theirs) = (
        jax.value_and_grad(f, (0, 1))(Affine(scale if scaled else None, shift), params)
        for f in (folded, plain)
    )
    assert float(one) == pytest.approx(float(other), rel=1e-5)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_folding_reads_the_kernel_before_an_optimiser_can_write_over_it():
    """Its gradient waits for the norm's, which reads it; otherwise XLA copies it first."""
    norm, kernel, bias = Affine(jnp.ones(3), jnp.ones(3)), jnp.ones((3, 2)), jnp.ones(2)
    program = jax.make_jaxpr(lambda k: jax.vjp(partial(fold, 1), norm, k, bias)[1]((k, bias)))(
        kernel
    )
    barriers = [e for e in program.eqns if e.primitive.name == "optimization_barrier"]
    assert {v.aval.shape for v in barriers[-1].outvars} == {(3,), (3, 2)}


@pytest.mark.parametrize("shape", [(5, 3), (2, 5, 3), (2, 2, 5, 3)])
def test_a_bias_gradient_is_summed_in_float32(shape):
    rows = jnp.full((1000, *shape), 1.0, jnp.bfloat16)
    gradient = jax.grad(lambda b: add_bias(rows, b).astype(jnp.float32).sum())(jnp.zeros(3))
    np.testing.assert_array_equal(gradient, rows.size / 3)


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    branch = jnp.ones((20_000, 2, 3))
    dropped = drop_path(branch, 0.3, jax.random.key(0))
    assert set(np.unique(dropped.reshape(20_000, -1).std(axis=1))) == {0.0}
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)
    assert float((dropped == 0).mean()) == pytest.approx(0.3, abs=0.02)
