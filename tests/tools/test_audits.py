"""Attacks find what is there to be found, and nothing where there is nothing."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tools.audits.inversion import Attack, invert, matched, peak_signal
from tools.audits.leak import as_sent, attack_message, loss_of_views, view_of
from tools.audits.membership import MEMBERSHIP_FILE, audit_members
from tools.audits.picture import write_picture
from ufm_jax.config.federation import FederationConfig, PrivacyConfig
from ufm_jax.config.model import ModelConfig
from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.errors import DataError
from ufm_jax.fed.keys import fold
from ufm_jax.objectives.reconstruction import init_params

MODEL = ModelConfig(
    size="xs",
    image_size=16,
    patch_size=8,
    channels=1,
    mask_ratio=0.5,
    decoder_width=32,
    decoder_depth=1,
    decoder_heads=2,
    normalise_target=False,
)


def pictures(count=1, size=16):
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    centre = rng.integers(4, size - 4, (count, 2, 1, 1))
    bright = np.hypot(rows - centre[:, 0], columns - centre[:, 1]) < 4
    return np.where(bright, 200.0, 60.0)[..., None].astype(np.float32)


def test_a_gradient_that_is_the_picture_gives_the_picture():
    true = pictures()

    def gradient_of(x):
        return {"w": x.mean(axis=0) / 255 - 0.5}

    seen = gradient_of(jnp.asarray(true))
    found = invert(gradient_of, seen, true.shape, jax.random.key(0), Attack(600, 0.05, 0.0))
    assert found.cosine > 0.999
    assert np.corrcoef(found.pictures.ravel(), true.ravel())[0, 1] > 0.99


@pytest.mark.slow
def test_what_is_sent_is_what_the_configuration_says():
    true, key = jnp.asarray(pictures(2)), jax.random.key(1)
    params, sent = init_params(MODEL, key), {}
    view = view_of(MODEL, true, key)(true)
    for name, privacy in (
        ("plain", PrivacyConfig()),
        ("client", PrivacyConfig("client", clip=1e-3)),
        ("example", PrivacyConfig("example", clip=1e-3, noise_multiplier=0.0)),
    ):
        federation = FederationConfig(batch_size=2, privacy=privacy, client_weights="uniform")
        config = PretrainConfig(model=MODEL, federation=federation)
        sent[name] = jax.jit(partial(as_sent, config, params, key))(view)
    plain = jax.jit(jax.grad(lambda p: loss_of_views(MODEL)(p, view, None).mean()))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), sent["plain"], plain
    )
    assert float(optax.tree.norm(sent["client"])) == pytest.approx(1e-3, rel=1e-4)
    assert float(optax.tree.norm(sent["example"])) <= 1e-3 + 1e-7


@pytest.mark.slow
def test_a_step_of_pretraining_leaks_and_noise_stops_it():
    """A hundredth of the clipping norm on each of 10^5 numbers drowns the gradient."""
    true, key = pictures(), jax.random.key(1)
    params = init_params(MODEL, key)
    scores = {}
    for level in ("none", "example"):
        privacy = PrivacyConfig(level, clip=1.0, noise_multiplier=0.05)
        federation = FederationConfig(batch_size=1, privacy=privacy)
        config = PretrainConfig(model=MODEL, federation=federation)
        found = attack_message(
            level,
            MODEL,
            params,
            true,
            1,
            key,
            Attack(500),
            lambda view, c=config: as_sent(c, params, fold(key, "noise"), view),
        )
        scores[level] = found
    assert scores["none"].cosine > 0.95
    correlation = [
        np.corrcoef(scores[level].pictures.ravel(), true.ravel())[0, 1] for level in scores
    ]
    assert correlation[0] > 0.7
    assert correlation[1] < 0.4


def test_pairs_are_the_closest():
    true = np.stack([np.full((2, 2, 1), value) for value in (10.0, 90.0, 50.0)])
    np.testing.assert_array_equal(matched(true[[2, 0, 1]] + 1, true), [1, 2, 0])


def test_peak_signal_by_hand():
    """An error of 25.5 everywhere: 20 log10(255 / 25.5) = 20 dB."""
    zero = np.zeros((1, 4, 4, 1), np.float32)
    assert peak_signal(zero + 25.5, zero)[0] == pytest.approx(20.0)


def table(path, sure):
    lines = [f"i{k}.png,site,{k},mass,mass,{p},{1 - p}" for k, p in enumerate(sure)]
    head = "image,client,group,label,called,prob_mass,prob_cyst"
    path.write_text("\n".join([head, *lines]) + "\n")


def test_members_are_told_by_how_sure_the_model_is(tmp_path):
    """Of 3 x 3 pairs of member and other, the member is surer in 8."""
    table(tmp_path / "predictions_train.csv", [0.9, 0.8, 0.6])
    table(tmp_path / "predictions_test.csv", [0.7, 0.5, 0.4])
    text = audit_members(tmp_path)
    found = json.loads((tmp_path / MEMBERSHIP_FILE).read_text())
    assert found["auroc"]["value"] == pytest.approx(8 / 9)
    # From 0.6 on all members are called, and one other.
    assert found["advantage"] == pytest.approx(2 / 3)
    assert found["members"] == found["others"] == 3
    assert "0.889" in text


def test_without_the_training_predictions_it_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"predictions_train\.csv"):
        audit_members(tmp_path)


def test_the_picture_has_a_cell_for_each(tmp_path):
    from PIL import Image

    from tools.audits.leak import Leak

    true = pictures(2)
    leak = Leak("gradient itself", true, np.array([10.0, 20.0]), 0.9)
    with Image.open(write_picture(tmp_path, true, [leak, leak])) as image:
        assert image.size[0] > 3 * 224
        assert image.size[1] > 2 * 224
