"""Macro averages over classes, and the figures of exclusive classes taken together."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ufm_jax.evaluation.binary import FIGURES, OneVsRest, measure_class
from ufm_jax.evaluation.calibration import bin_table, calibration_error
from ufm_jax.evaluation.intervals import Measure, divide, measure_classes
from ufm_jax.evaluation.results import Estimate


def measure_macro(cases: Sequence[OneVsRest], whole: Measure | None = None) -> Measure:
    """The measure of every class's figures, and of their means; see ``measure_classes``.

    Means are over the classes that have positive and negative rows.

    Args:
        cases: C classes, each against the rest.
        whole: Figures of all classes together, which replace means of the same name.
    """
    complete = [c for c, case in enumerate(cases) if not case.lacks]
    each = measure_classes(
        [measure_class(case) for case in cases], dict.fromkeys(FIGURES, complete)
    )
    return (lambda weights: {**each(weights), **whole(weights)}) if whole else each


def measure_whole(probabilities: np.ndarray, labels: np.ndarray, called: np.ndarray) -> Measure:
    """Accuracy, balanced accuracy, Brier and calibration error of exclusive classes.

    Balanced accuracy is the mean sensitivity of the classes that occur; it is nan on a resample
    that lacks one of them. The Brier score (Monthly Weather Review 78:1, 1950) is the squared error
    summed over the classes, 0 to 2, as in scikit-learn. The calibration error is that of the
    probability of the called class (Guo et al. 2017).

    Args:
        probabilities: float64 [R, C].
        labels: int64 [R].
        called: int64 [R], the classes called.
    """
    right = called == labels
    confidence = probabilities[np.arange(len(labels)), called]
    table = bin_table(confidence)
    squared = ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(1)
    truth = np.eye(probabilities.shape[1])[labels][:, np.unique(labels)]

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        total = weights.sum(1)
        sensitivity = divide(weights @ (truth * right[:, None]), weights @ truth)
        return {
            "accuracy": divide(weights @ right, total),
            "balanced_accuracy": sensitivity.mean(1),
            "brier": divide(weights @ squared, total),
            "calibration_error": calibration_error(confidence, right, table, weights),
        }

    return measure


def split(
    found: Mapping[str, Estimate], cases: Sequence[OneVsRest]
) -> tuple[dict[str, Estimate], dict[str, dict[str, Estimate]]]:
    """Figures of ``measure_macro``, by name and by class and name, with notes that explain."""
    overall = {name: value for name, value in found.items() if "/" not in name}
    if all(case.lacks for case in cases):
        reason = "no class has both positive and negative rows"
        overall = {name: _because(value, reason) for name, value in overall.items()}
    per_class = {
        case.name: explain({name: found[f"{c}/{name}"] for name in FIGURES}, case)
        for c, case in enumerate(cases)
    }
    return overall, per_class


def explain(figures: Mapping[str, Estimate], case: OneVsRest) -> dict[str, Estimate]:
    """Figures of one class, with notes why some are undefined, or 0 by convention."""
    explained = {name: _because(value, case.lacks) for name, value in figures.items()}
    if case.positive.any() and not case.called.any():
        explained["precision"] = _remark(explained["precision"], "never called: 0 by convention")
    if not case.positive.all() and len(case.rows) and case.called.all():
        explained["npv"] = _remark(explained["npv"], "always called: 0 by convention")
    return explained


def _because(value: Estimate, reason: str) -> Estimate:
    return dataclasses.replace(value, note=reason) if np.isnan(value.value) else value


def _remark(value: Estimate, remark: str) -> Estimate:
    return dataclasses.replace(value, note="; ".join(filter(None, (remark, value.note))))
