"""Expected calibration error and reliability curves, over bins of one width.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017: bin b of n holds the probabilities
in (b/n, (b+1)/n], the first one 0 as well.
"""

import numpy as np

from ufm_jax.evaluation.intervals import divide
from ufm_jax.evaluation.results import CalibrationCurve

BINS = 15
"""The number of bins of Guo et al."""


def bin_table(probabilities: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Which row is in which bin, float64 [R, bins] of 0 and 1."""
    edges = np.arange(1, bins) / bins
    return np.eye(bins)[np.searchsorted(edges, probabilities, side="left")]


def calibration_error(
    probabilities: np.ndarray, happened: np.ndarray, table: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Expected calibration error, sum over bins of n_b / n |observed_b - predicted_b|.

    Args:
        probabilities: float [R].
        happened: bool [R], whether what was predicted happened.
        table: [R, bins]; see ``bin_table``.
        weights: float64 [B, R].

    Returns:
        [B]; nan if all rows weigh nothing.
    """
    gaps = weights @ (table * (happened - probabilities)[:, None])
    return divide(np.abs(gaps).sum(1), weights.sum(1))


def calibration_curve(
    probabilities: np.ndarray, happened: np.ndarray, bins: int = BINS
) -> CalibrationCurve:
    """The mean prediction and the observed frequency of each bin that is not empty."""
    table = bin_table(probabilities, bins)
    counts = table.sum(axis=0)
    filled = counts > 0
    return CalibrationCurve(
        predicted=(probabilities @ table)[filled] / counts[filled],
        observed=(happened.astype(np.float64) @ table)[filled] / counts[filled],
        counts=counts[filled].astype(np.int64),
    )
