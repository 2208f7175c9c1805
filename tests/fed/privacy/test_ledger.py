"""Ledgers: what is added up is what was spent, and rounds stop at the budget."""

import numpy as np
import pytest

from ufm_jax.fed.privacy.accounting import Spent, epsilon
from ufm_jax.fed.privacy.ledger import epsilons, go_on, new_ledger, rounds_within, spend, spent
from ufm_jax.fed.privacy.mechanism import Mechanism, mechanism_of

pytest.importorskip("dp_accounting", reason="epsilons need ufm-jax[privacy]")

DELTA = 1e-4
MECHANISMS = [mechanism_of(1.0, "poisson", 8, n, 25) for n in (6, 200, 800)]


def test_a_ledger_gives_back_what_was_put_in():
    ledger = new_ledger(MECHANISMS)
    for counts in ([1, 25, 100], [0, 25, 0]):
        before = ledger.releases.copy()
        later = spend(ledger, counts)
        np.testing.assert_array_equal(ledger.releases, before)
        ledger = later
    assert [spent(ledger, k) for k in range(3)] == [
        [Spent(mechanism, count)] for mechanism, count in zip(MECHANISMS, (1, 50, 100), strict=True)
    ]
    assert ledger.releases.dtype == np.int64
    assert spend(ledger, 2).releases[:, 0].tolist() == [3, 52, 102]


def test_a_run_that_goes_on_alike_has_one_column_and_with_other_noise_two():
    ledger = spend(new_ledger(MECHANISMS), 4)
    assert go_on(ledger, MECHANISMS) is ledger
    louder = [Mechanism(2.0)] * 3
    changed = spend(go_on(ledger, louder), 3)
    assert spent(changed, 1) == [Spent(MECHANISMS[1], 4), Spent(louder[1], 3)]
    assert go_on(changed, louder) is changed


def test_what_was_spent_with_other_noise_adds_up():
    """3 / 1^2 + 4 / 2^2 is four releases at 1."""
    first, second = [Mechanism(1.0)] * 2, [Mechanism(2.0)] * 2
    ledger = spend(go_on(spend(new_ledger(first), 3), second), 4)
    found = epsilons(ledger, DELTA)
    known = epsilon([Spent(Mechanism(1.0), 4)], DELTA)
    assert [one.best for one in found] == pytest.approx([known.best] * 2, rel=1e-3)


def test_other_clients_and_negative_counts_are_refused():
    ledger = new_ledger(MECHANISMS)
    with pytest.raises(ValueError, match="3 clients and the run 2"):
        go_on(ledger, MECHANISMS[:2])
    with pytest.raises(ValueError, match="cannot be taken back"):
        spend(ledger, [1, -1, 0])


def test_the_budget_is_reached_and_not_passed():
    """Now one client has the least left, now the other."""
    for noise in (4.0, 40.0):
        ledger = spend(new_ledger([Mechanism(noise), Mechanism(10.0)]), 1)
        per_round = [1, 10]
        rounds = rounds_within(4.0, DELTA, ledger, per_round, 60)
        assert 0 < rounds < 60
        after, past = (
            max(e.best for e in epsilons(spend(ledger, np.multiply(n, per_round)), DELTA))
            for n in (rounds, rounds + 1)
        )
        assert after <= 4.0 < past


def test_no_more_rounds_than_wanted_and_none_where_all_is_spent():
    ledger = spend(new_ledger([Mechanism(10.0)]), 100)
    assert rounds_within(100.0, DELTA, ledger, 1, 7) == 7
    assert rounds_within(0.1, DELTA, ledger, 1, 7) == 0
    assert rounds_within(5.0, DELTA, new_ledger([Mechanism(0.0)]), 1, 7) == 0
