"""Two models on the same rows: DeLong's test, paired bootstrap over groups, McNemar's test."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ufm_jax.evaluation.delong import areas_and_covariance
from ufm_jax.evaluation.intervals import (
    LEVEL,
    Bootstrap,
    Measure,
    Replicates,
    evaluate,
    group_numbers,
    interval,
)
from ufm_jax.evaluation.results import Estimate


@dataclass(frozen=True)
class Comparison:
    """One figure of two models on the same rows.

    Attributes:
        first: The first model's figure.
        second: The second's.
        difference: The first figure minus the second.
        p_value: Two-sided, for no difference; nan = no test was possible, and ``difference.note``
            says why.
        method: The test, in words.
    """

    first: Estimate
    second: Estimate
    difference: Estimate
    p_value: float
    method: str


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two ways to call the same rows.

    Attributes:
        first_only: Rows that only the first called rightly.
        second_only: Rows that only the second called rightly.
        p_exact: Two-sided exact binomial p; 1 without such rows.
        statistic: Chi-square with continuity correction, (|b - c| - 1)^2 / (b + c), or 0.
        p_corrected: The p of the statistic, with one degree of freedom.
    """

    first_only: int
    second_only: int
    p_exact: float
    statistic: float
    p_corrected: float


def auroc_interval(
    positive: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray | None = None,
) -> Estimate:
    """Area under the ROC curve with DeLong's 95 % interval, cut at 0 and 1.

    Args:
        positive: bool or 0/1 [R].
        scores: float [R].
        groups: [R]; see ``delong``. None = rows are independent.
    """
    areas, covariance = areas_and_covariance(positive, np.asarray(scores)[None], groups)
    return _wald(float(areas[0]), float(covariance[0, 0]), len(positive), (0, 1))


def delong_test(
    positive: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    groups: np.ndarray | None = None,
) -> Comparison:
    """DeLong's test of the areas under two ROC curves of the same rows.

    Args:
        positive: bool or 0/1 [R].
        first: float [R], the first model's scores.
        second: float [R], the second's.
        groups: [R]; see ``delong``. None = rows are independent.

    Raises:
        ValueError: See ``delong.areas_and_covariance``.
    """
    areas, covariance = areas_and_covariance(positive, np.stack([first, second]), groups)
    rows = len(positive)
    one, two = (_wald(float(areas[i]), float(covariance[i, i]), rows, (0, 1)) for i in (0, 1))
    variance = float(np.array([1, -1]) @ covariance @ np.array([1, -1]))
    difference = _wald(float(areas[0] - areas[1]), variance, rows, (-1, 1))
    if difference.low < difference.high:
        p_value = float(2 * stats.norm.sf(abs(difference.value) / np.sqrt(variance)))
    else:
        p_value = 1.0 if difference.value == 0 else np.nan
    method = "DeLong" if groups is None else "DeLong, clustered by group (Obuchowski)"
    return Comparison(one, two, difference, p_value, method)


def paired_bootstrap(
    first: Measure, second: Measure, groups: np.ndarray, settings: Bootstrap
) -> dict[str, Comparison]:
    """Compares all figures that two measures share, on the same resamples of whole groups.

    p is the smallest 1 - level at which the percentile interval of the difference excludes 0:
    2 min(#{d <= 0} + 1, #{d >= 0} + 1) / (B + 1), at most 1.

    Args:
        first: The first model's figures.
        second: The second's, on the same rows in the same order.
        groups: [R].
        settings: How many resamples, and the level of the intervals.

    Raises:
        ValueError: If the measures share no figure, or there are fewer than two groups.
    """
    count = group_numbers(groups)[1]
    if count < 2:
        raise ValueError("one group only: a comparison needs at least two groups to resample")
    # Equal settings and groups give both the same resamples.
    one, two = (evaluate(measure, groups, settings) for measure in (first, second))
    shared = [name for name in one.point if name in two.point]
    if not shared:
        raise ValueError("the two measures share no figure")
    method = f"paired bootstrap, {settings.replicates} resamples of {count} groups"
    return {name: _paired(one, two, name, settings, len(groups), method) for name in shared}


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> McNemar:
    """McNemar's test (Psychometrika 12:153, 1947) of two ways to call the same n rows.

    Args:
        first_right: bool [n], whether the first called each row rightly.
        second_right: bool [n].

    Raises:
        ValueError: If shapes differ.
    """
    first_right, second_right = np.asarray(first_right, bool), np.asarray(second_right, bool)
    if first_right.shape != second_right.shape or first_right.ndim != 1:
        raise ValueError(
            f"calls of shapes {first_right.shape} and {second_right.shape}: both must be [n]"
        )
    first_only = int((first_right & ~second_right).sum())
    second_only = int((second_right & ~first_right).sum())
    total = first_only + second_only
    if not total:
        return McNemar(0, 0, 1.0, 0.0, 1.0)
    exact = stats.binomtest(first_only, total).pvalue
    statistic = max(abs(first_only - second_only) - 1, 0) ** 2 / total
    return McNemar(
        first_only, second_only, float(exact), statistic, float(stats.chi2.sf(statistic, 1))
    )


def _wald(value: float, variance: float, rows: int, bounds: tuple[float, float]) -> Estimate:
    """A normal interval; if the variance is 0 it has no width, and the note says so."""
    # Rounding leaves a variance of this order where scores agree or separate perfectly.
    if variance <= np.finfo(np.float64).eps:
        note = "variance 0 (perfect separation or equal rankings): the interval means nothing"
        return Estimate(value, value, value, rows, note)
    reach = float(stats.norm.isf((1 - LEVEL) / 2) * np.sqrt(variance))
    return Estimate(value, max(value - reach, bounds[0]), min(value + reach, bounds[1]), rows)


def _paired(
    first: Replicates, second: Replicates, name: str, settings: Bootstrap, rows: int, method: str
) -> Comparison:
    """The comparison of one figure."""
    gaps = first.drawn[name] - second.drawn[name]
    difference = interval(first.point[name] - second.point[name], gaps, settings.level, rows)
    p_value = np.nan
    if not np.isnan(difference.low):
        valid = gaps[~np.isnan(gaps)]
        tail = min((valid <= 0).sum(), (valid >= 0).sum()) + 1
        p_value = min(1.0, 2 * float(tail) / (len(valid) + 1))
    one, two = (
        interval(side.point[name], side.drawn[name], settings.level, rows)
        for side in (first, second)
    )
    return Comparison(one, two, difference, p_value, method)
