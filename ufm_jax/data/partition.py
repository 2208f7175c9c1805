"""Partitions: which client holds which image. Groups (patients) are never torn apart.

A partition deals R records to K clients: it returns a client number for each record, int64 [R], and
depends on an explicit seed. ``groups`` holds the group's name of each record, or None. A group is
one unit that moves as a whole; a record without a group is a unit by itself. Sizes therefore meet
their targets up to the size of a group.
"""

import heapq
from collections.abc import Mapping, Sequence

import numpy as np

from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError
from ufm_jax.randomness import generator


def unit_ids(groups: Sequence[str | None]) -> np.ndarray:
    """Numbers the units, in order of first appearance: int64 [R]."""
    number: dict[str | int, int] = {}
    keys = (index if group is None else group for index, group in enumerate(groups))
    return np.fromiter((number.setdefault(k, len(number)) for k in keys), np.int64, len(groups))


def by_site(
    sites: Sequence[str], groups: Sequence[str | None]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Makes one client of each site: the sites in order of first appearance, and int64 [R].

    Raises:
        DataError: If a group has images of two sites.
    """
    first: dict[str, str] = {}
    for site, group in zip(sites, groups, strict=True):
        if group is not None and first.setdefault(group, site) != site:
            raise DataError(
                f"group {group!r} would be torn apart: it has images of site {first[group]!r} and "
                f"{site!r}. Partition by something that is constant within a group, or correct the "
                "groups"
            )
    return tuple(dict.fromkeys(sites)), unit_ids(sites)


def fill(weights: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gives each unit, in an order that ``rng`` draws, to the client farthest below its target.

    ``weights``, int [U], are the records of each unit; ``targets``, float [K], those that each
    client should hold. The result is the client of each unit, int64 [U].
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

    ``owner`` and the result are the client of each unit, int64 [U]; ``weights``, int [U], are its
    records.

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
    """Deals records at random to clients whose sizes are log-normal, or even (IID).

    ``sigma`` is the standard deviation of the log of the sizes; 0 makes them even. Draws with one
    seed differ by ``purpose``.

    Raises:
        DataError: If there are fewer groups than clients.
    """
    units = unit_ids(groups)
    weights = np.bincount(units)
    shares = np.exp(sigma * generator(seed, f"partition/{purpose}").normal(size=num_clients))
    targets = len(units) * shares / shares.sum()
    owner = fill(weights, targets, generator(seed, f"partition/{purpose}/order"))
    return leave_none_empty(owner, weights, num_clients)[units]


def dirichlet(
    labels: np.ndarray, groups: Sequence[str | None], num_clients: int, alpha: float, seed: int
) -> np.ndarray:
    """Deals the records of each label in proportions drawn from Dirichlet(alpha): label skew.

    Yurochkin et al., Bayesian Nonparametric Federated Learning of Neural Networks, ICML 2019.
    Small alpha gives each label to few clients; as alpha grows, shares become even. The label of a
    group is that of most of its records, or the smallest of several such.

    Raises:
        DataError: If a record has no label, alpha is not positive, or there are fewer groups than
            clients.
    """
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

    ``counts`` says how many clients to make of a site; a site that it does not name stays one
    client. ``sigma`` is the spread of the log of the sizes within a site; 0 = even.

    Returns:
        Client names, ``site`` or ``site-i``, in the order of the sites; and int64 [R].

    Raises:
        DataError: If a count names an unknown site, or exceeds the groups of its site.
    """
    names_of_sites, site_of = by_site(sites, groups)
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
    sites: Sequence[str], groups: Sequence[str | None], labels: np.ndarray, settings: DataSettings
) -> tuple[tuple[str, ...], np.ndarray]:
    """Gives images to clients as the settings say: client names, and int64 [R].

    ``sites``, [R], are the clients that the source names; label skew goes by ``labels``, int [R].

    Raises:
        DataError: If the partition is impossible; see ``sized``, ``dirichlet``, ``split_sites``.
    """
    count, seed = settings.num_clients, settings.seed
    match settings.partition:
        case "site":
            return split_sites(sites, groups, settings.set_counts(), settings.partition_sigma, seed)
        case "iid":
            owner = sized(groups, count, 0.0, seed, "iid")
        case "dirichlet":
            owner = dirichlet(labels, groups, count, settings.alpha, seed)
        case "lognormal":
            owner = sized(groups, count, settings.partition_sigma, seed)
    digits = len(str(count - 1))
    return tuple(f"client_{k:0{digits}d}" for k in range(count)), owner


def rows_of_clients(names: Sequence[str], owner: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """The K clients that hold a row, and int64 [K+1], the offsets of their rows.

    ``owner``, int64 [R], is the client of each row. Once rows are sorted by it, client k's rows are
    offsets[k]:offsets[k+1].
    """
    sizes = np.bincount(owner, minlength=len(names))
    holders = tuple(name for name, size in zip(names, sizes, strict=True) if size)
    return holders, np.concatenate([[0], np.cumsum(sizes[sizes > 0])])
