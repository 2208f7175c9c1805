"""Bootstrap: groups are drawn whole, the same each time, and failures are counted."""

import numpy as np
import pytest

from ufm_jax.evaluation.intervals import (
    Bootstrap,
    describe,
    estimates,
    evaluate,
    measure_mean,
)


def mean_of(values):
    return measure_mean({"mean": np.asarray(values, float)})


def measure_rows(function, name):
    """The figure of each resample computed from its rows, one resample after the other."""

    def measure(weights):
        rows = np.arange(weights.shape[1])
        return {name: np.array([function(np.repeat(rows, w.astype(int))) for w in weights])}

    return measure


def rng_of(seed):
    return np.random.Generator(np.random.Philox(seed))


def test_rows_of_a_group_are_drawn_together():
    groups = np.array(["b", "a", "b", "c", "a", "b"])
    seen = []

    def measure(weights):
        seen.append(weights)
        return {"total": weights.sum(1)}

    evaluate(measure, groups, Bootstrap(replicates=50))
    weights = np.concatenate(seen[1:])
    assert weights.shape == (50, 6)
    for name in "abc":
        same = weights[:, groups == name]
        assert (same == same[:, :1]).all()
    first_rows = weights[:, [0, 1, 3]]
    assert (first_rows.sum(1) == 3).all()
    assert len(np.unique(first_rows, axis=0)) > 5


def test_the_standard_error_is_that_of_groups_not_of_rows():
    # 50 groups of 20 equal rows: the mean's error is sigma / sqrt(50), not sigma / sqrt(1000).
    per_group = rng_of(0).normal(size=50)
    figure = estimates(
        mean_of(np.repeat(per_group, 20)), np.repeat(np.arange(50), 20), Bootstrap()
    )["mean"]
    expected = 2 * 1.96 * per_group.std() / np.sqrt(50)
    assert figure.high - figure.low == pytest.approx(expected, rel=0.1)


def test_equal_names_and_seeds_give_equal_intervals_whatever_the_blocks(monkeypatch):
    values, groups = rng_of(1).normal(size=300), np.arange(300) // 2
    settings = Bootstrap(replicates=100, name="dice")
    one = estimates(mean_of(values), groups, settings)
    monkeypatch.setattr("ufm_jax.evaluation.intervals._BLOCK", 900)
    again = estimates(mean_of(values), groups, settings)["mean"]
    assert (again.low, again.high) == pytest.approx((one["mean"].low, one["mean"].high), rel=1e-12)
    assert estimates(mean_of(values), groups, Bootstrap(replicates=100, name="iou")) != one
    assert estimates(mean_of(values), groups, Bootstrap(replicates=100, seed=1)) != one


def fails_without_the_last(rows):
    return float(rows.mean()) if 9 in rows else np.nan


def test_undefined_resamples_are_counted_and_left_out():
    found = estimates(
        measure_rows(fails_without_the_last, "x"), np.arange(10), Bootstrap(replicates=400)
    )["x"]
    # The last of 10 is in no draw with probability 0.9^10 = 0.35.
    failed = int(found.note.split()[2])
    assert 100 < failed < 180
    assert found.note.startswith(f"undefined on {failed} of 400 resamples")
    assert found.low < found.value < found.high


def test_no_interval_where_half_of_the_resamples_fail():
    needs_two = measure_rows(lambda rows: 1.0 if {0, 1, 2} <= set(rows) else np.nan, "x")
    found = estimates(needs_two, np.arange(20), Bootstrap(replicates=200))["x"]
    assert found.value == 1
    assert np.isnan(found.low)
    assert found.note.endswith("no interval")


def test_measures_by_rows_and_by_weights_agree():
    values, groups = rng_of(4).normal(size=60), np.arange(60) // 3
    settings = Bootstrap(replicates=50)
    fast = evaluate(mean_of(values), groups, settings).drawn["mean"]
    slow = evaluate(measure_rows(lambda rows: values[rows].mean(), "mean"), groups, settings)
    np.testing.assert_allclose(slow.drawn["mean"], fast, rtol=1e-12)


def test_one_group_has_no_interval():
    found = estimates(mean_of([1.0, 2.0]), np.zeros(2), Bootstrap())["mean"]
    assert found.value == 1.5
    assert np.isnan(found.low)
    assert found.note == "one group only: no interval"
    assert describe(None, 1) == "no intervals"


def test_coverage_is_near_nominal():
    inside = 0
    for seed in range(200):
        values = rng_of(1000 + seed).normal(size=60)
        figure = estimates(mean_of(values), np.arange(60), Bootstrap(replicates=300, seed=seed))
        inside += figure["mean"].low <= 0 <= figure["mean"].high
    assert 178 <= inside <= 199


@pytest.mark.parametrize("options", [{"replicates": 0}, {"level": 1.0}])
def test_impossible_settings_are_errors(options):
    with pytest.raises(ValueError, match="use"):
        Bootstrap(**options)
