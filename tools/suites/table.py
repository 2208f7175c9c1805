"""The tables of a suite: figures by labels, over seeds, and paired differences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from tools.suites.plan import Contrast, Figure, Label, Run, Suite
from tools.suites.results import Results, figure_of
from ufm_jax.evaluation.paired_tests import Comparison
from ufm_jax.evaluation.results import Estimate

LEVEL = 0.95

Compare = Callable[[Run, Run], Mapping[str, Comparison]]
"""Compares two finished runs on the same rows: figures by name, first minus second.

Raises ValueError where they cannot be compared."""


@dataclass(frozen=True)
class Row:
    """Runs that differ in the seed alone.

    Attributes:
        labels: Column -> value, the seed's not among them.
        cells: Title of a figure -> its value; the figures that the runs do not have are absent.
        finished: Runs that the figures rest upon.
        planned: Runs that there will be.
    """

    labels: Mapping[str, Label]
    cells: Mapping[str, Estimate]
    finished: int
    planned: int


@dataclass(frozen=True)
class Gap:
    """A figure's paired difference and the two-sided p of there being none; nan = no test."""

    difference: Estimate
    p_value: float


@dataclass(frozen=True)
class GapRow:
    """A contrast between runs that are alike in ``labels``.

    Attributes:
        contrast: What is subtracted.
        labels: What the runs share; neither the contrast's label nor the seed is among them.
        cells: Title of a figure -> its difference.
        finished: Pairs of runs that the differences rest upon.
        method: How intervals and p were made.
        note: Why there is no difference, or "".
    """

    contrast: Contrast
    labels: Mapping[str, Label]
    cells: Mapping[str, Gap]
    finished: int
    method: str
    note: str = ""


@dataclass(frozen=True)
class Tables:
    """What is shown of a suite."""

    suite: Suite
    rows: Sequence[Row]
    gaps: Sequence[GapRow]


def make_tables(suite: Suite, results: Mapping[str, Results], compare: Compare) -> Tables:
    """Tables of the runs that are finished so far.

    Args:
        suite: The suite.
        results: Name of a finished run -> what is known of it.
        compare: Compares two of them; called where a difference rests on one pair of runs.
    """
    gaps = [
        _gap_row(suite, contrast, labels, pairs, results, compare)
        for contrast in suite.contrasts
        for labels, pairs in _pairs(suite, contrast, results)
    ]
    return Tables(suite, _rows(suite, results), gaps)


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of n >= 1 values and Student's interval of it; undefined values are left out."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    lost, count = len(values) - len(known), len(known)
    note = f"undefined in {lost} of {len(values)} runs, left out" if lost else ""
    if count < 2:
        value = float(known[0]) if count else np.nan
        return Estimate(value, np.nan, np.nan, count, note)
    reach = stats.t.ppf((1 + LEVEL) / 2, count - 1) * stats.sem(known)
    mean = float(known.mean())
    return Estimate(mean, mean - float(reach), mean + float(reach), count, note)


def _rows(suite: Suite, results: Mapping[str, Results]) -> list[Row]:
    rows = []
    for labels, runs in _alike(suite.runs, suite.over):
        known = [results[run.name] for run in runs if run.name in results]
        cells = {}
        for figure in suite.figures:
            found = [figure_of(each, figure) for each in known]
            estimates = [estimate for estimate in found if estimate is not None]
            if estimates:
                cells[figure.title] = _combine(estimates)
        rows.append(Row(labels, cells, len(known), len(runs)))
    return rows


def _combine(estimates: Sequence[Estimate]) -> Estimate:
    """Of one run the figure with its own interval, of several the mean over them."""
    if len(estimates) == 1:
        return estimates[0]
    return over_seeds([estimate.value for estimate in estimates])


def _alike(runs: Sequence[Run], *without: str) -> list[tuple[dict[str, Label], list[Run]]]:
    """Runs of the table that share all labels but ``without``, and those labels, in order."""
    groups: dict[tuple[Label, ...], tuple[dict[str, Label], list[Run]]] = {}
    for run in runs:
        if run.labels:
            shared = {key: value for key, value in run.labels.items() if key not in without}
            groups.setdefault(tuple(shared.values()), (shared, []))[1].append(run)
    return list(groups.values())


def _pairs(
    suite: Suite, contrast: Contrast, results: Mapping[str, Results]
) -> list[tuple[dict[str, Label], list[tuple[Run, Run]]]]:
    """Finished runs of a contrast, paired by seed, by the labels that they share."""
    found = []
    for labels, runs in _alike(suite.runs, suite.over, contrast.label):
        by_place = {
            (run.labels[contrast.label], run.labels.get(suite.over)): run
            for run in runs
            if run.name in results
        }
        pairs = [
            (run, by_place[contrast.second, seed])
            for (value, seed), run in by_place.items()
            if value == contrast.first and (contrast.second, seed) in by_place
        ]
        if pairs:
            found.append((labels, pairs))
    return found


def _gap_row(
    suite: Suite,
    contrast: Contrast,
    labels: Mapping[str, Label],
    pairs: Sequence[tuple[Run, Run]],
    results: Mapping[str, Results],
    compare: Compare,
) -> GapRow:
    known = {
        figure.title: gaps
        for figure in suite.figures
        if (gaps := _gaps_by_seed(figure, pairs, results))
    }
    compared, reasons = _compared(pairs, compare)
    note = "; ".join(reasons)
    if len(pairs) > 1:
        cells = {title: _gap_over_seeds(gaps) for title, gaps in known.items()}
        method = f"t interval over {len(pairs)} pairs of runs"
        return GapRow(contrast, labels, cells, len(pairs), method, note)
    cells = {title: Gap(over_seeds(gaps), np.nan) for title, gaps in known.items()}
    paired = {
        figure.title: found
        for figure in suite.figures
        if figure.title in known and (found := _first(compared, figure.pair_names))
    }
    cells |= {title: _gap(cells[title], found) for title, found in paired.items()}
    methods = "; ".join(dict.fromkeys(found.method for found in paired.values()))
    return GapRow(contrast, labels, cells, 1, methods or "no intervals", note)


def _gap(bare: Gap, found: Comparison) -> Gap:
    """The paired difference; it is said where it rests on fewer images than the figures do."""
    difference = found.difference
    if not np.isclose(difference.value, bare.difference.value, rtol=1e-6, atol=1e-9):
        part = f"over the {difference.n} images alone for which both runs have it"
        note = "; ".join(filter(None, (difference.note, part)))
        difference = replace(difference, note=note)
    return Gap(difference, found.p_value)


def _first(compared: Mapping[str, Comparison], names: Sequence[str]) -> Comparison | None:
    """The first of the named comparisons that there is."""
    return next((compared[name] for name in names if name in compared), None)


def _compared(
    pairs: Sequence[tuple[Run, Run]], compare: Compare
) -> tuple[Mapping[str, Comparison], list[str]]:
    """The comparison of the last pair, and why pairs could not be compared.

    Every pair is: a difference of figures on other images would say nothing.
    """
    compared: Mapping[str, Comparison] = {}
    reasons = dict[str, None]()
    for pair in pairs:
        try:
            compared = compare(*pair)
        except ValueError as error:
            reasons[f"{pair[0].name} and {pair[1].name}: {error}"] = None
    return compared, list(reasons)


def _gaps_by_seed(
    figure: Figure, pairs: Sequence[tuple[Run, Run]], results: Mapping[str, Results]
) -> list[float]:
    """First minus second, of the pairs in which both have the figure."""
    found = [[figure_of(results[run.name], figure) for run in pair] for pair in pairs]
    return [one.value - two.value for one, two in found if one is not None and two is not None]


def _gap_over_seeds(gaps: Sequence[float]) -> Gap:
    """Student's paired test."""
    estimate = over_seeds(gaps)
    if np.isnan(estimate.low):
        return Gap(estimate, np.nan)
    if estimate.low == estimate.high:
        return Gap(estimate, 1.0 if estimate.value == 0 else np.nan)
    statistic = estimate.value / stats.sem(gaps, nan_policy="omit")
    return Gap(estimate, float(2 * stats.t.sf(abs(statistic), estimate.n - 1)))
