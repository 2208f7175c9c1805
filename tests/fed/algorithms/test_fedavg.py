"""FedAvg against closed forms and sums done by hand."""

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.fed.algorithms.quadratics import quadratic, run_to
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import make_placement


@pytest.mark.parametrize("placement", [(1, 1), (1, 2), (2, 1)])
def test_fixed_point_of_two_quadratics(placement):
    """With q_i = 1 - (1 - 0.1 a_i)^10 the fixed point is q_2 / (q_1 + q_2)."""
    w = run_to(
        fedavg(optax.sgd(0.1)),
        a=[1.0, 4.0],
        b=[0.0, 1.0],
        start=5.0,
        rounds=60,
        local_steps=10,
        placement=placement,
    )
    q1, q2 = (1 - (1 - 0.1 * a) ** 10 for a in (1, 4))
    assert w == pytest.approx(q2 / (q1 + q2), abs=1e-6)
    assert w == pytest.approx(0.6041260, abs=1e-6)


def test_one_client_is_plain_training():
    """w <- w - 0.1 * 2 (w - 1) = 0.8 w + 0.2, from 3: 2.6, 2.28, 2.024."""
    w = run_to(fedavg(optax.sgd(0.1)), a=[2.0], b=[1.0], start=3.0, rounds=1, local_steps=3)
    assert w == pytest.approx(2.024, abs=1e-6)


def test_weights_by_examples_and_uniform():
    """One step of rate 1 on a = 1 moves a client to its b; the server takes the weighted mean."""
    settings = {"a": [1.0, 1.0], "b": [0.0, 1.0], "start": 0.5, "rounds": 1, "local_steps": 1}
    algorithm = fedavg(optax.sgd(1.0))
    assert run_to(algorithm, **settings) == pytest.approx(0.5)
    assert run_to(algorithm, client_weights=[1.0, 3.0], **settings) == pytest.approx(0.75)


def test_server_optimizer_takes_the_pseudo_gradient():
    """The pseudo-gradient is w - w_k = 4 - 0 = 4: sgd of rate 0.5 goes from 4 to 2, then to 1."""
    algorithm = fedavg(optax.sgd(1.0), optax.sgd(0.5))
    assert run_to(algorithm, a=[1.0], b=[0.0], start=4.0, rounds=2, local_steps=1) == 1.0


def test_learning_rate_is_continuous_over_local_steps():
    """Factors at progress 1/4, 3/4, 5/4, 7/4, the middles of the steps: w <- (1 - f / 2) w."""
    seen = fedavg(optax.sgd(0.5), lr_factor=lambda progress: progress)
    w = run_to(seen, a=[1.0], b=[0.0], start=1.0, rounds=2, local_steps=2)
    assert w == pytest.approx((1 - 1 / 8) * (1 - 3 / 8) * (1 - 5 / 8) * (1 - 7 / 8))


def test_client_momentum_is_reset_kept_or_averaged():
    """One step a round, rate 1, momentum 1/2, constant gradients g = -1 and -3 (linear losses).

    reset: every round moves by the mean gradient 2:                            2, 4.
    persist: each keeps its own trace, 1.5 g in round 2, mean 1.5 * 2 = 3:      2, 5.
    average: both start round 2 from the mean trace -2: g - 1, mean 2 + 1 = 3:  2, 5.
    The last two part where clients take part unequally: client 0 alone in round 2.
    persist: 1.5 -> 2 + 1.5 = 3.5; average: 1 + 1 = 2 -> 4.
    """

    def linear(params, batch, keys):
        del keys
        return -batch["slope"] * params["w"]

    ends = {}
    for client_state in ("reset", "persist", "average"):
        federation = Federation(
            linear,
            fedavg(optax.sgd(1.0, momentum=0.5), client_state=client_state),
            [0, 1, 2],
            Batching(1),
            placement=make_placement(1, 2),
        )
        examples = federation.replicate({"slope": jnp.array([1.0, 3.0])})
        both, alone = [], []
        for second, out in (([0, 1], both), ([0], alone)):
            state = federation.init({"w": jnp.array(0.0)})
            state, _ = federation.run_round(state, examples, federation.plan(0))
            state, _ = federation.run_round(state, examples, federation.plan(1, second))
            out.append(float(state.server.params["w"]))
        ends[client_state] = (*both, *alone)
    assert ends == {"reset": (4.0, 3.0), "persist": (5.0, 3.5), "average": (5.0, 4.0)}


def test_averaged_adam_counts_its_steps():
    federation = Federation(
        quadratic,
        fedavg(optax.adam(0.1), client_state="average"),
        [0, 1, 3],
        Batching(1),
        client_weights="uniform",
    )
    examples = federation.replicate({"a": jnp.ones(3), "b": jnp.zeros(3)})
    state = federation.init({"w": jnp.array(1.0)})
    state, _ = federation.run_round(state, examples, federation.plan(0))
    counts = [
        leaf for leaf in jax.tree.leaves(state.server.client_opt_state) if leaf.dtype == jnp.int32
    ]
    assert [int(count) for count in counts] == [2]  # the mean of 1 and 2, rounded to even


def test_an_unknown_client_state_is_refused():
    with pytest.raises(ValueError, match="choose 'reset', 'persist' or 'average'"):
        fedavg(optax.sgd(0.1), client_state="keep")


def _two_parts(params, batch, keys):
    """f_i = a_i / 2 ((u - b_i)^2 + (v - b_i)^2): a shared and a personal copy of one problem."""
    del keys
    u, v = params["shared"]["w"], params["head"]["w"]
    return batch["a"] / 2 * ((u - batch["b"]) ** 2 + (v - batch["b"]) ** 2)


def _partial(personal, placement=(1, 1), rounds=3, client_state="reset"):
    federation = Federation(
        _two_parts,
        fedavg(optax.sgd(0.1, 0.5), client_state=client_state, personal=personal),
        [0, 1, 2, 3],
        Batching(1, local_epochs=None, local_steps=2),
        placement=make_placement(*placement),
        client_weights="uniform",
    )
    examples = federation.replicate({"a": jnp.array([1.0, 2, 4]), "b": jnp.array([0.0, 1, -2])})
    start = {"shared": {"w": jnp.array(3.0)}, "head": {"w": jnp.array(3.0)}}
    state = federation.init(start)
    for r in range(rounds):
        state, _ = federation.run_round(state, examples, federation.plan(r))
    own = [federation.client_params(state, k) for k in range(3)]
    return federation, state, [params["head"]["w"] for params in own]


@pytest.mark.parametrize("placement", [(1, 1), (1, 2), (3, 1)])
def test_personal_parameters_train_alone_and_the_others_together(placement):
    """Each client's head is where 6 steps of its own momentum sgd lead, restarted every 2 steps."""
    _, state, heads = _partial(["head/.*"], placement)
    for head, a, b in zip(heads, (1.0, 2.0, 4.0), (0.0, 1.0, -2.0), strict=True):
        w = 3.0
        for _ in range(3):
            first = 0.1 * a * (w - b)
            second = 0.5 * first + 0.1 * a * (w - first - b)
            w -= first + second
        assert float(head) == pytest.approx(w, abs=1e-6)
    assert float(state.server.params["head"]["w"]) == 3.0, "the server's copy stays as it began"
    _, together, _ = _partial(["head/.*"])
    plain = Federation(
        _two_parts,
        fedavg(optax.sgd(0.1, 0.5)),
        [0, 1, 2, 3],
        Batching(1, local_epochs=None, local_steps=2),
        placement=make_placement(1, 1),
        client_weights="uniform",
    )
    examples = plain.replicate({"a": jnp.array([1.0, 2, 4]), "b": jnp.array([0.0, 1, -2])})
    other = plain.init({"shared": {"w": jnp.array(3.0)}, "head": {"w": jnp.array(3.0)}})
    for r in range(3):
        other, _ = plain.run_round(other, examples, plain.plan(r))
    shared = float(together.server.params["shared"]["w"])
    assert shared == pytest.approx(float(other.server.params["shared"]["w"]), abs=1e-6)


def test_nothing_is_shared_where_everything_is_personal():
    federation, state, heads = _partial([".*"], client_state="persist")
    assert all(float(leaf) == 3.0 for leaf in jax.tree.leaves(state.server.params))
    assert len({round(float(head), 4) for head in heads}) == 3
    assert federation.compilations == 1


def test_a_pattern_without_a_parameter_is_an_error():
    with pytest.raises(ValueError, match=r"'haed/\.\*' matches no parameter; there are head/w"):
        _partial(["haed/.*"])
    with pytest.raises(ValueError, match="moments of personal parameters"):
        fedavg(optax.sgd(0.1), client_state="average", personal=["head/.*"])
