"""Probabilities and labels of a task, checked and made ready to measure.

``diagnosis.diagnose`` evaluates the cases of one model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ufm_jax.evaluation.binary import OneVsRest, measure_class
from ufm_jax.evaluation.calls import make_calls
from ufm_jax.evaluation.diagnosis_input import check_labels, check_probabilities, check_targets
from ufm_jax.evaluation.intervals import Measure
from ufm_jax.evaluation.macro import measure_macro, measure_whole
from ufm_jax.evaluation.thresholds import HALF, Threshold


@dataclass(frozen=True)
class Cases:
    """The rows of a task, ready to measure.

    Attributes:
        kind: The kind of the task.
        classes: C names.
        against: Each class against the rest; for a binary task the positive class alone.
        measure: Figure -> values; for several classes also '<number>/<figure>'.
        confusion: Counts of rows; see ``results.DiagnosisResult``.
        support: Class -> rows that have it.
        decision: Class -> how it is called, in words.
        num_rows: R.
    """

    kind: Literal["binary", "multiclass", "multilabel"]
    classes: tuple[str, ...]
    against: tuple[OneVsRest, ...]
    measure: Measure
    confusion: np.ndarray
    support: Mapping[str, int]
    decision: Mapping[str, str]
    num_rows: int


def binary_cases(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    positive: str,
    threshold: Threshold = HALF,
) -> Cases:
    """The cases of two exclusive classes.

    Args:
        probabilities: float [R, 2].
        labels: int [R], 0 or 1.
        classes: The two names.
        positive: The class that is looked for.
        threshold: The positive class is called where its probability is at least this.

    Raises:
        ValueError: If an argument has a wrong shape or value; names it.
    """
    classes = tuple(classes)
    if len(classes) != 2:
        raise ValueError(f"a binary task has two classes, not {classes}")
    probabilities = check_probabilities(probabilities, classes)
    labels = check_labels(labels, len(probabilities), classes)
    if positive not in classes:
        raise ValueError(f"positive class {positive!r}: name one of {', '.join(classes)}")
    calls = make_calls(probabilities, "single", classes, {positive: threshold})
    both = one_vs_rest(probabilities, np.eye(2)[labels], classes, calls)
    case = both[classes.index(positive)]
    return Cases(
        kind="binary",
        classes=classes,
        against=(case,),
        measure=measure_class(case),
        confusion=case.confusion(),
        support=_support(both),
        decision={positive: str(threshold)},
        num_rows=len(labels),
    )


def multiclass_cases(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> Cases:
    """The cases of C exclusive classes; the class of highest probability is called.

    Args:
        probabilities: float [R, C], rows sum to 1.
        labels: int [R], 0..C-1.
        classes: C names.

    Raises:
        ValueError: If an argument has a wrong shape or value; names it.
    """
    classes = tuple(classes)
    probabilities = check_probabilities(probabilities, classes)
    labels = check_labels(labels, len(probabilities), classes)
    calls = make_calls(probabilities, "single", classes, {})
    against = one_vs_rest(probabilities, np.eye(len(classes))[labels], classes, calls)
    numbers = calls.argmax(1)
    whole = measure_whole(probabilities, labels, numbers)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels, numbers), 1)
    return Cases(
        kind="multiclass",
        classes=classes,
        against=against,
        measure=measure_macro(against, whole),
        confusion=confusion,
        support=_support(against),
        decision=dict.fromkeys(classes, "highest probability"),
        num_rows=len(labels),
    )


def multilabel_cases(
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    thresholds: Mapping[str, Threshold] | None = None,
) -> Cases:
    """The cases of C findings, each on the rows where it is known.

    Args:
        probabilities: float [R, C], each in [0, 1].
        targets: [R, C], 1 = has it, 0 = has not, nan = unknown.
        classes: C names.
        thresholds: Finding -> threshold, for every finding; None = 0.5 for all.

    Raises:
        ValueError: If an argument has a wrong shape or value; names it.
    """
    classes = tuple(classes)
    probabilities = check_probabilities(probabilities, classes, exclusive=False)
    targets = check_targets(targets, probabilities.shape)
    chosen = dict.fromkeys(classes, HALF) if thresholds is None else thresholds
    if set(chosen) != set(classes):
        raise ValueError(f"thresholds for {sorted(chosen)}: give one for each of {classes}")
    calls = make_calls(probabilities, "multi", classes, chosen)
    against = one_vs_rest(probabilities, targets, classes, calls)
    return Cases(
        kind="multilabel",
        classes=classes,
        against=against,
        measure=measure_macro(against),
        confusion=np.stack([case.confusion() for case in against]),
        support=_support(against),
        decision={name: str(chosen[name]) for name in classes},
        num_rows=len(targets),
    )


def one_vs_rest(
    probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str], calls: np.ndarray
) -> tuple[OneVsRest, ...]:
    """Each class against the rest, on the rows where it is known.

    Args:
        probabilities: float [R, C].
        targets: float [R, C], 1 = has it, 0 = has not, nan = unknown.
        classes: C names.
        calls: bool [R, C], the classes called.
    """
    known = [np.flatnonzero(~np.isnan(column)) for column in targets.T]
    return tuple(
        OneVsRest(name, rows, probabilities[rows, c], targets[rows, c] == 1, calls[rows, c])
        for c, (name, rows) in enumerate(zip(classes, known, strict=True))
    )


def _support(cases: Sequence[OneVsRest]) -> dict[str, int]:
    """Class -> rows that have it."""
    return {case.name: int(case.positive.sum()) for case in cases}
