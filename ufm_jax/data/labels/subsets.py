"""Fractions of the labels: nested, stratified, in whole groups, with every class in each."""

import numpy as np

from ufm_jax.data.labels.splits import Groups, by_name
from ufm_jax.errors import DataError


def nested_subset(groups: Groups, fraction: float, seed: int) -> np.ndarray:
    """Picks a share of images, in whole groups.

    Stratum by stratum (the rarest class in a group), groups are picked in the order of the hash of
    their names until the share of images is as near to ``fraction`` as whole groups allow, but at
    least one group. Where a class is not the rarest of any group, the first group that shows it is
    picked too. So a subset contains those of smaller fractions under the same seed.

    Args:
        groups: Groups of R images.
        fraction: 0 < fraction <= 1.
        seed: Seed of the order.

    Returns:
        int64 positions in 0..R-1, increasing.

    Raises:
        DataError: If the fraction is out of range.
    """
    if not 0 < fraction <= 1:
        raise DataError(f"fraction of the labels is {fraction}: use more than 0, at most 1")
    order = by_name(groups.names, seed, "labels")
    picked = np.zeros(len(groups.names), bool)
    for stratum in np.unique(groups.strata):
        mine = order[groups.strata[order] == stratum]
        reached = np.cumsum(groups.sizes[mine])
        count = 1 + int(np.abs(reached - fraction * reached[-1]).argmin())
        picked[mine[:count]] = True
    for number in np.flatnonzero(groups.shown.any(0)):
        if not (groups.strata == number).any():
            picked[order[groups.shown[order, number].argmax()]] = True
    return np.flatnonzero(picked[groups.ids])
