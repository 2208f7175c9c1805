"""Class probabilities from the nearest training images.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, as
DINO evaluates encoders (Caron et al., ICCV 2021).
"""

from collections.abc import Sequence

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

TEMPERATURE = 0.07
"""A neighbour of cosine similarity s votes with weight ``exp(s / TEMPERATURE)``."""


def vote(
    features: np.ndarray, targets: np.ndarray, queries: np.ndarray, counts: Sequence[int]
) -> np.ndarray:
    """Shares of the nearest images' weighted votes.

    Args:
        features: float [n, D], of the images that vote.
        targets: [n, C], 1 = has it, 0 = has not, nan = unknown. The nearest images with a known
            label vote on a finding; one that is unknown everywhere gets one half.
        queries: float [m, D].
        counts: Numbers of neighbours k to try; if fewer can vote, all of them do.

    Returns:
        float64 [len(counts), m, C].
    """
    features, queries = (normalize(x.astype(np.float64)) for x in (features, queries))
    found = np.full((len(counts), len(queries), targets.shape[1]), 0.5)
    patterns, which = np.unique(~np.isnan(targets.T), axis=0, return_inverse=True)
    for number, known in enumerate(patterns):
        if known.any():
            columns = np.flatnonzero(which == number)
            chosen = targets[np.ix_(known, columns)]
            found[:, :, columns] = _vote_known(features[known], chosen, queries, counts)
    return found


def _vote_known(
    features: np.ndarray, targets: np.ndarray, queries: np.ndarray, counts: Sequence[int]
) -> np.ndarray:
    """``vote`` for L2-normalised features and known targets."""
    most = min(max(counts), len(features))
    search = NearestNeighbors(n_neighbors=most, metric="cosine", algorithm="brute").fit(features)
    distances, nearest = search.kneighbors(queries)
    # Weights relative to the nearest give the same shares, and never 0 / 0.
    weights = np.exp((distances[:, :1] - distances) / TEMPERATURE)
    votes = np.cumsum(weights[:, :, None] * targets[nearest], axis=1)
    totals = np.cumsum(weights, axis=1)[:, :, None]
    last = np.minimum(counts, most) - 1
    return np.moveaxis(votes[:, last] / totals[:, last], 1, 0)
