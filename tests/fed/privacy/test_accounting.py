"""Epsilons: known rows, closed forms, and when none may be stated."""

import math
from dataclasses import replace

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from ufm_jax.fed.privacy.accounting import Epsilon, Spent, epsilon, noise_for
from ufm_jax.fed.privacy.mechanism import Mechanism, mechanism_of, releases_per_round
from ufm_jax.fed.privacy.refusals import RunFacts, refusals

pytest.importorskip("dp_accounting", reason="epsilons need ufm-jax[privacy]")

DELTA = 1e-5


def of(mechanism, releases, delta=DELTA):
    return epsilon([Spent(mechanism, releases)], delta)


def gaussian_delta(eps, mu):
    """delta of a Gaussian whose mean moves by mu deviations (Balle and Wang, ICML 2018)."""
    below = math.exp(eps + norm.logcdf(-eps / mu - mu / 2))
    return norm.cdf(mu / 2 - eps / mu) - below


@pytest.mark.parametrize(
    ("q", "z", "steps", "rdp", "pld"),
    [
        (0.01, 1.0, 1000, 2.1014, 1.8282),
        (0.1, 1.0, 100, 7.9039, 7.0466),
        (256 / 60000, 1.1, 10000, 2.1616, 1.9780),
        (1.0, 10.0, 100, 4.7285, 4.3772),
    ],
)
def test_known_rows(q, z, steps, rdp, pld):
    mechanism = Mechanism(z) if q == 1 else Mechanism(z, "poisson", q)
    found = of(mechanism, steps)
    assert found.rdp == pytest.approx(rdp, abs=6e-5)
    assert found.pld == pytest.approx(pld, abs=6e-5)
    assert found.best == found.pld


@pytest.mark.parametrize(("z", "steps"), [(1.0, 1), (4.0, 16), (10.0, 30), (0.5, 1), (0.05, 9)])
def test_everyone_is_the_gaussian_of_the_closed_form(z, steps):
    """T releases at z are one at z / sqrt(T)."""
    mu = math.sqrt(steps) / z
    exact = brentq(lambda eps: gaussian_delta(eps, mu) - DELTA, 0, mu**2 / 2 + 10 * mu)
    found = of(Mechanism(z), steps)
    assert exact <= found.pld <= exact * 1.001
    assert found.rdp >= exact


@pytest.mark.parametrize("q", [0.01, 0.3])
def test_one_poisson_release_is_that_of_the_closed_form(q):
    """The mixture (1 - q) P + q Q against P at eps is Q against P at log((e^eps - 1 + q) / q)."""

    def delta(eps):
        return q * gaussian_delta(math.log((math.exp(eps) - 1 + q) / q), 1.0)

    exact = brentq(lambda eps: delta(eps) - DELTA, 1e-6, 10)
    assert exact <= of(Mechanism(1.0, "poisson", q), 1).pld <= exact * 1.002


def test_replacing_a_unit_moves_twice_as_far():
    """Everyone, drawn as a fixed size of all, at z is the Gaussian at z / 2."""
    all_drawn = Mechanism(4.0, "fixed", 1.0, 10, 10)
    assert of(all_drawn, 5) == Epsilon(pytest.approx(of(Mechanism(2.0), 5).rdp), None)


def test_fixed_cohorts_pay_less_than_everyone_and_more_than_poisson():
    fixed, drawn = mechanism_of(8.0, "uniform", 4, 40), mechanism_of(8.0, "poisson", 4, 40)
    assert of(drawn, 50).rdp < of(fixed, 50).rdp < of(replace(fixed, rate=1.0, most=40), 50).rdp
    assert of(fixed, 50).pld is None


def test_the_bound_of_a_poisson_draw_is_paid_for():
    """Rare overflows change nothing; a bound below the mean makes a release more like fixed."""
    free = Mechanism(1.0, "poisson", 0.064)
    rare = of(replace(free, population=1000, most=123), 300)
    tight = of(replace(free, population=1000, most=40), 300)
    assert rare.rdp is None
    assert of(free, 300).pld <= rare.best <= of(free, 300).pld * 1.005
    assert abs(tight.pld - rare.pld) > 0.1


def test_mechanisms_follow_from_what_a_run_does():
    assert mechanism_of(1.0, "uniform", 16, 16) == Mechanism(1.0)
    assert mechanism_of(1.0, "poisson", 4, 16, 9) == Mechanism(1.0, "poisson", 0.25, 16, 9)
    assert mechanism_of(1.0, "poisson", 4, 16, 16) == Mechanism(1.0, "poisson", 0.25)
    assert mechanism_of(1.0, "shuffle", 8, 100) == Mechanism(1.0)
    assert mechanism_of(1.0, "poisson", 8, 100, 30) == Mechanism(1.0, "poisson", 0.08, 100, 30)
    assert mechanism_of(1.0, "poisson", 8, 5, 30) == Mechanism(1.0)
    with pytest.raises(ValueError, match="'by_size' cannot be accounted for"):
        mechanism_of(1.0, "by_size", 4, 16)
    assert releases_per_round("poisson", 7, 3) == 7
    assert releases_per_round("shuffle", 7, 3) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sampling": "all"}, "choose one of"),
        ({"noise_multiplier": -1.0}, "noise_multiplier=-1"),
        ({"sampling": "poisson", "rate": 0.0}, "rate=0"),
        ({"rate": 0.5}, "1 where everyone"),
        ({"sampling": "fixed", "most": 3}, "most=3 of population=0"),
    ],
)
def test_impossible_mechanisms_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Mechanism(**{"noise_multiplier": 1.0} | wrong)


def test_no_noise_is_no_privacy_and_no_release_no_loss():
    assert of(Mechanism(0.0), 1) == Epsilon(math.inf, math.inf)
    assert of(Mechanism(0.0, "fixed", 0.5, 4, 2), 1) == Epsilon(math.inf, None)
    assert of(Mechanism(0.0), 0) == epsilon([], DELTA) == Epsilon(0.0, 0.0)


def test_neighbours_are_not_mixed():
    with pytest.raises(ValueError, match="one by one"):
        epsilon(
            [
                Spent(Mechanism(1.0, "fixed", 0.5, 4, 2), 1),
                Spent(Mechanism(1.0, "poisson", 0.5), 1),
            ],
            DELTA,
        )
    with pytest.raises(ValueError, match="delta=0"):
        of(Mechanism(1.0), 1, delta=0)


@pytest.mark.parametrize(
    "mechanism",
    [
        Mechanism(0.0),
        Mechanism(0.0, "poisson", 0.05, 400, 50),
        Mechanism(0.0, "fixed", 0.05, 40, 2),
    ],
    ids=lambda m: m.sampling,
)
def test_noise_is_calibrated_both_ways(mechanism):
    z = noise_for(3.0, DELTA, mechanism, 40)
    assert of(replace(mechanism, noise_multiplier=z), 40).best <= 3.0
    assert of(replace(mechanism, noise_multiplier=z * 0.998), 40).best > 3.0


def test_there_must_be_something_to_calibrate():
    for target, count in ((0.0, 1), (math.inf, 1), (1.0, 0)):
        with pytest.raises(ValueError, match="numbers above 0"):
            noise_for(target, DELTA, Mechanism(0.0), count)


GOOD = RunFacts("client", 1000, 1e-4, 1.0, True, True, "poisson")


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"secret_noise": False}, "privacy.noise_seed=-1"),
        ({"secret_draws": False}, "'poisson'"),
        ({"noise_multiplier": 0.0}, "privacy.noise_multiplier above 0"),
        ({"delta": 1e-3}, "privacy.delta lower"),
        ({"equal_weights": False}, "client_weights='uniform'"),
        ({"fixed_divisor": False}, "mean(renormalise=False)"),
        ({"plain_sum": False}, "aggregation.rule='mean'"),
        ({"sampling": "by_size"}, "participation.sampling='poisson'"),
        ({"by_trace": True}, "participation.trace empty"),
        ({"synchronous": False}, "asynchronous.concurrency=0"),
    ],
)
def test_each_reason_stands_alone_with_its_remedy(change, remedy):
    assert refusals(GOOD) == ()
    (reason,) = refusals(replace(GOOD, **change))
    assert remedy in reason


def test_what_the_server_does_cannot_undo_privacy_of_examples():
    facts = replace(
        GOOD,
        level="example",
        sampling="shuffle",
        equal_weights=False,
        fixed_divisor=False,
        plain_sum=False,
        by_trace=True,
    )
    assert refusals(facts) == ()
    assert len(refusals(replace(facts, secret_noise=False, units=10, delta=0.1))) == 2
