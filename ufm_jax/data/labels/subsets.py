"""Fractions of the labels: nested, stratified, whole groups, every class in each."""

from collections.abc import Iterator

import numpy as np

from ufm_jax.data.labels.splits import Groups, by_name
from ufm_jax.errors import DataError


def nested_subset(groups: Groups, fraction: float, seed: int) -> np.ndarray:
    """Picks a share of images.

    Stratum by stratum (the rarest class in a group), groups are taken in the order of the hash of
    their names until the share of images is as near to ``fraction`` as whole groups allow, but at
    least one group. A class that is the rarest of no group adds the first group that shows it. So
    a smaller fraction's subset is contained in that of a larger one under the same seed.

    Args:
        groups: Groups of R images, to pick from all of them.
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
    picked[list(_first_of_hidden_classes(groups, order))] = True
    return np.flatnonzero(picked[groups.ids])


def _first_of_hidden_classes(groups: Groups, order: np.ndarray) -> Iterator[int]:
    """The first group of each class that occurs but is no stratum."""
    shown = np.zeros((len(groups.names), groups.presence.shape[1]), bool)
    np.logical_or.at(shown, groups.ids, groups.presence)
    for number in np.flatnonzero(shown.any(0)):
        if not (groups.strata == number).any():
            yield int(order[shown[order, number].argmax()])
