"""Comparisons: DeLong's published example, brute force, and the properties a fair test has."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from ufm_jax.evaluation.cases import multiclass_cases
from ufm_jax.evaluation.delong import areas_and_covariance
from ufm_jax.evaluation.intervals import Bootstrap, measure_mean
from ufm_jax.evaluation.paired_tests import auroc_interval, delong_test, mcnemar, paired_bootstrap
from ufm_jax.runs.stored import as_json

# DeLong, DeLong and Clarke-Pearson (1988): albumin, total protein, K-G score and whether surgery
# did not help (0), of 43 patients with ovarian cancer; as printed in the SAS/STAT documentation
# of PROC LOGISTIC, "Comparing Receiver Operating Characteristic Curves", with its results.
PATIENTS = """
3.0 5.8 10 0   3.2 6.3 5 1   3.9 6.8 3 1   2.8 4.8 6 0   3.2 5.8 3 1   0.9 4.0 5 0   2.5 5.7 8 0
1.6 5.6  5 1   3.8 5.7 5 1   3.7 6.7 6 1   3.2 5.4 4 1   3.8 6.6 6 1   4.1 6.6 5 1   3.6 5.7 5 1
4.3 7.0  4 1   3.6 6.7 4 0   2.3 4.4 6 1   4.2 7.6 4 0   4.0 6.6 6 0   3.5 5.8 6 1   3.8 6.8 7 1
3.0 4.7  8 0   4.5 7.4 5 1   3.7 7.4 5 1   3.1 6.6 6 1   4.1 8.2 6 1   4.3 7.0 5 1   4.3 6.5 4 1
3.2 5.1  5 1   2.6 4.7 6 1   3.3 6.8 6 0   1.7 4.0 7 0   3.7 6.1 5 1   3.3 6.3 7 1   4.2 7.7 6 1
3.5 6.2  5 1   2.9 5.7 9 0   2.1 4.8 7 1   2.8 6.2 8 0   4.0 7.0 7 1   3.3 5.7 6 1   3.7 6.9 5 1
3.6 6.6  5 1
"""


@pytest.fixture(name="ovarian")
def fixture_ovarian():
    table = np.array(PATIENTS.split(), float).reshape(43, 4)
    scores = {"albumin": -table[:, 0], "protein": -table[:, 1], "k_g": table[:, 2]}
    return table[:, 3] == 0, scores


@pytest.mark.parametrize(
    ("name", "area", "low", "high"),
    [
        ("albumin", 0.7366, 0.5549, 0.9182),
        ("k_g", 0.7258, 0.5243, 0.9273),
        ("protein", 0.6478, 0.4518, 0.8439),
    ],
)
def test_areas_of_the_published_example(ovarian, name, area, low, high):
    positive, scores = ovarian
    found = auroc_interval(positive, scores[name])
    assert (found.value, found.low, found.high) == pytest.approx((area, low, high), abs=6e-5)


@pytest.mark.parametrize(
    ("name", "gap", "low", "high", "p_value"),
    [
        ("albumin", 0.0108, -0.1761, 0.1976, 0.9102),
        ("protein", -0.0780, -0.2830, 0.1271, 0.4561),
    ],
)
def test_contrasts_of_the_published_example(ovarian, name, gap, low, high, p_value):
    positive, scores = ovarian
    found = delong_test(positive, scores[name], scores["k_g"])
    difference = found.difference
    assert (difference.value, difference.low, difference.high) == pytest.approx(
        (gap, low, high), abs=6e-5
    )
    assert found.p_value == pytest.approx(p_value, abs=6e-5)


def brute_force(positive, scores):
    """Covariance from all pairs of positives and negatives, equations 4 to 7 of DeLong et al."""
    kernels = []
    for row in scores:
        high, low = row[positive][:, None], row[~positive]
        kernels.append((high > low) + 0.5 * (high == low))
    by_positive = np.cov([k.mean(1) for k in kernels]) / positive.sum()
    by_negative = np.cov([k.mean(0) for k in kernels]) / (~positive).sum()
    return [k.mean() for k in kernels], by_positive + by_negative


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), levels=st.sampled_from([2, 5, 1000]))
def test_the_fast_algorithm_is_brute_force(seed, levels):
    rng = np.random.Generator(np.random.Philox(seed))
    positive = np.concatenate([[True, True, False, False], rng.random(30) < 0.4])
    scores = rng.integers(0, levels, (3, 34)) + positive * levels * 0.2
    areas, covariance = areas_and_covariance(positive, scores)
    expected, expected_covariance = brute_force(positive, scores)
    np.testing.assert_allclose(areas, expected, atol=1e-12)
    np.testing.assert_allclose(covariance, expected_covariance, atol=1e-12)
    assert areas[0] == pytest.approx(metrics.roc_auc_score(positive, scores[0]))


def test_copies_of_a_patients_rows_are_no_new_evidence():
    rng = np.random.Generator(np.random.Philox(5))
    positive = np.arange(40) % 2 == 0
    scores = rng.normal(size=(2, 40)) + positive
    alone = areas_and_covariance(positive, scores)
    copied = areas_and_covariance(
        np.repeat(positive, 5), np.repeat(scores, 5, axis=1), np.repeat(np.arange(40), 5)
    )
    np.testing.assert_allclose(copied[0], alone[0])
    np.testing.assert_allclose(copied[1], alone[1])
    naive = areas_and_covariance(np.repeat(positive, 5), np.repeat(scores, 5, axis=1))
    assert naive[1][0, 0] < 0.3 * alone[1][0, 0]


def test_clustered_variance_is_that_of_resampled_groups():
    rng = np.random.Generator(np.random.Philox(6))
    groups = np.repeat(np.arange(150), 4)
    of_group = np.repeat(rng.normal(size=150), 4)
    positive = rng.random(600) < 0.5
    scores = positive + of_group + rng.normal(size=600)
    variance = areas_and_covariance(positive, scores[None], groups)[1][0, 0]
    areas = []
    for _ in range(400):
        rows = (4 * rng.integers(0, 150, 150)[:, None] + np.arange(4)).ravel()
        areas.append(metrics.roc_auc_score(positive[rows], scores[rows]))
    assert np.sqrt(variance) == pytest.approx(np.std(areas), rel=0.12)


def test_equal_and_perfect_scores():
    positive = np.arange(20) % 2 == 0
    scores = np.arange(20.0)
    same = delong_test(positive, scores, 2 * scores + 1)
    assert (same.p_value, same.difference.value) == (1.0, 0.0)
    assert "variance 0" in same.difference.note
    perfect = auroc_interval(positive, positive.astype(float))
    assert (perfect.value, perfect.low, perfect.high) == (1, 1, 1)
    assert perfect.note


@pytest.mark.parametrize(
    ("positive", "scores", "groups", "message"),
    [
        ([1, 1, 1], [0.1, 0.2, 0.3], None, "0 with negative"),
        ([1, 1, 0, 0], [0.1, 0.2, 0.3, np.nan], None, "finite"),
        ([1, 2, 0, 0], [0.1, 0.2, 0.3, 0.4], None, "0 or 1"),
        ([1, 1, 0], [0.1, 0.2], None, "shape"),
        ([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], [0, 0, 1, 2], "1 groups with positive"),
    ],
)
def test_what_delong_cannot_do_is_an_error(positive, scores, groups, message):
    with pytest.raises(ValueError, match=message):
        auroc_interval(np.array(positive), np.array(scores), groups and np.array(groups))


def test_paired_bootstrap_of_means_is_the_paired_t_test():
    rng = np.random.Generator(np.random.Philox(8))
    hardness = rng.normal(size=80)
    first, second = hardness + 0.1 + 0.3 * rng.normal(size=80), hardness
    found = paired_bootstrap(
        measure_mean({"dice": first}), measure_mean({"dice": second}), np.arange(80), Bootstrap()
    )["dice"]
    expected = stats.ttest_rel(first, second)
    low, high = expected.confidence_interval()
    assert found.difference.value == pytest.approx((first - second).mean())
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high), abs=0.015)
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.05)
    # Paired: much narrower than the two intervals by themselves.
    assert found.difference.high - found.difference.low < found.first.high - found.first.low
    assert json.dumps(as_json(found), allow_nan=False)


def test_paired_bootstrap_of_a_model_with_itself():
    rng = np.random.Generator(np.random.Philox(9))
    labels = rng.integers(0, 3, 90)
    probabilities = rng.dirichlet([1, 1, 1], 90)
    measure = multiclass_cases(probabilities, labels, "abc").measure
    found = paired_bootstrap(measure, measure, np.arange(90) // 2, Bootstrap(replicates=50))
    assert {"auroc", "balanced_accuracy", "0/auroc"} <= set(found)
    for comparison in found.values():
        assert (comparison.difference.value, comparison.p_value) == (0, 1)


def test_a_difference_in_every_resample_has_the_smallest_p():
    values = np.linspace(1, 2, 30)
    found = paired_bootstrap(
        measure_mean({"x": values + 1}),
        measure_mean({"x": values}),
        np.arange(30),
        Bootstrap(replicates=199),
    )["x"]
    assert found.p_value == pytest.approx(2 / 200)


def test_impossible_paired_bootstraps_are_errors():
    one, two = measure_mean({"a": np.ones(3)}), measure_mean({"b": np.ones(3)})
    with pytest.raises(ValueError, match="share no figure"):
        paired_bootstrap(one, two, np.arange(3), Bootstrap(replicates=2))
    with pytest.raises(ValueError, match="one group"):
        paired_bootstrap(one, one, np.zeros(3), Bootstrap(replicates=2))


def test_mcnemar_by_hand():
    # b = 9, c = 2: (|9 - 2| - 1)^2 / 11 = 36 / 11; exact 2 (1 + 11 + 55) / 2^11.
    first = np.array([1] * 9 + [0] * 2 + [1] * 5 + [0] * 4, bool)
    second = np.array([0] * 9 + [1] * 2 + [1] * 5 + [0] * 4, bool)
    found = mcnemar(first, second)
    assert (found.first_only, found.second_only) == (9, 2)
    assert found.statistic == pytest.approx(36 / 11)
    assert found.p_corrected == pytest.approx(stats.chi2.sf(36 / 11, 1))
    assert found.p_exact == pytest.approx(2 * 67 / 2048)
    assert mcnemar(first, first).p_exact == 1
    with pytest.raises(ValueError, match="both must"):
        mcnemar(first, second[1:])
