"""Probabilities and labels of a task, checked and made ready to measure.

``diagnosis`` evaluates one model's; ``compare.paired_bootstrap`` compares two by their measures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ufm_jax.evaluation.binary import Against, measure_against
from ufm_jax.evaluation.calibration import BINS
from ufm_jax.evaluation.calls import called
from ufm_jax.evaluation.diagnosis_input import (
    check_labels,
    check_probabilities,
    check_targets,
    class_number,
)
from ufm_jax.evaluation.intervals import Measure
from ufm_jax.evaluation.macro import measure_macro, measure_whole
from ufm_jax.evaluation.thresholds import HALF, Threshold


@dataclass(frozen=True)
class Cases:
    """A task's rows, class by class.

    Attributes:
        kind: Of the task.
        classes: C names.
        against: The classes against the rest; of a binary task the positive one.
        measure: Figure -> values; for several classes also '<number>/<figure>'.
        confusion: See ``results.DiagnosisResult``.
        support: Class -> rows that have it.
        decision: Class -> how it is called, in words.
        num_rows: R.
    """

    kind: Literal["binary", "multiclass", "multilabel"]
    classes: tuple[str, ...]
    against: tuple[Against, ...]
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
    bins: int = BINS,
) -> Cases:
    """Two exclusive classes, of which one is looked for; arguments as in ``diagnose_binary``."""
    classes = tuple(classes)
    if len(classes) != 2:
        raise ValueError(f"a binary task has two classes, not {classes}")
    probabilities = check_probabilities(probabilities, classes)
    labels = check_labels(labels, len(probabilities), classes)
    number = class_number(positive, classes)
    calls = called(probabilities, "single", classes, {positive: threshold})
    case = against_the_rest(probabilities, one_hot(labels, classes), classes, calls)[number]
    return Cases(
        kind="binary",
        classes=classes,
        against=(case,),
        measure=measure_against(case, bins),
        confusion=case.confusion(),
        support=_support(labels, classes),
        decision={positive: str(threshold)},
        num_rows=len(labels),
    )


def multiclass_cases(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], bins: int = BINS
) -> Cases:
    """C exclusive classes; arguments as in ``diagnose_multiclass``."""
    classes = tuple(classes)
    probabilities = check_probabilities(probabilities, classes)
    labels = check_labels(labels, len(probabilities), classes)
    calls = called(probabilities, "single", classes, {})
    against = against_the_rest(probabilities, one_hot(labels, classes), classes, calls)
    numbers = calls.argmax(1)
    whole = measure_whole(probabilities, labels, numbers, bins)
    cells = np.bincount(labels * len(classes) + numbers, minlength=len(classes) ** 2)
    return Cases(
        kind="multiclass",
        classes=classes,
        against=against,
        measure=measure_macro(against, bins, whole),
        confusion=cells.reshape(len(classes), len(classes)),
        support=_support(labels, classes),
        decision=dict.fromkeys(classes, "highest probability"),
        num_rows=len(labels),
    )


def multilabel_cases(
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    thresholds: Mapping[str, Threshold] | None = None,
    bins: int = BINS,
) -> Cases:
    """C findings, each on the rows where it is known; arguments as in ``diagnose_multilabel``."""
    classes = tuple(classes)
    probabilities = check_probabilities(probabilities, classes, exclusive=False)
    targets = check_targets(targets, probabilities.shape)
    chosen = dict.fromkeys(classes, HALF) if thresholds is None else thresholds
    if set(chosen) != set(classes):
        raise ValueError(f"thresholds of {sorted(chosen)}: give one for each of {classes}")
    calls = called(probabilities, "multi", classes, chosen)
    against = against_the_rest(probabilities, targets, classes, calls)
    return Cases(
        kind="multilabel",
        classes=classes,
        against=against,
        measure=measure_macro(against, bins),
        confusion=np.stack([case.confusion() for case in against]),
        support={case.name: int(case.positive.sum()) for case in against},
        decision={name: str(chosen[name]) for name in classes},
        num_rows=len(targets),
    )


def against_the_rest(
    probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str], calls: np.ndarray
) -> tuple[Against, ...]:
    """Each class against the rest, on the rows where it is known.

    Args:
        probabilities: float [R, C].
        targets: float [R, C], 1 = has it, 0 = has not, nan = unknown.
        classes: C names.
        calls: bool [R, C], the classes called.
    """
    known = [np.flatnonzero(~np.isnan(column)) for column in targets.T]
    return tuple(
        Against(name, rows, probabilities[rows, c], targets[rows, c] == 1, calls[rows, c])
        for c, (name, rows) in enumerate(zip(classes, known, strict=True))
    )


def one_hot(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Class numbers [R] as targets, float64 [R, C]."""
    return (labels[:, None] == np.arange(len(classes))).astype(np.float64)


def _support(labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, int]:
    """Class -> rows that have it."""
    counts = np.bincount(labels, minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))
