"""Which client holds which image: the partitions of `partition`, by settings."""

from collections.abc import Sequence

import numpy as np

from ufm_jax.data import partition
from ufm_jax.data.settings import DataSettings


def assign(
    sites: Sequence[str],
    groups: Sequence[str | None],
    labels: np.ndarray,
    settings: DataSettings,
) -> tuple[tuple[str, ...], np.ndarray]:
    """Gives images to clients, in whole groups.

    Args:
      sites: [R], the client that the source names.
      groups: [R], names, None for an image alone.
      labels: int [R], what label skew goes by.
      settings: partition, number of clients, concentration, spread and seed.

    Returns:
      Client names, and the client of each image, int64 [R].

    Raises:
      DataError: the partition is impossible; see `partition`.
    """
    count, seed = settings.num_clients, settings.seed
    match settings.partition:
        case "site":
            return partition.split_sites(
                sites, groups, settings.set_counts(), settings.partition_sigma, seed
            )
        case "iid":
            owner = partition.iid(groups, count, seed)
        case "dirichlet":
            owner = partition.dirichlet(labels, groups, count, settings.alpha, seed)
        case "lognormal":
            owner = partition.sized(groups, count, settings.partition_sigma, seed)
    digits = len(str(count - 1))
    return tuple(f"client_{k:0{digits}d}" for k in range(count)), owner
