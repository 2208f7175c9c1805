"""Who takes part: frequencies, traces, deadlines, and rounds without anybody."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.participation import Clock, Participation, drawn_clock, poisson_bound
from ufm_jax.fed.placement import make_placement
from ufm_jax.fed.privacy.example_level import private_gradient

SIZES = np.array([5, 10, 20, 40, 25])
SECRET = np.array([3, 4], np.uint32)


def federation(sizes=SIZES, **settings):
    def loss(params, batch, keys):
        del keys
        return batch["x"] * params["w"]

    return Federation(
        loss,
        fedavg(optax.sgd(1.0)),
        np.concatenate([[0], np.cumsum(sizes)]),
        settings.pop("batching", Batching(8)),
        **settings,
    )


def counts(run, rounds=4000):
    return np.bincount(np.concatenate([run.cohort(r) for r in range(rounds)]), minlength=5) / rounds


def test_uniform_cohorts_ask_everybody_equally_often():
    np.testing.assert_allclose(counts(federation(cohort_size=2)), 0.4, atol=0.04)


def test_cohorts_by_size_ask_in_proportion():
    run = federation(cohort_size=1, participation=Participation("by_size"))
    np.testing.assert_allclose(counts(run), SIZES / 100, atol=0.03)


def test_poisson_cohorts_ask_each_client_by_itself():
    run = federation(cohort_size=2, participation=Participation("poisson"), noise=SECRET)
    drawn = np.zeros((4000, 5))
    for r in range(4000):
        drawn[r, run.cohort(r)] = 1
    np.testing.assert_allclose(drawn.mean(0), 0.4, atol=0.04)
    np.testing.assert_allclose(np.corrcoef(drawn.T), np.eye(5), atol=0.06)
    other = federation(cohort_size=2, participation=Participation("poisson"), noise=SECRET + 1)
    assert any(not np.array_equal(run.cohort(r), other.cohort(r)) for r in range(5)), "secret"
    # On average the shares sum to 1, and none of them depends on who else takes part.
    assert all(run.client_weight([k])[0] == pytest.approx(SIZES[k] / 40) for k in range(5))


def test_only_who_is_available_is_asked():
    trace = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
    run = federation(cohort_size=2, participation=Participation(available=trace))
    assert list(run.cohort(0)) == [0, 1]
    assert set(run.cohort(4)) < {2, 3, 4}
    assert len(run.cohort(1)) == 2
    assert list(run.cohort(5)) == []


def test_poisson_and_a_trace_are_refused():
    with pytest.raises(ValueError, match="'uniform' or 'by_size' with a trace"):
        Participation("poisson", np.ones((1, 5), bool))
    with pytest.raises(ValueError, match="choose 'uniform'"):
        Participation("often")


@pytest.mark.parametrize("places", [(1, 1), (2, 2)])
def test_a_round_without_anybody_changes_nothing(places):
    run = federation(cohort_size=2, placement=make_placement(*places))
    examples = run.replicate({"x": np.ones(100, np.float32)})
    plan = run.plan(0, [])
    state, metrics = run.run_round(run.init({"w": jnp.array(3.0)}), examples, plan)
    assert float(state.server.params["w"]) == 3.0
    assert run.results(plan, metrics) == []


def test_the_virtual_clock_by_hand():
    """Steps 1, 2, 3 at 1, 10, 2 seconds with latency 0.5: 1.5, 20.5, 6.5 seconds."""
    clock = Clock(np.array([1.0, 10.0, 2.0]), np.full(3, 0.5))
    rng = np.random.default_rng(0)
    in_time, seconds = clock.answers(np.arange(3), np.array([1, 2, 3]), rng)
    assert in_time.all()
    assert seconds == 20.5
    late = Clock(clock.step_seconds, clock.latency, deadline=10.0)
    in_time, seconds = late.answers(np.arange(3), np.array([1, 2, 3]), rng)
    assert list(in_time) == [True, False, True]
    assert seconds == 10.0


@pytest.mark.parametrize(("deadline", "expected"), [(10.0, 10.0), (np.inf, 0.0)])
def test_of_who_drops_out_the_server_hears_at_the_deadline_or_at_once(deadline, expected):
    clock = Clock(np.ones(1), np.zeros(1), dropout=1.0, deadline=deadline)
    rng = np.random.default_rng(0)
    assert clock.seconds(0, 3, rng) == (expected, True)
    assert clock.answers(np.arange(1), np.array([3]), rng)[1] == expected


def test_who_is_late_does_not_train_and_is_named():
    clock = Clock(np.array([1.0, 1.0, 100.0, 1.0, 1.0]), np.zeros(5), deadline=10.0)
    run = federation(clock=clock)
    plan = run.plan(0)
    assert list(plan.late) == [2]
    assert sorted(plan.schedule.client) == [0, 1, 3, 4]
    assert plan.virtual_seconds == 10.0
    # Of five; a mean divides by what came in.
    assert plan.events.weight.sum() == pytest.approx(0.8)


def test_dropouts_are_as_frequent_as_said():
    clock = drawn_clock(
        1000,
        step_seconds=1.0,
        spread=0.5,
        latency=1.0,
        jitter=0.1,
        dropout=0.2,
        deadline=np.inf,
        seed=0,
    )
    in_time, seconds = clock.answers(np.arange(1000), np.full(1000, 5), np.random.default_rng(0))
    assert in_time.mean() == pytest.approx(0.8, abs=0.04)
    assert np.isfinite(seconds)
    assert np.median(clock.step_seconds) == pytest.approx(1.0, rel=0.1)
    assert np.log(clock.step_seconds).std() == pytest.approx(0.5, rel=0.1)


def poisson_batches(size=200, batch=16, **settings):
    batching = Batching(batch, sampling="poisson")
    return federation([size], batching=batching, noise=SECRET, **settings)


def test_poisson_batches_hold_each_example_with_one_probability():
    run = poisson_batches()
    rows = np.concatenate([run.plan(r).rows[0, :, 0] for r in range(200)])
    used = rows >= 0
    assert run.num_steps[0] == 13
    assert used.sum(axis=1).mean() == pytest.approx(16, rel=0.02)
    # Binomial: 200 draws of probability 0.08.
    assert used.sum(axis=1).var() == pytest.approx(200 * 0.08 * 0.92, rel=0.1)
    times = np.bincount(rows[used], minlength=200) / len(rows)
    assert np.abs(times - 0.08).max() < 5 * np.sqrt(0.08 * 0.92 / len(rows))
    assert all(len(np.unique(row[row >= 0])) == (row >= 0).sum() for row in rows)


def test_poisson_batches_follow_the_secret_and_nothing_else():
    one, again, other = (poisson_batches(seed=seed).plan(3).rows for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(one, other)
    secret = federation([200], batching=Batching(16, sampling="poisson"), noise=SECRET + 1)
    assert not np.array_equal(one, secret.plan(3).rows)


def test_a_client_smaller_than_a_batch_gives_all_it_has():
    run = poisson_batches(size=5)
    assert (run.plan(0).rows >= 0).sum() == 5


def test_private_training_goes_on_through_an_empty_batch():
    run = poisson_batches(size=40, batch=1, gradient=private_gradient(1.0, 0.0, 1))
    plan = run.plan(0)
    empty = (plan.rows >= 0).sum(-1) == 0
    assert empty.any()
    examples = run.replicate({"x": np.ones(40, np.float32)})
    state, _ = run.run_round(run.init({"w": jnp.array(0.0)}), examples, plan)
    assert float(state.server.params["w"]) == -(plan.rows >= 0).sum()


@pytest.mark.parametrize("average", [1.0, 16.0, 1000.0])
def test_the_room_for_a_poisson_draw_is_enough(average):
    drawn = np.random.default_rng(0).poisson(average, 1_000_000)
    assert drawn.max() <= poisson_bound(average)
    assert poisson_bound(average) < 2.5 * average + 45


def test_room_is_a_multiple():
    assert Batching(16, sampling="poisson", multiple=8).capacity % 8 == 0
    assert Batching(16).capacity == 16
