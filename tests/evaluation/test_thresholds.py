"""Thresholds: the best by their rule among all possible ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ufm_jax.evaluation.thresholds import choose_threshold


def rates(probability, positive, threshold):
    called = probability >= threshold
    return called[positive].mean(), (~called[~positive]).mean()


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), wanted=st.sampled_from([0.5, 0.8, 0.9, 1.0]))
def test_the_rule_holds_among_all_thresholds(seed, wanted):
    rng = np.random.Generator(np.random.Philox(seed))
    positive = np.concatenate([[True, False], rng.random(38) < 0.4])
    probability = np.round(np.clip(rng.normal(0.4 + 0.2 * positive, 0.2), 0, 1), 2)
    pairs = {t: rates(probability, positive, t) for t in np.unique(probability)}

    youden = choose_threshold(probability, positive)
    assert sum(pairs[youden.value]) == pytest.approx(max(map(sum, pairs.values())))

    sensitive = choose_threshold(probability, positive, "sensitivity", at_least=wanted)
    sensitivity, specificity = pairs[sensitive.value]
    assert sensitivity >= wanted
    assert specificity == max(spec for sens, spec in pairs.values() if sens >= wanted)
    assert f"{wanted:g} on val" in sensitive.rule


def test_of_equally_good_thresholds_the_most_sensitive_is_taken():
    # Youden 0.5 at 0.9 (sensitivity 0.5, specificity 1) and at 0.3 (1 and 0.5).
    probability, positive = np.array([0.9, 0.3, 0.5, 0.1]), np.array([1, 1, 0, 0])
    assert choose_threshold(probability, positive).value == 0.3


def test_a_useless_score_still_gives_a_finite_threshold():
    chosen = choose_threshold(np.array([0.9, 0.1]), np.array([0, 1]))
    assert np.isfinite(chosen.value)


@pytest.mark.parametrize(
    ("positive", "options", "message"),
    [
        ([1, 1], {}, "both classes"),
        ([0, 2], {}, "0 or 1"),
        ([0, np.nan], {}, "0 or 1"),
        ([0, 1], {"rule": "best"}, "best"),
        ([0, 1], {"rule": "sensitivity", "at_least": 0.0}, "in \\(0, 1\\]"),
    ],
)
def test_impossible_choices_are_errors(positive, options, message):
    with pytest.raises(ValueError, match=message):
        choose_threshold(np.array([0.2, 0.7]), np.array(positive), **options)
