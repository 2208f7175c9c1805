"""All figures of one class against the rest, for many weightings of the rows at once."""

from dataclasses import dataclass

import numpy as np

from ufm_jax.evaluation.calibration import bin_table, calibration_curve, calibration_error
from ufm_jax.evaluation.intervals import Measure, divide
from ufm_jax.evaluation.ranking import areas, precision_recall_curve, rank, roc_curve
from ufm_jax.evaluation.results import Curves


@dataclass(frozen=True)
class OneVsRest:
    """One class against the rest, on the n rows whose label is known.

    Attributes:
        name: The class.
        rows: int64 [n], the rows' numbers among all R.
        probability: float64 [n], the probability of the class.
        positive: bool [n], the truth.
        called: bool [n], what the decision rule says.
    """

    name: str
    rows: np.ndarray
    probability: np.ndarray
    positive: np.ndarray
    called: np.ndarray

    @property
    def lacks(self) -> str:
        """Why figures that need both classes are undefined; "" if they are defined."""
        if not len(self.rows):
            return "no row has a known label"
        if not self.positive.any():
            return "no row has it"
        return "every row has it" if self.positive.all() else ""

    def confusion(self) -> np.ndarray:
        """Counts, int64 [2, 2], rows = truth (negative, positive), columns = called."""
        cell = 2 * self.positive.astype(np.int64) + self.called
        return np.bincount(cell, minlength=4).reshape(2, 2)

    def curves(self) -> Curves:
        """ROC, precision-recall and calibration curves."""
        return Curves(
            roc_curve(self.probability, self.positive),
            precision_recall_curve(self.probability, self.positive),
            calibration_curve(self.probability, self.positive),
        )


def measure_class(case: OneVsRest) -> Measure:
    """The measure of all ``FIGURES`` of one class against the rest.

    ``aupr`` is the average precision, and ``npv`` the precision of the negative class. Figures of a
    class that no drawn row has are undefined (nan). Precision of a class that occurs and is never
    called is 0, as in scikit-learn; so is npv.
    """
    if not len(case.rows):
        return lambda weights: dict.fromkeys(FIGURES, np.full(len(weights), np.nan))
    ranking = rank(case.probability, case.positive)
    table = bin_table(case.probability)
    cells = np.eye(4)[2 * case.positive.astype(np.int64) + case.called]
    squared = (case.probability - case.positive) ** 2

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        drawn = weights[:, case.rows]
        area, average = areas(ranking, drawn)
        return {
            "auroc": area,
            "aupr": average,
            **rates(*(drawn @ cells).T),
            "brier": divide(drawn @ squared, drawn.sum(1)),
            "calibration_error": calibration_error(case.probability, case.positive, table, drawn),
        }

    return measure


def rates(
    true_negative: np.ndarray,
    false_positive: np.ndarray,
    false_negative: np.ndarray,
    true_positive: np.ndarray,
) -> dict[str, np.ndarray]:
    """Figures of four confusion counts [B]; nan where the class they are about does not occur."""
    positives = true_positive + false_negative
    negatives = true_negative + false_positive
    sensitivity = divide(true_positive, positives)
    specificity = divide(true_negative, negatives)
    return {
        "accuracy": divide(true_positive + true_negative, positives + negatives),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": _precision(true_positive, false_positive, positives),
        "npv": _precision(true_negative, false_negative, negatives),
        "f1": divide(2 * true_positive, positives + true_positive + false_positive)
        * np.where(positives > 0, 1.0, np.nan),
    }


def _precision(right: np.ndarray, wrong: np.ndarray, occurs: np.ndarray) -> np.ndarray:
    """The share of calls that are right; 0 without calls, nan if the class does not occur."""
    called = right + wrong
    value = np.divide(right, called, out=np.zeros_like(called), where=called > 0)
    return np.where(occurs > 0, value, np.nan)


FIGURES = (
    *("auroc", "aupr", "accuracy", "balanced_accuracy", "sensitivity", "specificity"),
    *("precision", "npv", "f1", "brier", "calibration_error"),
)
"""Names of the figures of one class against the rest."""
