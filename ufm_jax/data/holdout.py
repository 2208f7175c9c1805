"""Images that the clients of a pretraining hold out: the shared model is judged on them.

Each client holds out a share of its own images. Images of one group (patient), and images with the
same pixels, are never on both sides. Units are drawn in the order of a hash of seed and pixels, so
that other files change the draw of one as little as they can.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ufm_jax.data.cache.cache import Progress
from ufm_jax.data.cache.shared_cache import ALONE, Share
from ufm_jax.data.cells import matched
from ufm_jax.data.federated import FederatedData, load_federated
from ufm_jax.data.issues import Issue
from ufm_jax.data.settings import PretrainingSettings
from ufm_jax.errors import DataError

_MOST = 0.25
"""The largest share of its images that a client gives, where its groups are large."""


def load_with_holdout(
    settings: PretrainingSettings, progress: Progress | None = None, share: Share = ALONE
) -> FederatedData:
    """Reads a federation's images as ``load_federated`` does, and holds some out."""
    also = settings.holdout_splits if settings.splits else ()
    wanted = replace(settings, splits=(*settings.splits, *also))
    return hold_out(load_federated(wanted, progress, share), settings)


def hold_out(data: FederatedData, settings: PretrainingSettings) -> FederatedData:
    """The images to train on, with those held out as ``held_out``.

    With ``holdout_splits`` the source says which these are. A client that has no others is judged
    and does not train. Images whose group, or a copy of which, is trained on are neither: they are
    listed.

    Args:
        data: All images.
        settings: ``holdout_fraction``, ``holdout_splits`` and the seed.

    Raises:
        DataError: If a split holds nothing, or everything.
    """
    if settings.holdout_splits:
        held, leaking = _of_splits(data, settings.holdout_splits)
    else:
        held = _drawn(data, settings.holdout_fraction, settings.seed)
        leaking = np.zeros_like(held)
    train = data.take(np.flatnonzero(~held & ~leaking))
    issues = replace(data.issues, entries=(*data.issues.entries, *_left_out(data, leaking)))
    return replace(
        train,
        issues=issues,
        held_out=data.take(np.flatnonzero(held)) if held.any() else None,
    )


def describe(data: FederatedData) -> str:
    """How many images are held out, and which clients hold out none, in one line."""
    if data.held_out is None:
        return (
            "no image is held out, so that nothing judges the shared model while it trains: set "
            "config.data.holdout_fraction or holdout_splits; a client that gives one needs four "
            "groups (patients) or more"
        )
    held = data.held_out
    none = [name for name in data.names if name not in held.names]
    but = f"; none at {', '.join(none[:5])}{' and others' * (len(none) > 5)}" if none else ""
    total, clients = held.num_rows + data.num_rows, len({*data.names, *held.names})
    return (
        f"{held.num_rows:,} of {total:,} images are held out, at {held.num_clients:,} of "
        f"{clients:,} clients{but}"
    )


def _drawn(data: FederatedData, fraction: float, seed: int) -> np.ndarray:
    """The rows that are held out by a draw, bool [R].

    What a client's units leave of its share goes to the next client, as long as it is less than a
    unit: clients of five images each hold out every twentieth image together.
    """
    held = np.zeros(data.num_rows, bool)
    if not fraction:
        return held
    units, open_share = _units(data), 0.0
    keys = _keys(data, units, seed)
    owner = data.owner
    first, last = np.full(len(keys), data.num_clients), np.full(len(keys), -1)
    np.minimum.at(first, units, owner)
    np.maximum.at(last, units, owner)
    for begin, end in pairwise(data.offsets.tolist()):
        found, unit, counts = np.unique(units[begin:end], return_inverse=True, return_counts=True)
        room = max(fraction, _MOST) * (end - begin)
        # A unit that several clients share is nobody's to hold out.
        fits = (counts <= room) & (first[found] == last[found])
        if not fits.any():
            continue
        wanted = open_share + fraction * (end - begin)
        drawn = np.zeros(len(found), bool)
        for place in sorted(np.flatnonzero(fits), key=lambda place: keys[found[place]]):
            # Taken if that brings the share nearer.
            if counts[place] <= room and counts[place] / 2 <= wanted:
                drawn[place] = True
                room -= counts[place]
                wanted -= counts[place]
        held[begin:end] = drawn[unit]
        open_share = min(wanted, float(counts[fits].min()))
    return held


def _of_splits(data: FederatedData, splits: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The rows of these splits, and those of them that training would give away: bool [R] each."""
    asked = matched("holdout_splits", splits, data.splits.tolist())
    named = np.isin(data.splits, asked)
    if named.all():
        raise DataError(
            f"holdout_splits={splits}: every image is of one of them, and none is left to train on"
        )
    units = _units(data)
    leaking = named & np.isin(units, units[~named])
    return named & ~leaking, leaking


def _left_out(data: FederatedData, leaking: np.ndarray) -> Iterator[Issue]:
    owner = data.owner
    for row in np.flatnonzero(leaking).tolist():
        reason = "its group, or an image of the same pixels, is trained on: it judges nothing"
        yield Issue("held_out_seen", data.names[owner[row]], data.images[row], reason)


def _units(data: FederatedData) -> np.ndarray:
    """int64 [R]: equal for rows that stay together, by group or by pixels, in one step or more."""
    _, group = np.unique(data.groups, return_inverse=True)
    _, pixels = np.unique(data.contents, return_inverse=True)
    total = int(group.max(initial=-1)) + 1
    nodes = total + int(pixels.max(initial=-1)) + 1
    edges = coo_array((np.ones(len(group), bool), (group, total + pixels)), shape=(nodes, nodes))
    _, unit = connected_components(edges, directed=False)
    return unit[group].astype(np.int64)


def _keys(data: FederatedData, units: np.ndarray, seed: int) -> list[bytes]:
    """[U] the hash by which each unit is drawn: of the least digest of its images."""
    least = np.full(int(units.max(initial=-1)) + 1, np.iinfo(np.uint64).max)
    np.minimum.at(least, units, data.contents)
    return [hashlib.blake2b(f"{seed}/held out/{key}".encode()).digest() for key in least.tolist()]
