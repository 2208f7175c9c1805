"""Area under the ROC curve and average precision of weighted samples, for many weightings at once.

They equal scikit-learn's ``roc_auc_score`` and ``average_precision_score`` with ``sample_weight``:
ties count one half in the first and are one threshold in the second.
"""

from dataclasses import dataclass

import numpy as np
from sklearn import metrics

from ufm_jax.evaluation.intervals import divide
from ufm_jax.evaluation.results import PrecisionRecallCurve, RocCurve


@dataclass(frozen=True)
class Ranking:
    """Rows sorted by score, once for all resamples.

    Attributes:
        order: int64 [R], rows by rising score.
        starts: int64 [T], where each of T distinct scores begins in that order.
        positive: float64 [R], 1 = positive, in that order.
    """

    order: np.ndarray
    starts: np.ndarray
    positive: np.ndarray


def rank(scores: np.ndarray, positive: np.ndarray) -> Ranking:
    """Sorts rows by their scores, float [R]; ``positive`` is bool [R]."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return Ranking(order, starts, positive[order].astype(np.float64))


def areas(ranking: Ranking, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve and average precision, for B weightings of the rows.

    Args:
        ranking: The sorted rows.
        weights: float64 [B, R].

    Returns:
        Two arrays [B]; nan if positives or negatives weigh nothing.
    """
    weights = weights[:, ranking.order]
    positives = np.add.reduceat(weights * ranking.positive, ranking.starts, axis=1)
    negatives = np.add.reduceat(weights * (1 - ranking.positive), ranking.starts, axis=1)
    total_positive, total_negative = positives.sum(1), negatives.sum(1)
    below = np.cumsum(negatives, axis=1) - negatives
    pairs = total_positive * total_negative
    area = divide((positives * (below + negatives / 2)).sum(1), pairs)
    hits = np.cumsum(positives[:, ::-1], axis=1)
    called = hits + np.cumsum(negatives[:, ::-1], axis=1)
    # Before the first drawn row nothing is called, and the precision there has no weight.
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    average = divide((positives[:, ::-1] * precision).sum(1), total_positive)
    return area, np.where(pairs > 0, average, np.nan)


def roc_curve(scores: np.ndarray, positive: np.ndarray) -> RocCurve | None:
    """Points of the ROC curve, except those on straight lines; None without both classes."""
    if positive.all() or not positive.any():
        return None
    return RocCurve(*metrics.roc_curve(positive, scores, drop_intermediate=True))


def precision_recall_curve(scores: np.ndarray, positive: np.ndarray) -> PrecisionRecallCurve | None:
    """Points of the precision-recall curve where recall changes; None without both classes."""
    if positive.all() or not positive.any():
        return None
    points = metrics.precision_recall_curve(positive, scores, drop_intermediate=True)
    return PrecisionRecallCurve(*points)
