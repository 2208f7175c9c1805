"""The typed results of an evaluation; ``runs.stored.as_json`` turns them into JSON.

An undefined number is nan and carries a note that says why; in JSON it is null.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval.

    Attributes:
        value: The figure on all rows; nan = undefined, and the note says why.
        low: The lower end of the interval; nan = without an interval.
        high: The upper end.
        n: Rows (images, cases) that the figure rests upon.
        note: What a reader must know, or "".
    """

    value: float
    low: float
    high: float
    n: int
    note: str = ""


@dataclass(frozen=True)
class RocCurve:
    """Points of a ROC curve, one for each threshold (called positive: score >= threshold)."""

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Points of a precision-recall curve by falling recall; the last has recall 0, no threshold."""

    precision: np.ndarray
    recall: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True)
class CalibrationCurve:
    """The bins of predicted probability that are not empty, all of one width.

    Attributes:
        predicted: float [n], mean probability of the bin's rows.
        observed: float [n], fraction of them that are positive.
        counts: int [n], rows.
    """

    predicted: np.ndarray
    observed: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Curves:
    """Curves of one class against the rest; roc and precision_recall need both classes."""

    roc: RocCurve | None
    precision_recall: PrecisionRecallCurve | None
    calibration: CalibrationCurve


@dataclass(frozen=True)
class DiagnosisResult:
    """Evaluation of probabilities of C classes or findings on R rows.

    Attributes:
        kind: 'binary', 'multiclass' or 'multilabel'.
        classes: C names.
        positive: The class that the figures of a binary task are about, else "".
        num_rows: R.
        num_groups: Groups (patients) that were resampled.
        support: Class -> rows that have it.
        decision: Class -> the threshold and how it was chosen, or 'highest probability'.
        overall: Name -> figure; macro averages for more than two classes.
        per_class: Class -> name -> figure, class against the rest; a binary task's positive only.
        confusion: int, rows = truth, columns = called. binary [2, 2] (negative, positive),
            multi-class [C, C], multi-label [C, 2, 2] over the rows whose label is known.
        curves: Class -> curves; a binary task's positive only.
        left_out: Class -> why the macro averages leave it out.
        bins: Bins of the calibration figures.
        interval: How the intervals were made, in words.
    """

    kind: Literal["binary", "multiclass", "multilabel"]
    classes: tuple[str, ...]
    positive: str
    num_rows: int
    num_groups: int
    support: Mapping[str, int]
    decision: Mapping[str, str]
    overall: Mapping[str, Estimate]
    per_class: Mapping[str, Mapping[str, Estimate]]
    confusion: np.ndarray
    curves: Mapping[str, Curves]
    left_out: Mapping[str, str]
    bins: int
    interval: str


@dataclass(frozen=True)
class SegmentationResult:
    """Evaluation of masks of C classes on R images.

    Attributes:
        classes: C names, background not among them.
        num_rows: R.
        num_groups: Groups (patients) that were resampled.
        overall: Name -> mean over the classes.
        per_class: Class -> name -> figure.
        counts: Class -> how many images have the class in both masks, in the reference only
            (missed), in the prediction only (false alarm), in neither.
        definition: The distances' definition, in words.
        interval: How the intervals were made, in words.
    """

    classes: tuple[str, ...]
    num_rows: int
    num_groups: int
    overall: Mapping[str, Estimate]
    per_class: Mapping[str, Mapping[str, Estimate]]
    counts: Mapping[str, Mapping[str, int]]
    definition: str
    interval: str


@dataclass(frozen=True)
class MeasurementResult:
    """Agreement of a measured quantity with its reference.

    Attributes:
        unit: 'mm', 'degrees'.
        num_rows: Cases with a reference.
        missed: Cases among them in which nothing could be measured; no figure includes them.
        metrics: 'mae', 'rmse', 'bias' (mean of measured - reference), 'limits_low' and
            'limits_high' (95 % limits of agreement, Bland and Altman 1986) in the unit;
            'mae_percent' of the reference.
        interval: How the intervals were made, in words.
    """

    unit: str
    num_rows: int
    missed: int
    metrics: Mapping[str, Estimate]
    interval: str
