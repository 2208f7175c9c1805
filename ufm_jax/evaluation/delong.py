"""DeLong's covariance of areas under correlated ROC curves.

DeLong, DeLong and Clarke-Pearson, Biometrics 44:837 (1988), by the fast algorithm of Sun and Xu,
IEEE Signal Processing Letters 21:1389 (2014), in O(R log R). If groups (patients) have several
rows, the covariance is Obuchowski's for clustered data, Biometrics 53:567 (1997), which is DeLong's
if each group has one row.
"""

import numpy as np
from scipy import stats


def areas_and_covariance(
    positive: np.ndarray, scores: np.ndarray, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Areas under the ROC curves of M scores on the same rows, and their covariance.

    Args:
        positive: bool or 0/1 [R].
        scores: float [M, R], higher = more likely positive.
        groups: [R]; None = each row is a group of its own.

    Returns:
        float64 [M] and [M, M].

    Raises:
        ValueError: If shapes do not fit, a value is not finite, or there are not two groups with
            positive rows and two with negative ones.
    """
    positive, scores = np.asarray(positive), np.asarray(scores, np.float64)
    groups = np.arange(len(positive)) if groups is None else np.asarray(groups)
    if scores.ndim != 2 or {positive.shape, groups.shape} != {scores.shape[1:]}:
        raise ValueError(
            f"scores of shape {scores.shape}, labels of shape {positive.shape} and groups of shape "
            f"{groups.shape}: [M, R], [R] and [R] are needed"
        )
    if not np.isin(positive, (0, 1)).all() or not np.isfinite(scores).all():
        raise ValueError("labels must be 0 or 1 and scores finite: leave the other rows out")
    positive = positive.astype(bool)
    names, numbers = np.unique(groups, return_inverse=True)
    with_positive, with_negative = (len(np.unique(numbers[x])) for x in (positive, ~positive))
    if min(with_positive, with_negative) < 2:
        raise ValueError(
            f"{with_positive} groups with positive and {with_negative} with negative rows: the "
            "variance of an area needs two of each"
        )
    above, below = _placements(positive, scores)
    areas = above.mean(1)
    count, num_positive, num_negative = len(names), above.shape[1], below.shape[1]
    of_positive = _sum_by(numbers[positive], above - areas[:, None], count)
    of_negative = _sum_by(numbers[~positive], below - areas[:, None], count)
    cross = of_positive @ of_negative.T * count / (count - 1)
    covariance = (
        of_positive @ of_positive.T * with_positive / (with_positive - 1) / num_positive**2
        + of_negative @ of_negative.T * with_negative / (with_negative - 1) / num_negative**2
        + (cross + cross.T) / (num_positive * num_negative)
    )
    return areas, covariance


def _placements(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Structural components from midranks, Sun and Xu's equations.

    Returns:
        [M, positives], the fraction of negatives below each positive (ties one half), and
        [M, negatives], the fraction of positives above each negative.
    """
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    everywhere = stats.rankdata(scores, axis=1)
    among_positive = stats.rankdata(scores[:, positive], axis=1)
    among_negative = stats.rankdata(scores[:, ~positive], axis=1)
    above = (everywhere[:, positive] - among_positive) / num_negative
    below = 1 - (everywhere[:, ~positive] - among_negative) / num_positive
    return above, below


def _sum_by(numbers: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Sums of values [M, n] over groups, [M, G]."""
    return np.stack([np.bincount(numbers, row, minlength=count) for row in values])
