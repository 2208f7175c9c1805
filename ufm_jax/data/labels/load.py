"""Reads, checks, decodes, splits and shares out labelled images."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ufm_jax.data.cache.cache import Progress
from ufm_jax.data.cache.shared_cache import ALONE, Share
from ufm_jax.data.cache.store import CachedStore
from ufm_jax.data.copies import repeated_images
from ufm_jax.data.issues import DataIssues, Issue, refuse_nothing, stop_on_faults
from ufm_jax.data.labels import checks
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.data.labels.examples import Examples, faults_before_decoding, read_examples
from ufm_jax.data.labels.masks.classes import MaskClasses
from ufm_jax.data.labels.settings import LabelSettings
from ufm_jax.data.labels.sizes import spacing_mm
from ufm_jax.data.labels.sources import read_labelled, unique_name
from ufm_jax.data.labels.splits import Groups, drawn_splits, given_splits, make_groups
from ufm_jax.data.labels.store import LabelledStore
from ufm_jax.data.labels.task import Task
from ufm_jax.data.partition import assign_clients
from ufm_jax.data.records import Record
from ufm_jax.data.screening import screen
from ufm_jax.files import cache_folder


def load_labelled(
    settings: LabelSettings, progress: Progress | None = None, share: Share = ALONE
) -> LabelledData:
    """Loads labelled images for a task.

    Args:
        settings: Images, labels, masks, splits and clients.
        progress: Called with (done, total) while images, then masks, are decoded.
        share: (index, count) of this process among those that load the same data at the same time.

    Returns:
        The data. The same settings over the same files give the same rows in the same order,
        whatever the number of workers; splits, subsets and clients do not depend on the order of
        the files.

    Raises:
        DataError: If the data cannot be used as configured; names files, and the remedy.
    """
    listing = read_labelled(settings)

    def faults_of(records: Sequence[Record], root: Path | None) -> dict[int, Issue]:
        return faults_before_decoding(records, root, settings)

    def stop(issues: Iterable[Issue]) -> tuple[Issue, ...]:
        return stop_on_faults(issues, settings.on_bad, settings.unlabelled)

    records, found, excluded = screen(listing, settings, faults_of, stop)
    usable, listed_twice = checks.once_each(records, settings.duplicates)
    names = [unique_name(record, listing.root) for record in usable]
    placed, moved = given_splits(usable, names, settings.split)

    workers = settings.num_workers or os.cpu_count() or 1
    cache_dir = cache_folder(settings.cache_dir)
    examples, faults, left_out = read_examples(
        placed, settings, cache_dir, workers, progress, share
    )
    issues = [*found, *listed_twice, *moved, *faults]
    out = {**excluded, **left_out}
    refuse_nothing(examples.records, issues, out)
    checked = _split_and_share(examples, listing.root, settings)
    issues += checked.issues
    return _assembled(checked, DataIssues(tuple(issues), out), settings)


@dataclass(frozen=True)
class _Shared:
    """Examples with owners.

    Attributes:
        examples: R examples.
        names: [R], unique names.
        groups: Names and numbers of their groups.
        splits: str [R].
        clients: K names.
        owner: int64 [R].
        issues: What is doubtful.
    """

    examples: Examples
    names: tuple[str, ...]
    groups: Groups
    splits: np.ndarray
    clients: tuple[str, ...]
    owner: np.ndarray
    issues: tuple[Issue, ...]


def _split_and_share(examples: Examples, root: Path | None, settings: LabelSettings) -> _Shared:
    """Draws splits, gives images to clients, and checks what came of it."""
    records = examples.records
    names = [unique_name(record, root) for record in records]
    group_names = _group_names(records, names)
    groups = make_groups(group_names, examples.targets == 1)
    given = np.array([record.split for record in records], dtype="<U5")
    splits = drawn_splits(given, groups, settings.split)
    clients, owner = assign_clients(
        [record.client for record in records],
        group_names,
        groups.strata[groups.ids],
        sorted(range(len(names)), key=names.__getitem__),
        settings,
    )
    policy = settings.duplicates
    leaked, copies = checks.copies_across_splits(examples.decoded, splits, policy)
    if "train" not in settings.split.required:
        leaked, copies = set(), []  # Nothing is trained on these images.
    kept = np.array([i for i in range(len(records)) if i not in leaked], np.int64)
    left = examples.without(leaked)
    # Among what is left: else of a copy in another split and at another client neither would stay.
    repeated, repeats = repeated_images(left.decoded, clients, owner[kept], policy)
    kept = np.delete(kept, sorted(repeated))
    left = left.without(repeated)
    splits, owner = splits[kept], owner[kept]
    checks.check_splits(splits, left.targets, left.classes, settings)
    notes = [
        *checks.ungrouped(left.records),
        *checks.absent_classes(splits, left.targets, left.classes),
        *checks.clients_without_training(clients, owner, splits),
    ]
    return _Shared(
        examples=left,
        names=tuple(names[index] for index in kept),
        groups=make_groups([group_names[index] for index in kept], left.targets == 1),
        splits=splits,
        clients=clients,
        owner=owner,
        issues=(*copies, *repeats, *notes),
    )


def _group_names(records: Sequence[Record], names: Sequence[str]) -> list[str]:
    """The group of each image; an image of no group is one by itself."""
    return [
        f"image {name}" if record.group is None else record.group
        for record, name in zip(records, names, strict=True)
    ]


def _assembled(shared: _Shared, issues: DataIssues, settings: LabelSettings) -> LabelledData:
    """Rows in order of client, and a name for the whole."""
    examples, order = shared.examples, np.argsort(shared.owner, kind="stable")
    records = [examples.records[index] for index in order]
    native, targets = examples.native[order], examples.targets[order]
    sizes = np.bincount(shared.owner, minlength=len(shared.clients))
    single = settings.kind == "single"
    labels = targets.argmax(1) if single else np.full(len(order), -1)
    labels = labels.astype(np.int32)
    masks = None if examples.masks is None else examples.masks.take(order)
    decoded = examples.decoded
    images = CachedStore(decoded.cached, decoded.rows[order], labels)
    mask_store = None if masks is None else CachedStore(masks.rows.cached, masks.rows.rows, labels)
    spacing = [
        spacing_mm(r, (int(h), int(w)), settings.spacing_key, settings.spacing_size_columns)
        for r, (h, w) in zip(records, native, strict=True)
    ]
    offsets = np.concatenate([[0], np.cumsum(sizes[sizes > 0])])
    parts = [decoded.rows[order], offsets, targets, shared.groups.ids[order]]
    folders = [decoded.cached.folder.name, repr((settings.kind, examples.classes))]
    if masks is not None:
        parts.append(masks.rows.rows)
        folders.append(masks.rows.cached.folder.name)
    splits = shared.splits[order]
    identity = hashlib.sha256("\n".join([*folders, *splits.tolist()]).encode())
    for part in parts:
        identity.update(part.tobytes())
    return LabelledData(
        task=Task(settings.kind, examples.classes),
        store=LabelledStore(images, None if masks else targets, mask_store),
        names=tuple(shared.names[index] for index in order),
        paths=tuple(record.name for record in records),
        clients=tuple(c for c, n in zip(shared.clients, sizes, strict=True) if n),
        offsets=offsets,
        splits=splits,
        labels=labels,
        targets=targets,
        groups=shared.groups.ids[order],
        group_names=shared.groups.names,
        native_size=native,
        spacing=np.array(spacing, np.float32),
        attributes=tuple(record.attributes for record in records),
        masks=masks.sources if masks else (),
        mask_classes=masks.classes if masks else MaskClasses(),
        class_pixels=masks.rows.counts if masks else np.zeros((len(order), 0), np.int64),
        issues=issues,
        fingerprint=identity.hexdigest(),
    )
