"""A federation's images: many clients, one index interface; and how any source becomes them.

A row of the store is one decoded image:

    'image'     uint8 [S, S, C]: the picture, its longer side scaled to the working size S, aspect
                kept, in the top-left corner of the canvas, the rest black; C = 1 (grey) or 3
    'extent'    int32 [2]: (height, width) of the picture
    'geometry'  float32 [7]: (kind, a, b, c, d, e, f) of the scan area, pixel centres at integers
                0 unknown; 1 linear: top, left, bottom, right; 2 sector: apex row, apex column,
                r_min, r_max, theta_min, theta_max (radians from straight down, positive right)
    'label'     int32 []: -1 = none
"""

import hashlib
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import numpy as np

from ufm_jax.data.cache.cache import Progress
from ufm_jax.data.cache.shared_cache import ALONE, Share
from ufm_jax.data.cache.store import CachedStore, RowStore, SubsetStore
from ufm_jax.data.copies import repeated_images
from ufm_jax.data.decoding import Decoded, decode_records, faults_of_decoding
from ufm_jax.data.issues import DataIssues, Issue, refuse_empty, stop_on_faults
from ufm_jax.data.listing import read_listing
from ufm_jax.data.partition import assign, rows_of_clients, unit_ids
from ufm_jax.data.scans.expand import with_frames
from ufm_jax.data.screening import faults_before_decoding, screen
from ufm_jax.data.settings import DataSettings
from ufm_jax.files import cache_folder

TOGETHER = "all"
"""The name of the one client of a centralised run."""


@dataclass(frozen=True)
class FederatedData:
    """Decoded images of K clients, rows grouped by client.

    Attributes:
        names: The K clients.
        offsets: int64 [K+1]; client k's rows are offsets[k]:offsets[k+1].
        store: Random access to the rows.
        issues: What was left out or is doubtful, by file and client.
        labels: int32 [R], -1 = none; given empty, all are -1.
        label_names: Name of each label; given empty, the labels' numbers.
        tasks: Sets of labels, by number, that exclude each other: those of one site, joined where
            sites share a label; given empty, all labels are of one task.
        groups: int64 [R], equal for rows of one group (patient); given empty, all differ.
        images: Name of each row's image; given empty, the rows' numbers.
        contents: uint64 [R], a digest of each row's pixels; given empty, all differ.
        splits: str [R], the split that the source names, '' = none; given empty, all are ''.
        fingerprint: Changes whenever pixels, their order or their owners change; '' = not known.
        held_out: Images of these clients, or of others, that nobody trains on; None without any.
    """

    names: tuple[str, ...]
    offsets: np.ndarray
    store: RowStore
    issues: DataIssues = field(default_factory=DataIssues)
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    label_names: tuple[str, ...] = ()
    tasks: tuple[tuple[int, ...], ...] = ()
    groups: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    images: tuple[str, ...] = ()
    contents: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    splits: np.ndarray = field(default_factory=lambda: np.zeros(0, str))
    fingerprint: str = ""
    held_out: "FederatedData | None" = None

    def __post_init__(self) -> None:
        offsets = np.asarray(self.offsets, np.int64)
        total = len(self.store)
        if offsets.shape != (len(self.names) + 1,) or offsets[0] != 0 or offsets[-1] != total:
            raise ValueError(
                f"offsets {offsets.tolist()} must run from 0 to {total} rows in "
                f"{len(self.names)} steps, one a client"
            )
        if (np.diff(offsets) < 0).any():
            raise ValueError(f"offsets {offsets.tolist()} must not decrease")
        labels = self.labels if len(self.labels) else np.full(total, -1, np.int32)
        numbers = np.arange(total)
        by_row: dict[str, Sized] = {
            "labels": labels.astype(np.int32),
            "groups": (self.groups if len(self.groups) else numbers).astype(np.int64),
            "images": self.images or tuple(map(str, range(total))),
            "contents": (self.contents if len(self.contents) else numbers).astype(np.uint64),
            "splits": self.splits if len(self.splits) else np.full(total, ""),
        }
        for name, values in by_row.items():
            if len(values) != total:
                raise ValueError(f"{name} must have one entry for each of {total} rows")
            object.__setattr__(self, name, values)
        needed = int(labels.max(initial=-1)) + 1
        names = self.label_names or tuple(str(label) for label in range(needed))
        if len(names) < needed:
            raise ValueError(f"label {needed - 1} has no name among {names}")
        object.__setattr__(self, "label_names", names)
        object.__setattr__(self, "tasks", self.tasks or (tuple(range(len(names))),))
        object.__setattr__(self, "offsets", offsets)

    @property
    def num_clients(self) -> int:
        """K."""
        return len(self.names)

    @property
    def num_rows(self) -> int:
        """Images of all clients together."""
        return int(self.offsets[-1])

    @property
    def sizes(self) -> np.ndarray:
        """Images of each client, int64 [K]."""
        return np.diff(self.offsets)

    @property
    def owner(self) -> np.ndarray:
        """The client of each row, int64 [R]."""
        return np.repeat(np.arange(self.num_clients), self.sizes)

    def together(self) -> "FederatedData":
        """All images in one client, as a centralised training has them."""
        return replace(self, names=(TOGETHER,), offsets=np.array([0, self.num_rows]))

    def take(self, rows: np.ndarray) -> "FederatedData":
        """Some rows, int64 [n] ascending, without the clients that hold none of them."""
        names, offsets = rows_of_clients(self.names, self.owner[rows])
        identity = hashlib.sha256(self.fingerprint.encode() + rows.tobytes())
        return replace(
            self,
            names=names,
            offsets=offsets,
            store=SubsetStore(self.store, rows),
            labels=self.labels[rows],
            groups=self.groups[rows],
            images=tuple(self.images[row] for row in rows),
            contents=self.contents[rows],
            splits=self.splits[rows],
            fingerprint=identity.hexdigest() if self.fingerprint else "",
        )

    def summary(self) -> Iterator["ClientSummary"]:
        """One row a client, in order; those that only hold out images come last."""
        judges = self.held_out
        held = dict(zip(judges.names, judges.sizes.tolist(), strict=True)) if judges else {}
        bounds = dict(zip(self.names, pairwise(self.offsets.tolist()), strict=True))
        for name in dict.fromkeys((*self.names, *held)):
            rows = slice(*bounds.get(name, (0, 0)))
            labels = self.labels[rows]
            histogram = np.bincount(labels[labels >= 0], minlength=len(self.label_names))
            yield ClientSummary(
                client=name,
                images=len(labels),
                groups=len(np.unique(self.groups[rows])),
                labels={n: int(c) for n, c in zip(self.label_names, histogram, strict=True)},
                unlabelled=int((labels < 0).sum()),
                share=len(labels) / max(1, self.num_rows),
                held_out=held.get(name, 0),
            )


@dataclass(frozen=True)
class ClientSummary:
    """One client in numbers; ``share`` is its part of all images, its weight in a full cohort.

    Images that it holds out are counted in ``held_out`` alone.
    """

    client: str
    images: int
    groups: int
    labels: dict[str, int]
    unlabelled: int
    share: float
    held_out: int = 0


def load_federated(
    settings: DataSettings, progress: Progress | None = None, share: Share = ALONE
) -> FederatedData:
    """Reads, checks, decodes (once, see ``cache``) and partitions a federation's images.

    Args:
        settings: Where the images come from and who holds them.
        progress: Called with (done, total) while images are decoded.
        share: (index, count) of this process among those that load the same data at the same time;
            where they have one ``cache_dir``, each decodes a part.

    Returns:
        The federation. The same settings over the same files give the same rows in the same order,
        whatever the number of workers.

    Raises:
        DataError: If the data cannot be used as configured; names files, client and remedy.
    """
    listing = read_listing(settings)
    faults_of = partial(faults_before_decoding, require_labels=settings.require_labels)
    files, issues, excluded = screen(listing, settings, faults_of)
    usable, of_scans = with_frames(files, listing.root, settings, progress)
    issues += stop_on_faults(of_scans, settings.on_bad)
    refuse_empty(usable, issues, excluded)
    cache_dir = cache_folder(settings.cache_dir)
    decoded = decode_records(usable, settings, cache_dir, progress, share)
    faults, notes = faults_of_decoding(decoded, settings.require_labels)
    issues += [*notes, *stop_on_faults(faults.values(), settings.on_bad)]
    decoded = decoded.without(faults)
    refuse_empty(decoded.records, issues, excluded)

    label_names, labels = _number_labels(decoded)
    names, owner = _assign(decoded, labels, listing.clients, settings)
    repeated, copies = repeated_images(decoded, names, owner, settings.duplicates)
    kept = np.delete(np.arange(len(owner)), list(repeated))
    clients, offsets = rows_of_clients(names, owner[kept])
    reason, holders = "no usable image of this client is left", set(clients)
    empty = [Issue("empty_client", name, "", reason) for name in names if name not in holders]
    issues += [*copies, *stop_on_faults(empty, settings.on_bad)]

    order = kept[np.argsort(owner[kept], kind="stable")]
    groups = unit_ids([record.group for record in decoded.records])
    identity = hashlib.sha256(decoded.cached.folder.name.encode())
    identity.update(decoded.rows[order].tobytes() + offsets.tobytes())
    return FederatedData(
        names=clients,
        offsets=offsets,
        store=CachedStore(decoded.cached, decoded.rows[order], labels[order]),
        issues=DataIssues(tuple(issues), excluded),
        labels=labels[order],
        label_names=label_names,
        tasks=_tasks([record.client for record in decoded.records], labels),
        groups=groups[order],
        images=tuple(decoded.records[index].name for index in order),
        contents=np.ascontiguousarray(decoded.cached.digests[decoded.rows[order], :8]).view(
            np.uint64
        )[:, 0],
        splits=np.array([decoded.records[index].split for index in order], str),
        fingerprint=identity.hexdigest(),
    )


def _number_labels(decoded: Decoded) -> tuple[tuple[str, ...], np.ndarray]:
    """Label names in alphabetical order, and the label of each record, int32 [R], -1 = none."""
    labels = [decoded.label(index) for index in range(len(decoded.records))]
    names = tuple(sorted({label for label in labels if label is not None}))
    number = {name: index for index, name in enumerate(names)}
    return names, np.array([-1 if x is None else number[x] for x in labels], np.int32)


def _tasks(sites: Sequence[str], labels: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Labels [R] that occur at one site belong to one task, and so on from site to site."""
    of_site: dict[str, set[int]] = {}
    for site, label in zip(sites, labels.tolist(), strict=True):
        of_site.setdefault(site, set()).update((label,) if label >= 0 else ())
    tasks: list[set[int]] = []
    for mine in filter(None, of_site.values()):
        joined = mine.union(*(task for task in tasks if task & mine))
        tasks = [task for task in tasks if not task & mine] + [joined]
    return tuple(tuple(sorted(task)) for task in tasks)


def _assign(
    decoded: Decoded, labels: np.ndarray, clients: tuple[str, ...], settings: DataSettings
) -> tuple[tuple[str, ...], np.ndarray]:
    """All client names, including those without a record, and each record's client, int64 [R]."""
    sites = [record.client for record in decoded.records]
    groups = [record.group for record in decoded.records]
    names, owner = assign(sites, groups, labels, settings)
    if settings.partition == "site":
        occupied = set(sites)
        names += tuple(name for name in clients if name not in occupied)
    return names, owner
