"""Combinations that would train something other than their name says are refused, by name."""

from dataclasses import replace

import pytest

from ufm_jax.config.compatibility import check_method, check_personal
from ufm_jax.config.federation import (
    AggregationConfig,
    AlgorithmConfig,
    AttackConfig,
    CompressionConfig,
    FederationConfig,
    ParticipationConfig,
    PrivacyConfig,
)
from ufm_jax.config.training import OptimizerConfig
from ufm_jax.errors import ConfigError

SGD = OptimizerConfig(
    "sgd", learning_rate=1.0, scale_by_batch=False, betas=(0.0, 0.0), weight_decay=0.0
)
BASE = FederationConfig(client_state="reset", client_weights="uniform")
SCAFFOLD, FEDDYN, FEDNOVA, MIMELITE = (
    AlgorithmConfig(name) for name in ("scaffold", "feddyn", "fednova", "mimelite")
)
FEDSAM, OPTION_I = AlgorithmConfig("fedsam"), AlgorithmConfig("scaffold", option="I")
ADAPTIVE = PrivacyConfig("client", quantile=0.5)
TOP_K = CompressionConfig("top_k", error_feedback=False)
SECURE = AggregationConfig("secure_sum")
CLIPPED = AggregationConfig("norm_clipping")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algorithm": SCAFFOLD, "aggregation": SECURE}, "'secure_sum': scaffold needs"),
        ({"algorithm": FEDDYN, "aggregation": CLIPPED}, "'norm_clipping': feddyn needs"),
        ({"algorithm": SCAFFOLD, "privacy": PrivacyConfig("client")}, "clips updates: scaffold"),
        ({"algorithm": FEDDYN, "compression": TOP_K}, "set compression.error_feedback=True"),
        ({"algorithm": FEDNOVA, "aggregation": CLIPPED}, "a number of steps beside a direction"),
        ({"algorithm": FEDNOVA, "privacy": PrivacyConfig("client")}, "would treat both as one"),
        ({"algorithm": MIMELITE, "aggregation": CLIPPED}, "'mimelite' sends a gradient beside"),
        ({"algorithm": MIMELITE, "aggregation": SECURE}, "would treat both as one"),
        ({"client_state": "average", "aggregation": AggregationConfig("krum")}, "moments beside"),
        ({"client_state": "average", "attack": AttackConfig("noise", (0,))}, "attack.kind='noise'"),
        ({"client_state": "average", "compression": TOP_K}, "compression.kind='top_k'"),
        ({"algorithm": MIMELITE, "client_state": "persist"}, "client_state='persist': mimelite"),
        ({"aggregation": SECURE, "compression": TOP_K}, "masked updates are dense"),
        ({"algorithm": FEDSAM, "privacy": PrivacyConfig("example")}, "two gradients a step"),
        ({"algorithm": OPTION_I, "privacy": PrivacyConfig("example")}, "two gradients a step"),
        ({"aggregation": SECURE, "privacy": ADAPTIVE}, "would grow without end"),
        (
            {"participation": ParticipationConfig("by_size"), "client_weights": "examples"},
            "counts sizes twice",
        ),
    ],
)
def test_wrong_combinations_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        check_method(replace(BASE, **changes), SGD, SGD, ())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"algorithm": SCAFFOLD, "compression": replace(TOP_K, error_feedback=True)},
        {"algorithm": FEDDYN},
        {"algorithm": SCAFFOLD, "privacy": PrivacyConfig("example")},
        {"algorithm": FEDNOVA, "aggregation": AggregationConfig("median")},
        {"client_state": "average"},
        {"participation": ParticipationConfig("by_size")},
        {"aggregation": SECURE, "privacy": PrivacyConfig("client")},
    ],
)
def test_right_combinations_pass(changes):
    check_method(replace(BASE, **changes), SGD, SGD, ())


@pytest.mark.parametrize("patterns", [("heads/.*",), ("head/.*", "norm"), ("encoder",)])
def test_a_pattern_that_matches_no_parameter_is_refused_with_the_paths_there_are(patterns):
    blocks = {f"block_{i}": {"norm": {"scale": 0.0}} for i in range(12)}
    params = {"encoder": blocks, "head": {"kernel": 0.0}}
    known = r"encoder/block_\[0-9\]\+/norm/scale, head/kernel$"
    wrong = patterns[-1]
    with pytest.raises(ConfigError, match=rf"federation\.personal: '{wrong}' matches no.*{known}"):
        check_personal(patterns, params)
    check_personal(("head/.*", ".*norm.*", "encoder/block_[0-9]+/norm/scale"), params)


@pytest.mark.parametrize("name", ["feddyn", "mimelite"])
@pytest.mark.parametrize(
    "server",
    [{"name": "fedadam", "betas": (0.9, 0.99)}, {"learning_rate": 0.5}, {"betas": (0.9, 0.0)}],
)
def test_methods_with_a_server_step_of_their_own_take_no_other(name, server):
    config = replace(BASE, algorithm=AlgorithmConfig(name))
    with pytest.raises(ConfigError, match=f"server_optimizer: {name} has a server step"):
        check_method(config, SGD, replace(SGD, **server), ())


def test_fednova_asks_for_sgd():
    config = replace(BASE, algorithm=FEDNOVA)
    with pytest.raises(ConfigError, match=r"set client_optimizer\.name='sgd'"):
        check_method(config, replace(SGD, name="adamw"), SGD, ())


@pytest.mark.parametrize(
    "name", ["fedadam", "fedyogi", "fedadagrad", "adam", "adamw", "yogi", "adagrad"]
)
def test_an_adaptive_server_at_the_defaults_of_a_plain_one_is_refused(name):
    with pytest.raises(ConfigError, match="a step of the same length for every parameter"):
        check_method(BASE, SGD, replace(SGD, name=name), ())
    chosen = replace(SGD, name=name, betas=(0.9, 0.99), eps=1e-3, learning_rate=0.01)
    check_method(BASE, SGD, chosen, ())


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"algorithm": AlgorithmConfig("ditto")}, "algorithm.name"),
        ({"algorithm": AlgorithmConfig("fedprox")}, "algorithm.name"),
        ({"aggregation": AggregationConfig("krum")}, "aggregation.rule"),
        ({"compression": TOP_K}, "compression.kind"),
        ({"privacy": PrivacyConfig("client")}, "privacy.level"),
    ],
)
def test_local_training_sends_nothing_that_could_be_treated(changes, key):
    with pytest.raises(ConfigError, match=f"federation.{key}: where every parameter stays"):
        check_method(replace(BASE, **changes), SGD, SGD, (".*",))
