"""A method that is named in a configuration is the one that is built."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ufm_jax.config.compatibility import check_clients, check_method
from ufm_jax.config.federation import (
    AggregationConfig,
    AlgorithmConfig,
    AsyncConfig,
    AttackConfig,
    CompressionConfig,
    FederationConfig,
    ParticipationConfig,
    PrivacyConfig,
)
from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.config.training import OptimizerConfig, PlacementConfig, ScheduleConfig
from ufm_jax.errors import ConfigError
from ufm_jax.fed.aggregate.krum import multi_krum
from ufm_jax.fed.aggregate.mean import mean
from ufm_jax.fed.aggregate.stacked import Rule, stacked
from ufm_jax.fed.algorithms.ditto import ditto
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.algorithms.feddyn import feddyn
from ufm_jax.fed.algorithms.fednova import fednova
from ufm_jax.fed.algorithms.fedopt import adaptive
from ufm_jax.fed.algorithms.fedprox import proximal
from ufm_jax.fed.algorithms.fedsam import sharpness_aware
from ufm_jax.fed.algorithms.mimelite import mimelite
from ufm_jax.fed.algorithms.scaffold import scaffold
from ufm_jax.fed.asynchronous.federation import AsyncFederation
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.gradient import mean_gradient
from ufm_jax.fed.privacy.client_level import Adaptive, private_updates
from ufm_jax.fed.privacy.example_level import private_gradient
from ufm_jax.fed.updates.attacks import inner_product, sign_flip
from ufm_jax.fed.updates.compression import compressed, quantise
from ufm_jax.fed.updates.transform import with_transforms
from ufm_jax.train.algorithm import Optimizers, make_aggregator, make_algorithm, make_gradient
from ufm_jax.train.federation import build_federation
from ufm_jax.train.optimizers import make_optimizer, warmup_cosine

SIZES = np.array([12, 5, 8, 3, 9])
LOCAL = OptimizerConfig(
    name="sgd", learning_rate=0.1, scale_by_batch=False, betas=(0.5, 0.0), weight_decay=0.0
)
ADDS = replace(LOCAL, learning_rate=1.0, betas=(0.0, 0.0))
ONE_DEVICE = PlacementConfig(devices=1)
CONSTANT = ScheduleConfig(0)
BASE = FederationConfig(client_state="reset", client_weights="uniform", cohort_size=4)


def halving(progress):
    return 1 / (1 + progress)


SGD, ONE = optax.sgd(0.1, 0.5), optax.sgd(1.0)
PLAIN = fedavg(SGD, lr_factor=halving)


def optimizers(local=LOCAL, server=ADDS):
    return Optimizers(make_optimizer(local, 4), make_optimizer(server, 4), local, halving)


def loss(params, batch, keys):
    del keys
    return (jnp.tanh(batch["x"] @ params["w"]) @ params["v"] - 1) ** 2


def trained(algorithm, aggregator, gradient):
    """The server's parameters and what client 1 would use, after two rounds."""
    run = Federation(
        loss,
        algorithm,
        np.concatenate([[0], np.cumsum(SIZES)]),
        Batching(4),
        cohort_size=4,
        client_weights="uniform",
        aggregator=aggregator,
        gradient=gradient,
    )
    state = after(run, 2)
    return state.server.params, run.client_params(state, 1)


def problem():
    """Examples, and parameters to start from."""
    rng = np.random.default_rng(0)
    examples = {"x": rng.normal(size=(SIZES.sum(), 3)).astype(np.float32)}
    params = {"w": rng.normal(size=(3, 4)), "v": rng.normal(size=4)}
    return examples, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


def after(run, rounds):
    """The federation's state after rounds."""
    examples, params = problem()
    state, examples = run.init(params), run.replicate(examples)
    for r in range(rounds):
        state, _ = run.run_round(state, examples, run.plan(r))
    return state


CASES = {
    "fedavg": (BASE, PLAIN),
    "fedprox": (
        replace(BASE, algorithm=AlgorithmConfig("fedprox", mu=0.3)),
        fedavg(SGD, gradient=proximal(0.3), lr_factor=halving),
    ),
    "fedsam": (
        replace(BASE, algorithm=AlgorithmConfig("fedsam", rho=0.2)),
        fedavg(SGD, gradient=sharpness_aware(0.2), lr_factor=halving),
    ),
    "scaffold": (
        replace(BASE, algorithm=AlgorithmConfig("scaffold", option="I")),
        scaffold(PLAIN, option="I"),
    ),
    "fednova": (
        replace(BASE, algorithm=AlgorithmConfig("fednova")),
        fednova(optax.sgd(0.1, 0.5), 0.5, lr_factor=halving),
    ),
    "feddyn": (
        replace(BASE, algorithm=AlgorithmConfig("feddyn", alpha=0.2)),
        feddyn(PLAIN, 0.2),
    ),
    "mimelite": (
        replace(BASE, algorithm=AlgorithmConfig("mimelite")),
        mimelite(SGD, lr_factor=halving),
    ),
    "ditto": (
        replace(BASE, algorithm=AlgorithmConfig("ditto", strength=0.4)),
        ditto(PLAIN, SGD, 0.4, lr_factor=halving),
    ),
    "compressed": (
        replace(BASE, compression=CompressionConfig("quantise", bits=4)),
        with_transforms(PLAIN, [compressed(quantise(4, unbiased=False), error_feedback=True)]),
    ),
    "attacked": (
        replace(BASE, attack=AttackConfig("sign_flip", (1, 2), 3.0)),
        with_transforms(PLAIN, [sign_flip((1, 2), 3.0)]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_algorithms_are_those_that_were_named(name):
    config, known = CASES[name]
    found = make_algorithm(config, optimizers(), (), 5)
    results = trained(found, make_aggregator(config, 5), make_gradient(config))
    jax.tree.map(np.testing.assert_array_equal, results, trained(known, mean(), mean_gradient()))


def test_private_updates_are_those_that_were_named():
    privacy = PrivacyConfig("client", clip=0.1, noise_multiplier=0.5, quantile=0.3)
    config = replace(BASE, privacy=privacy)
    found = make_algorithm(config, optimizers(), (), 5), make_aggregator(config, 5)
    transform = private_updates(0.1, 0.5, 1 / 4, Adaptive(0.3, 0.2, 0.5))
    known = with_transforms(PLAIN, [transform]), mean(renormalise=False)
    results = trained(*found, make_gradient(config)), trained(*known, mean_gradient())
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_private_gradients_are_those_that_were_named():
    privacy = PrivacyConfig("example", clip=0.2, noise_multiplier=0.3, microbatch=2)
    config = replace(BASE, batch_size=4, privacy=privacy)
    algorithm = make_algorithm(config, optimizers(), (), 5)
    found = trained(algorithm, make_aggregator(config, 5), make_gradient(config))
    known = trained(PLAIN, mean(), private_gradient(0.2, 0.3, 4, 2))
    jax.tree.map(np.testing.assert_array_equal, found, known)


@pytest.mark.parametrize("attacked", [False, True])
def test_rules_are_those_that_were_named(attacked):
    attack = AttackConfig("inner_product", (0,), 2.0) if attacked else AttackConfig()
    config = replace(BASE, cohort_size=0, attack=attack)
    collusion = {"attack": inner_product(2.0), "hostile": (0,)} if attacked else {}
    for rule, known in (("multi_krum", multi_krum(1)), ("mean", Rule())):
        chosen = replace(config, aggregation=AggregationConfig(rule, hostile=1))
        found = trained(PLAIN, make_aggregator(chosen, 5), mean_gradient())
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
            found,
            trained(PLAIN, stacked(known, **collusion), mean_gradient()),
        )


@pytest.mark.parametrize("kind", ["adam", "yogi", "adagrad"])
def test_adaptive_servers_take_their_numbers_from_the_optimizer(kind):
    config = OptimizerConfig(
        name=f"fed{kind}",
        learning_rate=0.3,
        scale_by_batch=False,
        betas=(0.8, 0.95),
        eps=0.01,
        weight_decay=0.0,
    )
    params = {"w": jnp.ones(3)}
    results = []
    for optimizer in (
        make_optimizer(config, 4),
        optax.chain(adaptive(kind, 0.8, 0.95, 0.01), optax.scale(-0.3)),
    ):
        updates, _ = optimizer.update({"w": jnp.arange(3.0)}, optimizer.init(params), params)
        results.append(updates["w"])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": AlgorithmConfig("scaffold")}, r"personal=\('w',\): scaffold shares all"),
        (
            {"privacy": PrivacyConfig("client"), "client_weights": "examples"},
            "set federation.client_weights='uniform'",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_refused(changes, message):
    personal = ("w",) if "personal" in message else ()
    with pytest.raises(ConfigError, match=message):
        check_method(replace(BASE, **changes), LOCAL, ADDS, personal)


def test_fednova_descends_with_the_optimizer_that_it_is_given():
    """Frozen parameters stay, and rates may differ: that is not undone by its normalisation."""
    frozen = optax.partition({"on": SGD, "off": optax.set_to_zero()}, {"w": "off", "v": "on"})
    config = replace(BASE, algorithm=AlgorithmConfig("fednova"))
    algorithm = make_algorithm(config, replace(optimizers(), client=frozen), (), 5)
    params, _ = trained(algorithm, mean(), mean_gradient())
    before, _ = trained(fedavg(optax.sgd(0.0)), mean(), mean_gradient())
    np.testing.assert_array_equal(params["w"], before["w"])
    assert (params["v"] != before["v"]).all()


def test_a_secure_sum_is_the_mean_of_clipped_updates():
    aggregation = AggregationConfig("secure_sum", norm=100.0)
    config = replace(BASE, aggregation=aggregation)
    found = trained(PLAIN, make_aggregator(config, 5), mean_gradient())
    known = trained(PLAIN, mean(), mean_gradient())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, known)
    colluding = replace(config, attack=AttackConfig("inner_product", (0,)))
    with pytest.raises(ConfigError, match="what secure aggregation hides"):
        check_method(colluding, LOCAL, ADDS, ())
    poisson = replace(
        config, participation=ParticipationConfig("poisson"), client_weights="examples"
    )
    with pytest.raises(ConfigError, match="needs a bound on"):
        check_method(poisson, LOCAL, ADDS, ())


def test_too_few_clients_for_a_rule_are_refused():
    config = replace(BASE, aggregation=AggregationConfig("bulyan", hostile=1))
    with pytest.raises(ConfigError, match="bulyan needs a cohort of 7 for that, and there are 4"):
        make_aggregator(config, 5)


def test_a_private_run_wants_the_mean():
    config = replace(BASE, aggregation=AggregationConfig("median"), privacy=PrivacyConfig("client"))
    with pytest.raises(ConfigError, match="use the mean"):
        check_method(config, LOCAL, ADDS, ())


def test_hostile_clients_are_named_and_exist():
    with pytest.raises(ConfigError, match="name both the attack and the hostile clients"):
        AttackConfig("sign_flip")
    config = replace(BASE, attack=AttackConfig("sign_flip", (1, 5)))
    with pytest.raises(ConfigError, match="there is no client 5"):
        check_clients(config, 5)


def built(placement=ONE_DEVICE, schedule=CONSTANT, local=LOCAL, server=ADDS, **changes):
    data = SimpleNamespace(
        offsets=np.concatenate([[0], np.cumsum(SIZES)]),
        num_clients=5,
        names=tuple("abcde"),
        store=SimpleNamespace(image_shape=(8, 8, 1)),
    )
    config = PretrainConfig(
        federation=replace(BASE, **{"batch_size": 4} | changes),
        client_optimizer=local,
        server_optimizer=server,
        schedule=schedule,
        placement=placement,
    )
    return build_federation(config, data, loss, make_optimizer(local, 4), make_optimizer(server, 4))


def test_where_clients_take_one_step_the_servers_optimiser_trains_as_in_one_place():
    """The mean of the clients' gradients is that of all examples, if weighted by examples."""
    rounds, adamw = 6, OptimizerConfig(learning_rate=0.1, scale_by_batch=False)
    run = built(
        schedule=ScheduleConfig(2, side="server"),
        local=ADDS,
        server=adamw,
        rounds=rounds,
        batch_size=int(SIZES.max()),
        cohort_size=0,
        client_weights="examples",
    )
    found = after(run, rounds).server.params

    examples, params = problem()
    factor = warmup_cosine(rounds, 2)
    optimizer = make_optimizer(adamw, 1)
    state = optimizer.init(params)
    for r in range(rounds):
        grads = jax.grad(lambda p: loss(p, examples, None).mean())(params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, optax.tree.scale(factor(r + 0.5), updates))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, params)


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        (
            {
                "asynchronous": AsyncConfig(3),
                "participation": ParticipationConfig(step_seconds=1.0),
                "cohort_size": 0,
            },
            "a server without rounds",
        ),
        ({"algorithm": AlgorithmConfig("mimelite")}, "mimelite has no optimiser on its server"),
    ],
)
def test_a_server_without_rounds_or_optimiser_has_no_schedule(changes, remedy):
    with pytest.raises(ConfigError, match=rf"schedule\.side='server': {remedy}"):
        built(schedule=ScheduleConfig(0, side="server"), **changes)


@pytest.mark.parametrize(
    ("method", "placement", "what"),
    [
        ({"batch_size": 65_536}, {"lanes": 65_536}, "the images of one step"),
        ({"local_epochs": 10_000, "batch_size": 65_536}, {"lanes": 40}, "the order of the examp"),
        ({"local_epochs": 0, "local_steps": 10**6, "batch_size": 65_536}, {}, "of 5000000 steps"),
    ],
)
def test_a_round_larger_than_the_memory_is_refused_before_it_is_allocated(
    method, placement, what, monkeypatch
):
    for memory in ("device_memory", "host_memory"):
        monkeypatch.setattr(f"ufm_jax.train.federation.{memory}", lambda *_: 64e9)
    with pytest.raises(ConfigError, match=rf"batch_size=65536 with .*{what}.*GB.*lower"):
        built(placement=PlacementConfig(devices=1, **placement), cohort_size=0, **method)


def test_a_federation_without_rounds_is_built_where_it_is_asked_for():
    clock = ParticipationConfig(step_seconds=1.0)
    run = built(
        asynchronous=AsyncConfig(3, buffer=2, towards_client=True),
        participation=clock,
        cohort_size=0,
    )
    assert isinstance(run, AsyncFederation)
    assert (run.way.concurrency, run.way.buffer, run.way.towards_client) == (3, 2, True)
    assert run.way.staleness(3) == 0.5
    assert not isinstance(built(participation=clock), AsyncFederation)


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("participation.step_seconds", {"cohort_size": 0}),
        ("cohort_size", {}),
        ("client_weights", {"client_weights": "examples"}),
        (
            "participation.sampling",
            {"participation": ParticipationConfig("by_size", step_seconds=1), "cohort_size": 0},
        ),
        ("algorithm.name", {"algorithm": AlgorithmConfig("scaffold")}),
        ("client_state", {"client_state": "persist"}),
        ("compression.kind", {"compression": CompressionConfig("top_k")}),
    ],
)
def test_what_does_not_go_without_rounds_is_named(key, changes):
    method = replace(BASE, asynchronous=AsyncConfig(3), **changes)
    with pytest.raises(ConfigError, match=rf"needs another federation\.{key}"):
        check_method(method, LOCAL, ADDS, ())


def test_poisson_batches_have_room_for_microbatches():
    privacy = PrivacyConfig("example", microbatch=4)
    run = built(batch_sampling="poisson", privacy=privacy)
    assert run.batching.capacity % 4 == 0
    assert run.batching.capacity > 4
    assert run.plan(0).rows.shape[-1] == run.batching.capacity
