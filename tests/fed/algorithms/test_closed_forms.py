"""Each algorithm on quadratics, against answers derived by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.fed.algorithms.quadratics import run, run_to
from tests.fed.algorithms.shown import run_shown
from ufm_jax.fed.algorithms.ditto import ditto
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.algorithms.feddyn import feddyn
from ufm_jax.fed.algorithms.fednova import fednova
from ufm_jax.fed.algorithms.fedopt import adaptive
from ufm_jax.fed.algorithms.fedprox import proximal
from ufm_jax.fed.algorithms.fedsam import sharpness_aware
from ufm_jax.fed.algorithms.mimelite import mimelite
from ufm_jax.fed.algorithms.scaffold import scaffold
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.participation import Clock

TWO = {"a": [1.0, 4.0], "b": [0.0, 1.0], "start": 5.0}
"""Whose optimum is (1 * 0 + 4 * 1) / (1 + 4) = 0.8."""
CORRECTED = {
    "scaffold-I": scaffold(fedavg(optax.sgd(0.05)), option="I"),
    "scaffold-II": scaffold(fedavg(optax.sgd(0.05)), option="II"),
    "feddyn": feddyn(fedavg(optax.sgd(0.05)), 1.0),
}
ONE = {"a": [1.0], "b": [0.0], "local_steps": 1}


def test_fedprox_of_strength_zero_is_fedavg():
    settings = {**TWO, "rounds": 3, "local_steps": 4}
    plain = run_to(fedavg(optax.sgd(0.1)), **settings)
    assert run_to(fedavg(optax.sgd(0.1), gradient=proximal(0.0)), **settings) == plain


def test_fedprox_by_hand():
    """From 1: 1 - 0.5 * 1 = 0.5; there the gradient 0.5 + 1 * (0.5 - 1) is zero."""
    algorithm = fedavg(optax.sgd(0.5), gradient=proximal(1.0))
    assert run_to(algorithm, a=[1.0], b=[0.0], start=1.0, rounds=1, local_steps=2) == 0.5


def test_fedprox_fixed_point():
    """Clients solve (a_i b_i + mu w) / (a_i + mu); their mean is w at (4/5) / (1/2 + 4/5)."""
    algorithm = fedavg(optax.sgd(0.1), gradient=proximal(1.0))
    w = run_to(algorithm, **TWO, rounds=40, local_steps=150)
    assert w == pytest.approx((4 / 5) / (1 / 2 + 4 / 5), abs=1e-5)


def test_fedprox_does_not_pull_on_what_is_personal():
    """From 3 towards 0: both parameters 3 -> 1.5, then the shared one is held, the own one not."""

    def loss(params, batch, keys):
        del keys
        return batch["a"] / 2 * (params["shared"] ** 2 + params["own"] ** 2)

    algorithm = fedavg(optax.sgd(0.5), gradient=proximal(1.0), personal=("own",))
    federation = Federation(loss, algorithm, [0, 1], Batching(1, None, 2))
    state = federation.init({"shared": jnp.array(3.0), "own": jnp.array(3.0)})
    examples = federation.replicate({"a": jnp.ones(1)})
    state, _ = federation.run_round(state, examples, federation.plan(0))
    params = federation.client_params(state, 0)
    assert float(params["shared"]) == 1.5
    assert float(params["own"]) == 0.75
    # The next round starts from there: 0.75 -> 0.375 -> 0.1875.
    state, _ = federation.run_round(state, examples, federation.plan(1))
    assert float(federation.client_params(state, 0)["own"]) == 0.1875


def test_fedsam_by_hand():
    """At 1 the worst point within 0.5 is 1.5, where the gradient is 3: 1 - 0.1 * 3."""
    algorithm = fedavg(optax.sgd(0.1), gradient=sharpness_aware(0.5))
    w = run_to(algorithm, a=[2.0], b=[0.0], start=1.0, rounds=1, local_steps=1)
    assert w == pytest.approx(0.7)


def test_fedsam_stands_still_where_the_gradient_is_zero():
    algorithm = fedavg(optax.sgd(0.1), gradient=sharpness_aware(0.5))
    assert run_to(algorithm, a=[2.0], b=[1.0], start=1.0, rounds=1, local_steps=1) == 1.0


def test_fedsam_survives_gradients_that_all_but_vanish():
    algorithm = fedavg(optax.sgd(0.1), gradient=sharpness_aware(0.5))
    assert run_to(algorithm, a=[1e-30], b=[0.0], start=1.0, rounds=1, local_steps=1) == 1.0


@pytest.mark.parametrize(
    ("kind", "second"),
    [
        ("adam", lambda v, g: 0.99 * v + 0.01 * g**2),
        ("yogi", lambda v, g: v - 0.01 * g**2 * np.sign(v - g**2)),
        ("adagrad", lambda v, g: v + g**2),
    ],
)
def test_adaptive_servers_by_hand_for_two_rounds(kind, second):
    """A local step of rate 1 goes to 0, so the pseudo-gradient is w."""
    w, m, v = 1.0, 0.0, 0.1**2
    for _ in range(2):
        m, v = 0.9 * m + 0.1 * w, second(v, w)
        w -= m / (np.sqrt(v) + 0.1)
    server = optax.chain(adaptive(kind, tau=0.1), optax.scale(-1.0))
    found = run_to(fedavg(optax.sgd(1.0), server), **ONE, start=1.0, rounds=2)
    assert found == pytest.approx(w, abs=1e-6)
    if kind == "adam":
        # m 0.1, v 0.0199: 1 - 0.1 / 0.241067; then m 0.1485178, v 0.0231253.
        assert found == pytest.approx(-0.004015, abs=2e-6)


@pytest.mark.parametrize("option", ["I", "II"])
@pytest.mark.parametrize("placement", [(1, 1), (1, 2), (2, 1)])
def test_scaffold_reaches_the_true_optimum(option, placement):
    algorithm = scaffold(fedavg(optax.sgd(0.1)), option=option)
    w = run_to(algorithm, **TWO, rounds=60, local_steps=10, placement=placement)
    assert w == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("option", ["I", "II"])
def test_scaffold_reaches_it_with_half_of_the_clients_a_round(option):
    """(1 * 0 + 4 * 1 + 2 * 3 + 1 * -1) / 8."""
    algorithm = scaffold(fedavg(optax.sgd(0.05)), option=option)
    many = {"a": [1.0, 4.0, 2.0, 1.0], "b": [0.0, 1.0, 3.0, -1.0], "start": 5.0}
    w = run_to(algorithm, **many, rounds=300, local_steps=5, cohort_size=2)
    assert w == pytest.approx(9 / 8, abs=1e-3)


@pytest.mark.parametrize("name", ["scaffold-I", "scaffold-II", "feddyn"])
@pytest.mark.parametrize("seed", [0, 1])
def test_corrections_hold_where_clients_drop_out(name, seed):
    """What the server adds is by who came, and not by how many were asked."""
    clock = Clock(np.ones(2), np.zeros(2), dropout=0.5)
    w = run_to(CORRECTED[name], **TWO, rounds=400, local_steps=5, clock=clock, seed=seed)
    assert w == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize("name", ["scaffold-I", "scaffold-II", "feddyn"])
def test_corrections_hold_for_cohorts_of_unequal_weight(name):
    """sum n a b / sum n a = (9 * 4 * 1 + 3 * 2 * 3 + 5 * 1 * -1) / (1 + 36 + 6 + 5)."""
    many = {"a": [1.0, 4.0, 2.0, 1.0], "b": [0.0, 1.0, 3.0, -1.0], "start": 5.0}
    w = run_to(
        CORRECTED[name],
        **many,
        rounds=1500,
        local_steps=5,
        cohort_size=2,
        client_weights=[1, 9, 3, 5],
    )
    assert w == pytest.approx(49 / 48, abs=2e-3)


def test_scaffold_control_variates_are_the_gradients_at_the_optimum():
    federation, state = run(scaffold(fedavg(optax.sgd(0.1))), **TWO, rounds=60, local_steps=10)
    assert federation.num_clients == 2
    found = np.sort(np.asarray(state.clients.control["w"]))
    np.testing.assert_allclose(found, [4 * (0.8 - 1), 1 * (0.8 - 0)], atol=1e-5)
    assert float(state.server.control["w"]) == pytest.approx(0, abs=1e-5)


def test_fednova_fixed_point_of_unequal_steps():
    """Client i moves (w - b_i) q_i in tau_i steps, q_i = 1 - (1 - 0.1 a_i)^tau_i."""
    settings = {**TWO, "sizes": [2, 5], "local_steps": None, "client_weights": "uniform"}
    w = run_to(fednova(optax.sgd(0.1)), **settings, rounds=80)
    per_step = [(1 - (1 - 0.1 * a) ** tau) / tau for a, tau in ((1, 2), (4, 5))]
    assert w == pytest.approx(per_step[1] / sum(per_step), abs=1e-6)


def test_fednova_tends_to_the_true_optimum_and_fedavg_to_another():
    """As the rate goes to 0, FedAvg weights client i by a_i tau_i: 20 / 22."""
    settings = {**TWO, "sizes": [2, 5], "local_steps": None, "client_weights": "uniform"}
    assert run_to(fednova(optax.sgd(0.002)), **settings, rounds=800) == pytest.approx(0.8, abs=3e-3)
    plain = run_to(fedavg(optax.sgd(0.002)), **settings, rounds=800)
    assert plain == pytest.approx(20 / 22, abs=3e-3)


def test_fednova_normalises_momentum():
    """Slopes 1 and 3 over 1 and 3 steps at momentum 0.5: |a| is 1 and 1 + 1.5 + 1.75 = 4.25.

    The mean direction is 2, the mean length 2.625: w = -0.1 * 5.25. FedAvg gives
    -0.1 * (1 * 1 + 3 * 4.25) / 2.
    """

    def linear(params, batch, keys):
        del keys
        return batch["slope"] * params["w"]

    found = []
    for algorithm in (fednova(optax.sgd(0.1, 0.5), 0.5), fedavg(optax.sgd(0.1, 0.5))):
        federation = Federation(linear, algorithm, [0, 1, 4], Batching(1), client_weights="uniform")
        state = federation.init({"w": jnp.array(0.0)})
        examples = federation.replicate({"slope": jnp.array([1.0, 3.0, 3.0, 3.0])})
        state, _ = federation.run_round(state, examples, federation.plan(0))
        found.append(float(state.server.params["w"]))
    assert found == pytest.approx([-0.525, -0.6875])


def test_fednova_of_equal_steps_is_fedavg():
    settings = {**TWO, "rounds": 5, "local_steps": 4}
    plain = run_to(fedavg(optax.sgd(0.1, 0.5)), **settings)
    assert run_to(fednova(optax.sgd(0.1, 0.5), 0.5), **settings) == pytest.approx(plain, abs=1e-6)


def test_feddyn_by_hand():
    """From 1: the client goes to 0.5, so d = h = 0.5 and w = 1 - 0.5 - 0.5 / 1 = 0.

    From 0, the gradient is 0 - 0.5: the client goes to 0.25, h = 0.5 - 0.25 and w = 0.25 - 0.25.
    """
    algorithm = feddyn(fedavg(optax.sgd(0.5)), alpha=1.0)
    assert run_to(algorithm, **ONE, start=1.0, rounds=1) == 0.0
    assert run_to(algorithm, **ONE, start=1.0, rounds=2) == 0.0


@pytest.mark.parametrize("placement", [(1, 1), (2, 1)])
def test_feddyn_reaches_the_true_optimum(placement):
    algorithm = feddyn(fedavg(optax.sgd(0.1)), alpha=1.0)
    w = run_to(algorithm, **TWO, rounds=100, local_steps=20, placement=placement)
    assert w == pytest.approx(0.8, abs=1e-5)


def test_mimelite_by_hand():
    """Momentum 0.5, rate 0.5, from 1: 0.5 with m = 1; then 0.5 - 0.5 (0.5 + 0.5) = 0, m = 1.

    Then the gradient is 0 and the momentum's half is left: -0.25.
    """
    algorithm = mimelite(optax.sgd(0.5, momentum=0.5))
    for rounds, expected in ((1, 0.5), (2, 0.0), (3, -0.25)):
        assert run_to(algorithm, **ONE, start=1.0, rounds=rounds) == pytest.approx(expected)


def test_ditto_by_hand():
    """The own model goes 3 -> 1.5, where 1.5 + 1 * (1.5 - 3) holds it; the shared to 0.75."""
    algorithm = ditto(fedavg(optax.sgd(0.5)), optax.sgd(0.5), 1.0)
    federation, state = run(algorithm, a=[1.0], b=[0.0], start=3.0, rounds=1, local_steps=2)
    assert float(federation.client_params(state, 0)["w"]) == 1.5
    assert float(state.server.params["w"]) == 0.75


def test_ditto_of_strength_zero_trains_alone_and_leaves_the_shared_model_as_it_is():
    settings = {**TWO, "rounds": 30, "local_steps": 5}
    federation, state = run(ditto(fedavg(optax.sgd(0.1)), optax.sgd(0.1), 0.0), **settings)
    own = [float(federation.client_params(state, k)["w"]) for k in range(2)]
    assert own == pytest.approx([0.0, 1.0], abs=1e-5)
    _, plain = run(fedavg(optax.sgd(0.1)), **settings)
    jax.tree.map(np.testing.assert_array_equal, state.server.params, plain.server.params)


def test_scaffold_refuses_another_option():
    with pytest.raises(ValueError, match="option='III'"):
        scaffold(fedavg(optax.sgd(0.1)), option="III")


def test_the_answer_that_contributing_shows_is_that_of_its_algorithm():
    run_shown(dict(globals()))["test_fedexp_by_hand"]()
