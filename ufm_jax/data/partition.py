"""Partitions: which client holds which image. Groups (patients) are never torn apart.

Every function maps arrays over R records to a client number for each record, int64 [R], from an
explicit seed. A group is one unit that moves as a whole; a record without a group is a unit by
itself. Sizes therefore meet their targets up to the size of a group.
"""

import heapq
from collections.abc import Mapping, Sequence

import numpy as np

from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError
from ufm_jax.randomness import generator


def unit_ids(groups: Sequence[str | None]) -> np.ndarray:
    """Numbers the units: equal for records of one group, its own for a record without one.

    Args:
        groups: A name or None for each record.

    Returns:
        int64 [R] in 0..units-1, in order of first appearance.
    """
    seen: dict[str | int, int] = {}
    keys = (index if group is None else group for index, group in enumerate(groups))
    return np.fromiter((seen.setdefault(key, len(seen)) for key in keys), np.int64, len(groups))


def by_value(
    values: Sequence[str], groups: Sequence[str | None], what: str
) -> tuple[tuple[str, ...], np.ndarray]:
    """One client for each value (a site, a column), in order of first appearance.

    Args:
        values: [R], the client's name.
        groups: [R], group names or None.
        what: What the values are, for messages.

    Returns:
        Client names, and int64 [R].

    Raises:
        DataError: If a group has two values.
    """
    first: dict[str, str] = {}
    for value, group in zip(values, groups, strict=True):
        if group is not None and first.setdefault(group, value) != value:
            raise DataError(
                f"group {group!r} would be torn apart: it has images of {what} "
                f"{first[group]!r} and {value!r}. Partition by something that is constant within "
                "a group, or correct the groups"
            )
    names = tuple(dict.fromkeys(values))
    number = {name: index for index, name in enumerate(names)}
    return names, np.array([number[value] for value in values], np.int64)


def fill(weights: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gives units, in random order, each to the client that is farthest below its target.

    Args:
        weights: int [U], records of each unit.
        targets: float [K], records each client should hold.
        rng: Draws the order.

    Returns:
        int64 [U], the client of each unit.
    """
    owner = np.zeros(len(weights), np.int64)
    # Ties go to a random client: else client 0 would systematically hold the largest remainder.
    ties = rng.permutation(len(targets))
    missing = [(-float(target), int(ties[k]), k) for k, target in enumerate(targets)]
    heapq.heapify(missing)
    for unit in rng.permutation(len(weights)):
        negative, tie, client = missing[0]
        owner[unit] = client
        heapq.heapreplace(missing, (negative + float(weights[unit]), tie, client))
    return owner


def leave_none_empty(owner: np.ndarray, weights: np.ndarray, num_clients: int) -> np.ndarray:
    """Moves the smallest unit of the richest client to each client that has none.

    Args:
        owner: int64 [U], the client of each unit.
        weights: int [U], records of each unit.
        num_clients: K.

    Returns:
        int64 [U] in which every client occurs.

    Raises:
        DataError: If there are fewer units than clients.
    """
    if len(owner) < num_clients:
        raise DataError(
            f"{num_clients} clients need at least one group of images each, but there are "
            f"{len(owner)} groups: ask for fewer clients, or for more data"
        )
    owner = owner.copy()
    units = np.bincount(owner, minlength=num_clients)
    records = np.bincount(owner, weights, num_clients)
    for empty in np.flatnonzero(units == 0):
        donor = int(np.argmax(np.where(units > 1, records, -1)))
        candidates = np.flatnonzero(owner == donor)
        unit = candidates[np.argmin(weights[candidates])]
        owner[unit] = empty
        for client, sign in ((donor, -1), (empty, 1)):
            units[client] += sign
            records[client] += sign * weights[unit]
    return owner


def sized(
    groups: Sequence[str | None], num_clients: int, sigma: float, seed: int, purpose: str = "sizes"
) -> np.ndarray:
    """Random records for each client; client sizes log-normal, or even where sigma is 0.

    Args:
        groups: [R], group names or None.
        num_clients: K.
        sigma: Standard deviation of the log of the sizes; 0 makes them even (IID).
        seed: Seed of sizes and order.
        purpose: Tells draws of one seed apart.

    Returns:
        int64 [R].

    Raises:
        DataError: If fewer groups than clients.
    """
    _check_count(num_clients)
    if sigma < 0:
        raise DataError(f"sigma of the client sizes must not be negative, got {sigma}")
    units = unit_ids(groups)
    weights = np.bincount(units)
    shares = np.exp(sigma * generator(seed, f"partition/{purpose}").normal(size=num_clients))
    targets = len(units) * shares / shares.sum()
    owner = fill(weights, targets, generator(seed, f"partition/{purpose}/order"))
    return leave_none_empty(owner, weights, num_clients)[units]


def iid(groups: Sequence[str | None], num_clients: int, seed: int) -> np.ndarray:
    """Random records in even shares; see ``sized``."""
    return sized(groups, num_clients, 0.0, seed, "iid")


def dirichlet(
    labels: np.ndarray, groups: Sequence[str | None], num_clients: int, alpha: float, seed: int
) -> np.ndarray:
    """Label skew: each label's records are dealt in proportions drawn from Dirichlet(alpha).

    Yurochkin et al., Bayesian Nonparametric Federated Learning of Neural Networks, ICML 2019.
    Small alpha gives each label to few clients; as alpha grows, shares become even. The label of a
    group is that of most of its records, or the smallest of several such.

    Args:
        labels: int [R], none negative.
        groups: [R], group names or None.
        num_clients: K.
        alpha: Concentration, positive.
        seed: Seed of proportions and order.

    Returns:
        int64 [R].

    Raises:
        DataError: If a record has no label, alpha is not positive, or groups are fewer than
            clients.
    """
    _check_count(num_clients)
    if not alpha > 0:
        raise DataError(f"alpha of the Dirichlet partition must be positive, got {alpha}")
    if (labels < 0).any():
        raise DataError(
            f"the Dirichlet partition goes by label, but {int((labels < 0).sum())} of "
            f"{len(labels)} images have none: label them, or partition by 'iid' or 'site'"
        )
    units = unit_ids(groups)
    weights = np.bincount(units)
    votes = np.zeros((len(weights), int(labels.max(initial=0)) + 1), np.int64)
    np.add.at(votes, (units, labels), 1)
    label_of = votes.argmax(1)
    owner = np.zeros(len(weights), np.int64)
    for label in np.unique(label_of):
        rng = generator(seed, f"partition/dirichlet/{label}")
        mine = np.flatnonzero(label_of == label)
        targets = weights[mine].sum() * rng.dirichlet(np.full(num_clients, float(alpha)))
        owner[mine] = fill(weights[mine], targets, rng)
    return leave_none_empty(owner, weights, num_clients)[units]


def split_sites(
    sites: Sequence[str],
    groups: Sequence[str | None],
    counts: Mapping[str, int],
    sigma: float,
    seed: int,
) -> tuple[tuple[str, ...], np.ndarray]:
    """Splits sites into several clients each, group by group: one large set plays many hospitals.

    Args:
        sites: [R], the site (set) of each record.
        groups: [R], group names or None.
        counts: Clients to make of a site; a site not named stays one client.
        sigma: Spread of the log of the sizes within a site; 0 = even.
        seed: Seed of sizes and order.

    Returns:
        Client names, ``site`` or ``site-i``, in the order of the sites; and int64 [R].

    Raises:
        DataError: If a count for an unknown site, or more clients than a site has groups.
    """
    names_of_sites, site_of = by_value(sites, groups, "site")
    if unknown := sorted(set(counts) - set(names_of_sites)):
        raise DataError(f"cannot split {unknown}: the sites are {sorted(names_of_sites)}")
    names: list[str] = []
    owner = np.zeros(len(sites), np.int64)
    for index, site in enumerate(names_of_sites):
        count = counts.get(site, 1)
        mine = np.flatnonzero(site_of == index)
        try:
            parts = sized([groups[int(i)] for i in mine], count, sigma, seed, f"site/{site}")
        except DataError as error:
            raise DataError(f"site {site!r}: {error}") from error
        owner[mine] = len(names) + parts
        names += [site] if count == 1 else [f"{site}-{part}" for part in range(count)]
    return tuple(names), owner


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
        settings: Partition, number of clients, concentration, spread and seed.

    Returns:
        Client names, and the client of each image, int64 [R].

    Raises:
        DataError: If the partition is impossible; see each partition above.
    """
    count, seed = settings.num_clients, settings.seed
    match settings.partition:
        case "site":
            return split_sites(sites, groups, settings.set_counts(), settings.partition_sigma, seed)
        case "iid":
            owner = iid(groups, count, seed)
        case "dirichlet":
            owner = dirichlet(labels, groups, count, settings.alpha, seed)
        case "lognormal":
            owner = sized(groups, count, settings.partition_sigma, seed)
    digits = len(str(count - 1))
    return tuple(f"client_{k:0{digits}d}" for k in range(count)), owner


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
        settings: Partition, number of clients, concentration, spread and seed.

    Returns:
        Client names, and int64 [R].

    Raises:
        DataError: If fewer groups than clients, or a group of two sites.
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


def _check_count(num_clients: int) -> None:
    if num_clients < 1:
        raise DataError(f"a partition needs at least 1 client, got {num_clients}")
