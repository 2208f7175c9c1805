"""Which client holds which labelled image: the partitions of `partition`, by settings."""

from collections.abc import Sequence

import numpy as np

from ufm_jax.data import partition
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
    ordered = [groups[index] for index in order]
    count, seed = settings.num_clients, settings.seed
    match settings.partition:
        case "site":
            names, found = partition.split_sites(
                [sites[index] for index in order],
                ordered,
                settings.set_counts(),
                settings.partition_sigma,
                seed,
            )
        case "iid":
            found = partition.iid(ordered, count, seed)
        case "dirichlet":
            skew = strata[np.asarray(order)] + 1
            found = partition.dirichlet(skew, ordered, count, settings.alpha, seed)
        case "lognormal":
            found = partition.sized(ordered, count, settings.partition_sigma, seed)
    owner = np.empty(len(found), np.int64)
    owner[np.asarray(order)] = found
    if settings.partition != "site":
        digits = len(str(count - 1))
        names = tuple(f"client_{k:0{digits}d}" for k in range(count))
    return names, owner
