"""Evaluation of class probabilities: binary, multi-class and multi-label.

``binary.measure_against`` defines the figures of one class. Multi-class figures are macro averages
over classes against the rest, except accuracy, balanced accuracy, Brier and calibration error,
which ``macro.measure_whole`` defines. Multi-label figures are macro averages over findings. A macro
average is over the classes that have positive and negative rows; ``DiagnosisResult.left_out`` names
the others. It is undefined on a resample that lacks one of these classes; such resamples are
counted.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ufm_jax.evaluation.binary import FIGURES
from ufm_jax.evaluation.calibration import BINS
from ufm_jax.evaluation.cases import Cases, binary_cases, multiclass_cases, multilabel_cases
from ufm_jax.evaluation.intervals import Bootstrap, check_groups, describe, estimates, group_numbers
from ufm_jax.evaluation.macro import explain, split
from ufm_jax.evaluation.results import DiagnosisResult
from ufm_jax.evaluation.thresholds import HALF, Threshold


def diagnose_binary(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    positive: str,
    groups: np.ndarray,
    threshold: Threshold = HALF,
    bootstrap: Bootstrap | None = None,
    bins: int = BINS,
) -> DiagnosisResult:
    """Evaluates probabilities of two classes.

    Args:
        probabilities: float [R, 2].
        labels: int [R], 0 or 1.
        classes: The two names.
        positive: The class that is looked for.
        groups: [R], the group (patient) of each row.
        threshold: The positive class is called where its probability is at least this.
        bootstrap: How to make intervals; None = none.
        bins: Of the calibration error.

    Raises:
        ValueError: If an argument has a wrong shape or value; names it.
    """
    cases = binary_cases(probabilities, labels, classes, positive, threshold, bins)
    return _evaluate(cases, groups, bootstrap, bins)


def diagnose_multiclass(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    groups: np.ndarray,
    bootstrap: Bootstrap | None = None,
    bins: int = BINS,
) -> DiagnosisResult:
    """Evaluates probabilities of C exclusive classes; the class of highest probability is called.

    Args:
        probabilities: float [R, C], rows sum to 1.
        labels: int [R], 0..C-1.
        classes: C names.
        groups: [R], the group (patient) of each row.
        bootstrap: How to make intervals; None = none.
        bins: Of the calibration errors.

    Raises:
        ValueError: If an argument has a wrong shape or value; names it.
    """
    return _evaluate(
        multiclass_cases(probabilities, labels, classes, bins), groups, bootstrap, bins
    )


def diagnose_multilabel(
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    *,
    groups: np.ndarray,
    thresholds: Mapping[str, Threshold] | None = None,
    bootstrap: Bootstrap | None = None,
    bins: int = BINS,
) -> DiagnosisResult:
    """Evaluates probabilities of C findings, each on the rows where it is known.

    Args:
        probabilities: float [R, C], each in [0, 1].
        targets: [R, C], 1 = has it, 0 = has not, nan = unknown.
        classes: C names.
        groups: [R], the group (patient) of each row.
        thresholds: Finding -> threshold, of every finding; None = 0.5 for all.
        bootstrap: How to make intervals; None = none.
        bins: Of the calibration errors.

    Raises:
        ValueError: If an argument has a wrong shape or value; names it.
    """
    cases = multilabel_cases(probabilities, targets, classes, thresholds, bins)
    return _evaluate(cases, groups, bootstrap, bins)


def _evaluate(
    cases: Cases, groups: np.ndarray, bootstrap: Bootstrap | None, bins: int
) -> DiagnosisResult:
    """All figures, with intervals and reasons, and the curves."""
    groups = check_groups(groups, cases.num_rows)
    rests_on = {f"{c}/{x}": len(case.rows) for c, case in enumerate(cases.against) for x in FIGURES}
    found = estimates(cases.measure, groups, bootstrap, rests_on)
    if cases.kind == "binary":
        overall = explain(found, cases.against[0])
        per_class = {cases.against[0].name: overall}
    else:
        overall, per_class = split(found, cases.against)
    count = group_numbers(groups)[1]
    return DiagnosisResult(
        kind=cases.kind,
        classes=cases.classes,
        positive=cases.against[0].name if cases.kind == "binary" else "",
        num_rows=cases.num_rows,
        num_groups=count,
        support=cases.support,
        decision=cases.decision,
        overall=overall,
        per_class=per_class,
        confusion=cases.confusion,
        curves={case.name: case.curves(bins) for case in cases.against},
        left_out={case.name: case.lacks for case in cases.against if case.lacks},
        bins=bins,
        interval=describe(bootstrap, count),
    )
