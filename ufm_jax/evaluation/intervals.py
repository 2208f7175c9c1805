"""Bootstrap intervals over groups: a patient's images are drawn together or not at all.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 14.

A resample is a vector of weights: how often each row was drawn. A ``Measure`` computes its figures
for many resamples at once, from weights [B, R], so that thousands of resamples are a few matrix
products.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ufm_jax.evaluation.results import Estimate
from ufm_jax.randomness import generator

Measure = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""float64 weights [B, R] -> name -> figures [B]; nan where a figure is undefined."""

LEVEL = 0.95
"""Coverage of intervals."""

_BLOCK = 1 << 21
"""Weights that are computed with at once, which bounds memory."""


@dataclass(frozen=True)
class Bootstrap:
    """How percentile intervals are made.

    Attributes:
        replicates: The number of resamples, B.
        level: The intervals' coverage.
        seed: The seed of the run.
        name: A name for the resamples; equal seed, name and groups give equal resamples.
    """

    replicates: int = 2000
    level: float = LEVEL
    seed: int = 0
    name: str = "bootstrap"

    def __post_init__(self) -> None:
        if self.replicates < 1 or not 0 < self.level < 1:
            raise ValueError(
                f"bootstrap of {self.replicates} replicates at level {self.level}: use at least 1 "
                "replicate and a level between 0 and 1"
            )


@dataclass(frozen=True)
class Replicates:
    """Figures by name: ``point`` on all rows, and ``drawn``, float [B], on resamples."""

    point: Mapping[str, float]
    drawn: Mapping[str, np.ndarray]


def describe(settings: Bootstrap | None, num_groups: int) -> str:
    """How intervals were made, in words for reports."""
    if settings is None:
        return "no intervals"
    return (
        f"{100 * settings.level:g} % percentile bootstrap, {settings.replicates} resamples "
        f"of {num_groups} groups, seed {settings.seed}"
    )


def group_numbers(groups: np.ndarray, rows: int | None = None) -> tuple[np.ndarray, int]:
    """Numbers 0..G-1 of the groups of R rows, int64 [R], and G.

    Raises:
        ValueError: If there is not one group for each of ``rows`` >= 1 rows.
    """
    groups = np.asarray(groups)
    rows = len(groups) if rows is None else rows
    if groups.shape != (rows,) or not rows:
        raise ValueError(f"groups of shape {groups.shape}: give one group for each of {rows} rows")
    names, numbers = np.unique(groups, return_inverse=True)
    return numbers, len(names)


def evaluate(measure: Measure, groups: np.ndarray, settings: Bootstrap) -> Replicates:
    """Figures on all rows, in ``groups`` [R], and on each resample of whole groups."""
    numbers, count = group_numbers(groups)
    point = measure(np.ones((1, len(numbers))))
    rng = generator(settings.seed, f"{settings.name}/groups")
    blocks = [measure(weights) for weights in _resamples(rng, numbers, count, settings.replicates)]
    drawn = {name: np.concatenate([block[name] for block in blocks]) for name in point}
    return Replicates({name: float(value[0]) for name, value in point.items()}, drawn)


def estimates(
    measure: Measure,
    groups: np.ndarray,
    settings: Bootstrap | None,
    support: Mapping[str, int] | None = None,
) -> dict[str, Estimate]:
    """Figures with bootstrap intervals over groups.

    Resamples on which a figure is undefined (one class only) are left out of its interval and
    counted in its note. If they are half of all or more, the figure has no interval.

    Args:
        measure: The figures.
        groups: [R], the group of each row.
        settings: How intervals are made; None = without intervals.
        support: Name -> rows that a figure rests upon, if not R.
    """
    numbers, count = group_numbers(groups)
    support = support or {}
    rows = len(numbers)
    if settings is None or count < 2:
        note = "" if settings is None else "one group only: no interval"
        return {
            name: _alone(float(value[0]), support.get(name, rows), note)
            for name, value in measure(np.ones((1, rows))).items()
        }
    found = evaluate(measure, groups, settings)
    return {
        name: interval(value, found.drawn[name], settings.level, support.get(name, rows))
        for name, value in found.point.items()
    }


def interval(value: float, drawn: np.ndarray, level: float, rows: int) -> Estimate:
    """The interval of one figure from its values on resamples.

    Args:
        value: The figure on all rows.
        drawn: float [B], on the resamples; nan = undefined there.
        level: The interval's coverage.
        rows: ``Estimate.n``.
    """
    if np.isnan(value):
        return _alone(value, rows)
    valid = drawn[~np.isnan(drawn)]
    failed = len(drawn) - len(valid)
    note = f"undefined on {failed} of {len(drawn)} resamples, left out" if failed else ""
    if 2 * failed >= len(drawn):
        return _alone(value, rows, note + ": no interval")
    low, high = np.quantile(valid, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), rows, note)


def measure_mean(values: Mapping[str, np.ndarray]) -> Measure:
    """A measure of the mean of each name's values [R], over the rows where they are not nan."""
    table = np.stack([np.asarray(column, np.float64) for column in values.values()], axis=1)
    known = (~np.isnan(table)).astype(np.float64)
    filled = np.nan_to_num(table)

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        means = divide(weights @ filled, weights @ known)
        return {name: means[:, index] for index, name in enumerate(values)}

    return measure


def measure_classes(measures: Sequence[Measure], averaged: Mapping[str, Sequence[int]]) -> Measure:
    """A measure of each class's figures, '<number>/<figure>', and of their means over classes.

    Args:
        measures: C measures, one of each class.
        averaged: Figure -> the numbers of the classes that its mean is over; without any it is nan.
    """

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        per_class = [function(weights) for function in measures]
        out = {f"{c}/{name}": x for c, found in enumerate(per_class) for name, x in found.items()}
        undefined = np.full(len(weights), np.nan)
        for name, numbers in averaged.items():
            columns = [per_class[c][name] for c in numbers]
            out[name] = np.mean(columns, axis=0) if columns else undefined
        return out

    return measure


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotients, or nan where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    out = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


def _alone(value: float, rows: int, note: str = "") -> Estimate:
    """A figure without an interval."""
    return Estimate(
        value, np.nan, np.nan, rows, "undefined on these rows" if np.isnan(value) else note
    )


def _resamples(
    rng: np.random.Generator, numbers: np.ndarray, count: int, replicates: int
) -> Iterator[np.ndarray]:
    """Yields weights of rows, float64 [b, R], in blocks that do not change the draws."""
    block = max(1, _BLOCK // len(numbers))
    even = np.full(count, 1 / count)
    for start in range(0, replicates, block):
        draws = rng.multinomial(count, even, size=min(block, replicates - start))
        yield draws[:, numbers].astype(np.float64)
