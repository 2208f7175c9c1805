"""The attention with a written derivative against automatic differentiation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import AxisType, PartitionSpec

from ufm_jax.models.attention import attention
from ufm_jax.models.execution import Execution
from ufm_jax.models.vit import Blocks


def textbook(query, key, value):
    logits = jnp.einsum("bnhd,bmhd->bhnm", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(logits), value)


def qkv(queries=7):
    rng = np.random.Generator(np.random.Philox(0))
    query, key, value = 2 * rng.standard_normal((3, 2, 7, 3, 4), np.float32)
    return query[:, :queries], key, value


@partial(jax.jit, static_argnums=0)
def gradients(function, *arguments):
    """Of a sum with unequal weights, so that no term cancels."""

    def weighted(*a):
        out = function(*a).astype(jnp.float32)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape))

    return jax.grad(weighted, argnums=tuple(range(len(arguments))))(*arguments)


def assert_close(left, right, tolerance):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


@pytest.mark.parametrize("queries", [7, 5])
def test_value_and_gradient_are_those_of_automatic_differentiation(queries):
    arguments = qkv(queries=queries)
    assert_close(attention(*arguments), textbook(*arguments), 1e-6)
    assert_close(gradients(attention, *arguments), gradients(textbook, *arguments), 2e-6)


def test_gradient_matches_to_float64_rounding_in_float64():
    with jax.enable_x64(True):
        arguments = tuple(a.astype(np.float64) for a in qkv())
        assert attention(*arguments).dtype == jnp.float64
        assert_close(gradients(attention, *arguments), gradients(textbook, *arguments), 1e-13)


def test_bfloat16_stays_bfloat16_and_close():
    arguments = qkv()
    rounded = tuple(a.astype(jnp.bfloat16) for a in arguments)
    assert attention(*rounded).dtype == jnp.bfloat16
    assert {g.dtype for g in gradients(attention, *rounded)} == {jnp.dtype("bfloat16")}
    exact = tuple(a.astype(jnp.float32) for a in rounded)
    assert_close(attention(*rounded), textbook(*exact), 1e-2)
    assert_close(gradients(attention, *rounded), gradients(textbook, *exact), 2e-2)


def test_large_logits_do_not_overflow():
    query, key, value = qkv()
    outputs = attention(1e4 * query, key, value), *gradients(attention, 1e4 * query, key, value)
    assert all(jnp.isfinite(a).all() for a in outputs)


def test_vmapped_gradient_equals_a_loop_over_clients():
    clients = [tuple(a * (1 + k) for a in qkv()) for k in range(3)]
    stacked = tuple(np.stack(a) for a in zip(*clients, strict=True))
    vmapped = jax.vmap(lambda *a: gradients(attention, *a))(*stacked)
    looped = [gradients(attention, *a) for a in clients]
    assert_close(vmapped, tuple(np.stack(a) for a in zip(*looped, strict=True)), 1e-6)


def test_gradient_is_right_inside_vmap_inside_shard_map():
    if jax.device_count() < 2:
        pytest.skip("one device: nothing to shard over (set JAX_NUM_CPU_DEVICES)")
    mesh = jax.make_mesh((2,), ("clients",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    spec = PartitionSpec("clients")
    stacked = tuple(np.stack([a, 2 * a, -a, a + 1]) for a in qkv())
    per_client = jax.vmap(lambda *a: gradients(attention, *a))
    sharded = jax.jit(jax.shard_map(per_client, mesh=mesh, in_specs=spec, out_specs=spec))
    expected = jax.vmap(lambda *a: gradients(textbook, *a))(*stacked)
    assert_close(sharded(*stacked), expected, 2e-6)


@pytest.mark.parametrize("real", [7, 5])
def test_tokens_that_only_fill_change_nothing(real):
    query, key, value = qkv()

    def filled(query, key, value):
        return attention(query, key, value, real=real)[:, :real]

    def cut(*arguments):
        return textbook(*(a[:, :real] for a in arguments))

    assert_close(filled(query, key, value), cut(query, key, value), 1e-6)
    assert_close(gradients(filled, query, key, value), gradients(cut, query, key, value), 2e-6)


@pytest.mark.parametrize("tokens", [197, 50])
@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("kernel", ["auto", "cudnn"])
def test_fused_attention_is_differentiated_for_gpus_in_any_number_of_lanes(
    kernel, lanes, tokens, monkeypatch
):
    monkeypatch.setattr("ufm_jax.models.attention.cuda_installed", lambda: True)
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    blocks = Blocks(1, heads=2, execution=Execution(jnp.bfloat16, attention_kernel=kernel))
    inputs = jax.ShapeDtypeStruct((lanes, 2, tokens, 16), jnp.bfloat16)
    params = jax.eval_shape(
        jax.vmap(lambda x: blocks.init(jax.random.key(0), x), axis_size=lanes), inputs
    )

    def gradient(params, inputs):
        return jax.grad(lambda p: blocks.apply(p, inputs)[0].astype(jnp.float32).sum())(params)

    traced = jax.jit(jax.vmap(gradient)).trace(params, inputs)
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    even = tokens + tokens % 2
    assert f"tensor<{2 * lanes}x{even}x2x8xbf16>" in program
    assert program.count("fmhaSoftmaxBackward(") == 1
    if kernel == "auto":
        assert "fmha" not in traced.lower(lowering_platforms=("cpu",)).as_text()
