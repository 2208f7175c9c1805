"""Decision thresholds, chosen on the validation split and then passed to the test split."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn import metrics


@dataclass(frozen=True)
class Threshold:
    """The probability from which a class is called.

    Attributes:
        value: A class is called where its probability is at least this.
        rule: How the value was chosen, in words.
    """

    value: float = 0.5
    rule: str = "fixed"

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.rule})"


HALF = Threshold()
"""The threshold of a model without one chosen on its validation split."""


def choose_threshold(
    probabilities: np.ndarray,
    positive: np.ndarray,
    rule: Literal["youden", "sensitivity"] = "youden",
    *,
    at_least: float = 0.9,
) -> Threshold:
    """Chooses a threshold from the rows of the validation split.

    Args:
        probabilities: float [R], of the positive class.
        positive: bool or 0/1 [R].
        rule: 'youden', the largest sensitivity + specificity - 1 (Youden, Cancer 3:32, 1950); or
            'sensitivity', the best specificity at which sensitivity is ``at_least``. The lowest of
            equally good thresholds is taken, since it has the highest sensitivity.
        at_least: Wanted sensitivity, in (0, 1].

    Raises:
        ValueError: If the rows lack one of both classes, or a value is impossible.
    """
    positive = np.asarray(positive)
    if not np.isin(positive, (0, 1)).all():
        raise ValueError("labels of a threshold must be 0 or 1; leave out rows of unknown label")
    positive = positive.astype(bool)
    if positive.all() or not positive.any():
        have = "positive" if positive.any() else "negative"
        raise ValueError(
            f"all {len(positive)} rows of the validation split are {have}: a threshold needs both "
            "classes; use a fixed one or split otherwise"
        )
    false_rate, true_rate, values = metrics.roc_curve(
        positive, np.asarray(probabilities), drop_intermediate=False
    )
    if rule == "youden":
        gain, text = true_rate - false_rate, "Youden on val"
    elif rule == "sensitivity" and 0 < at_least <= 1:
        gain = np.where(true_rate >= at_least, -false_rate, -np.inf)
        text = f"sensitivity >= {at_least:g} on val"
    else:
        raise ValueError(
            f"threshold rule {rule!r} with sensitivity {at_least}: use 'youden', or 'sensitivity' "
            "and a value in (0, 1]"
        )
    # The first point is the infinite threshold, which calls nothing.
    best = 1 + np.flatnonzero(gain[1:] == gain[1:].max())
    return Threshold(float(values[best[-1]]), text)
