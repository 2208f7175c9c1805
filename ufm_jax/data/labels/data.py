"""Labelled images of many clients, split for training, choosing and testing.

A row of the store is one decoded image with the fields of ``federated`` (image, extent, geometry,
label) and beside them:

    'labels'    float32 [num_classes], diagnosis: 1 = has it, 0 = has not, nan = unknown
    'mask'      uint8 [S, S], segmentation: class numbers, 0 = background, 255 = ignored or outside
                the picture; scaled like the image, but each pixel is its nearest one's class
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ufm_jax.data.federated import FederatedData
from ufm_jax.data.issues import DataIssues
from ufm_jax.data.labels.masks.classes import MaskClasses
from ufm_jax.data.labels.masks.rows import read_mask
from ufm_jax.data.labels.settings import SPLITS
from ufm_jax.data.labels.splits import make_groups
from ufm_jax.data.labels.store import LabelledStore
from ufm_jax.data.labels.subsets import nested_subset
from ufm_jax.data.labels.task import Task
from ufm_jax.data.partition import rows_of_clients
from ufm_jax.data.records import ImageSource, name_of_source
from ufm_jax.errors import DataError

_ARRAYS = ("splits", "labels", "targets", "groups", "native_size", "spacing", "class_pixels")
_TUPLES = ("names", "images", "attributes")
"""Fields of ``LabelledData`` with an entry for each row, besides ``masks``, which may be empty."""


@dataclass(frozen=True)
class LabelledData:
    """R labelled images of K clients, rows grouped by client.

    Attributes:
        task: What is to be learnt, with C classes.
        store: Random access to the rows.
        names: [R], unique file names below the root, for messages and tables.
        images: [R], at their own size.
        clients: The K clients.
        offsets: int64 [K+1]; client k's rows are offsets[k]:offsets[k+1].
        splits: str [R], 'train', 'val' or 'test'.
        labels: int32 [R], the class of a single-label task, else -1.
        targets: float32 [R, C], 1 = shows the class, 0 = does not, nan = unknown.
        groups: int64 [R], numbers of the groups (patients), for splits and intervals.
        group_names: The groups.
        native_size: int32 [R, 2], (height, width) of the file.
        spacing: float32 [R], mm per pixel of the file, nan = unknown.
        attributes: [R], what else the source says, by column or key of the notes.
        masks: [R], masks at native size; empty for diagnosis.
        mask_classes: What their values mean.
        class_pixels: int64 [R, 1 + C], native pixels of background and classes; [R, 0] for
            diagnosis.
        issues: What was left out or is doubtful, by file and client.
        fingerprint: Changes whenever pixels, labels, masks, splits, order or owners change.
    """

    task: Task
    store: LabelledStore
    names: tuple[str, ...]
    images: tuple[ImageSource, ...]
    clients: tuple[str, ...]
    offsets: np.ndarray
    splits: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    groups: np.ndarray
    group_names: tuple[str, ...]
    native_size: np.ndarray
    spacing: np.ndarray
    attributes: tuple[Mapping[str, str], ...]
    class_pixels: np.ndarray
    masks: tuple[ImageSource, ...] = ()
    mask_classes: MaskClasses = field(default_factory=MaskClasses)
    issues: DataIssues = field(default_factory=DataIssues)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        total = len(self.store)
        lengths = {len(getattr(self, name)) for name in (*_ARRAYS, *_TUPLES)}
        if lengths != {total} or len(self.masks) not in (0, total):
            raise ValueError(f"every field by row must have one entry for each of {total} rows")
        if len(self.offsets) != len(self.clients) + 1 or self.offsets[-1] != total:
            raise ValueError(f"offsets must run to {total} rows in {len(self.clients)} steps")

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.names)

    @property
    def num_clients(self) -> int:
        """K."""
        return len(self.clients)

    def rows(self, split: str, client: int | None = None) -> np.ndarray:
        """Rows of a split, of all clients or of one, int64 [n] in order.

        Raises:
            DataError: If there is no such split.
        """
        if split not in SPLITS:
            raise DataError(f"split {split!r}: choose one of {SPLITS}")
        rows = np.flatnonzero(self.splits == split)
        if client is None:
            return rows
        begin, end = self.offsets[client : client + 2]
        return rows[(rows >= begin) & (rows < end)]

    def class_weights(self) -> np.ndarray:
        """Weights that make up for unequal class frequencies in the training split, float32.

        Returns:
            'single' [C]: n / (C n_c), for images of class c. 'multi' [C]: negatives per positive,
            the weight of a positive. 'segment' [1 + C]: n / ((1 + C) n_c) over native pixels,
            background first. A class that is absent has weight 0.
        """
        rows = self.rows("train")
        if self.task.kind == "multi":
            positive = (self.targets[rows] == 1).sum(0)
            weights = (self.targets[rows] == 0).sum(0) / np.maximum(positive, 1)
            return np.where(positive > 0, weights, 0).astype(np.float32)
        table = self.class_pixels if self.task.kind == "segment" else self.targets
        counts = table[rows].sum(0, dtype=np.float64)
        weights = counts.sum() / (len(counts) * np.maximum(counts, 1))
        return np.where(counts > 0, weights, 0).astype(np.float32)

    def subset_labels(self, fraction: float, seed: int) -> np.ndarray:
        """Training rows that keep their labels, int64 [n] in order.

        Nested (those of 1 % are among those of 5 % under the same seed), stratified by class, in
        whole groups, at least one group of each class: see ``nested_subset``.
        """
        rows = self.rows("train")
        names = [self.group_names[group] for group in self.groups[rows]]
        groups = make_groups(names, self.targets[rows] == 1)
        return rows[nested_subset(groups, fraction, seed)]

    def take(self, rows: np.ndarray) -> "LabelledData":
        """The data of some rows, in order, without the clients that hold none of them.

        Raises:
            DataError: If ``rows`` is empty.
        """
        rows = np.unique(np.asarray(rows, np.int64))
        if not len(rows):
            raise DataError("no row is left: choose another split or fraction of the labels")
        owner = np.searchsorted(self.offsets, rows, side="right") - 1
        clients, offsets = rows_of_clients(self.clients, owner)
        identity = hashlib.sha256(self.fingerprint.encode() + rows.tobytes())
        by_row: dict[str, Any] = {name: getattr(self, name)[rows] for name in _ARRAYS}
        for name in (*_TUPLES, "masks") if self.masks else _TUPLES:
            by_row[name] = tuple(getattr(self, name)[row] for row in rows)
        return replace(
            self,
            store=self.store.take(rows),
            clients=clients,
            offsets=offsets,
            fingerprint=identity.hexdigest() if self.fingerprint else "",
            **by_row,
        )

    def federated(self) -> FederatedData:
        """The same rows as the training engine takes them."""
        return FederatedData(
            names=self.clients,
            offsets=self.offsets,
            store=self.store,
            issues=self.issues,
            labels=self.labels,
            label_names=self.task.classes,
            groups=self.groups,
            fingerprint=self.fingerprint,
        )

    def mask_at_native(self, row: int) -> np.ndarray:
        """A row's mask at the size of its file, read from the file: class numbers, uint8 [h, w].

        Raises:
            DataError: If the task has no masks, or the file has changed since it was checked.
        """
        if not self.masks:
            raise DataError(f"{self.names[row]}: a task of kind {self.task.kind!r} has no masks")
        height, width = self.native_size[row].tolist()
        try:
            return read_mask(self.masks[row], self.mask_classes, (height, width)).numbers
        except ValueError as error:
            mask = name_of_source(self.masks[row])
            raise DataError(f"mask {mask} of {self.names[row]}: {error}") from error

    def summary(self) -> dict[str, dict[str, Any]]:
        """Images, groups, and images that show each class of each split, as JSON takes them."""
        table = {}
        for split in SPLITS:
            rows = self.rows(split)
            shown = (self.targets[rows] == 1).sum(0).tolist()
            table[split] = {
                "images": len(rows),
                "groups": len(np.unique(self.groups[rows])),
                "classes": dict(zip(self.task.classes, shown, strict=True)),
            }
        return table
