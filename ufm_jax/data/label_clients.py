"""Which client holds which labelled image, whatever the order of the files."""

from collections.abc import Sequence

import numpy as np

from ufm_jax.data.assignment import assign
from ufm_jax.data.settings import DataSettings


def assign_clients(
    sites: Sequence[str],
    groups: Sequence[str],
    strata: np.ndarray,
    order: Sequence[int],
    settings: DataSettings,
) -> tuple[tuple[str, ...], np.ndarray]:
    """Gives images to clients, in whole groups, whatever the order of the files.

    All splits are partitioned together, so that a client's test images come from the distribution
    of its training images.

    Args:
      sites: [R], the client that the source names.
      groups: [R], names; that of an image alone is its own.
      strata: int64 [R], the class that label skew goes by, -1 = none.
      order: [R] positions by name.
      settings: partition, number of clients, concentration, spread and seed.

    Returns:
      Client names, and int64 [R].

    Raises:
      DataError: fewer groups than clients, or a group of two sites.
    """
    place = np.asarray(order)
    names, found = assign(
        [sites[index] for index in order],
        [groups[index] for index in order],
        strata[place] + 1,
        settings,
    )
    owner = np.empty(len(found), np.int64)
    owner[place] = found
    return names, owner
