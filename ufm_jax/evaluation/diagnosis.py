"""Evaluation of class probabilities: binary, multi-class and multi-label.

``binary.measure_class`` defines the figures of one class. Multi-class figures are macro averages
over classes against the rest, except accuracy, balanced accuracy, Brier and calibration error,
which ``macro.measure_whole`` defines. Multi-label figures are macro averages over findings. A macro
average is over the classes that have positive and negative rows; ``DiagnosisResult.left_out`` names
the others. It is undefined on a resample that lacks one of these classes; such resamples are
counted.
"""

import numpy as np

from ufm_jax.evaluation.binary import FIGURES
from ufm_jax.evaluation.calibration import BINS
from ufm_jax.evaluation.cases import Cases
from ufm_jax.evaluation.intervals import Bootstrap, describe, estimates, group_numbers
from ufm_jax.evaluation.macro import explain, split
from ufm_jax.evaluation.results import DiagnosisResult


def diagnose(
    cases: Cases, groups: np.ndarray, bootstrap: Bootstrap | None = None
) -> DiagnosisResult:
    """All figures of a diagnosis, with intervals, the reasons of undefined ones, and the curves.

    Args:
        cases: R rows; see ``cases.binary_cases``, ``multiclass_cases`` and ``multilabel_cases``.
        groups: [R], the group (patient) of each row.
        bootstrap: How intervals are made; None = without intervals.

    Raises:
        ValueError: If there is not one group for each row.
    """
    numbers, count = group_numbers(groups, cases.num_rows)
    rests_on = {f"{c}/{x}": len(case.rows) for c, case in enumerate(cases.against) for x in FIGURES}
    found = estimates(cases.measure, numbers, bootstrap, rests_on)
    positive = cases.against[0].name if cases.kind == "binary" else ""
    if positive:
        overall = explain(found, cases.against[0])
        per_class = {positive: overall}
    else:
        overall, per_class = split(found, cases.against)
    return DiagnosisResult(
        kind=cases.kind,
        classes=cases.classes,
        positive=positive,
        num_rows=cases.num_rows,
        num_groups=count,
        support=cases.support,
        decision=cases.decision,
        overall=overall,
        per_class=per_class,
        confusion=cases.confusion,
        curves={case.name: case.curves() for case in cases.against},
        left_out={case.name: case.lacks for case in cases.against if case.lacks},
        bins=BINS,
        interval=describe(bootstrap, count),
    )
