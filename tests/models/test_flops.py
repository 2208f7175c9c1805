"""The analytic count of operations against known figures and XLA's own count."""

import jax
import jax.numpy as jnp
import pytest

from ufm_jax.models.flops import mae_forward_flops, training_flops
from ufm_jax.models.mae import MAE
from ufm_jax.models.sizes import SIZES, EncoderSize


def counted_by_xla(function, *arguments):
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def test_vit_b_mae_is_58_gflop_an_image():
    flops = training_flops(mae_forward_flops(SIZES["b"], 196, 49, 768))
    assert flops / 1e9 == pytest.approx(58.6, rel=0.01)


def test_mae_count_agrees_with_xla():
    size = EncoderSize(width=256, depth=2, heads=4)
    model = MAE(size, (8, 8), decoder_width=128, decoder_depth=2, decoder_heads=4)
    patches, restore_ids = jnp.zeros((4, 64, 192)), jnp.tile(jnp.arange(64), (4, 1))
    arguments = patches, restore_ids[:, :16], restore_ids
    params = jax.eval_shape(model.init, jax.random.key(0), *arguments)

    def loss(p):
        return jnp.sum(jnp.square(model.apply(p, *arguments)))

    forward = 4 * mae_forward_flops(size, 64, 16, 192, decoder_width=128, decoder_depth=2)
    assert counted_by_xla(loss, params) == pytest.approx(forward, rel=0.03)
    training = training_flops(forward)
    assert counted_by_xla(jax.grad(loss), params) == pytest.approx(training, rel=0.03)
