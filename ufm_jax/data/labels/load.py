"""Reads, checks, decodes, splits and shares out labelled images."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ufm_jax.data.cache.cache import Progress
from ufm_jax.data.cache.shared_cache import ALONE, Share
from ufm_jax.data.cache.store import CachedStore
from ufm_jax.data.copies import repeated_images
from ufm_jax.data.issues import DataIssues, Issue, refuse_empty, stop_on_faults
from ufm_jax.data.labels import checks
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.data.labels.examples import Examples, faults_before_decoding, read_examples
from ufm_jax.data.labels.masks.classes import MaskClasses
from ufm_jax.data.labels.masks.of_frame import with_cut_masks
from ufm_jax.data.labels.settings import LabelSettings
from ufm_jax.data.labels.sources import read_labelled
from ufm_jax.data.labels.spacing import spacing_mm
from ufm_jax.data.labels.splits import Groups, drawn_splits, given_splits, make_groups
from ufm_jax.data.labels.store import LabelledStore
from ufm_jax.data.labels.task import Task
from ufm_jax.data.partition import assign, rows_of_clients
from ufm_jax.data.records import unique_name
from ufm_jax.data.scans.expand import with_frames
from ufm_jax.data.screening import screen


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
        DataError: If the data cannot be used as configured; names files and remedy.
    """
    listing = read_labelled(settings)
    faults_of = partial(faults_before_decoding, settings=settings)
    records, issues, excluded = screen(listing, settings, faults_of, settings.unlabelled)
    files, listed_twice = checks.one_record_per_file(records, settings.duplicates)
    usable, of_scans = with_frames(files, listing.root, settings, progress)
    usable = with_cut_masks(usable)
    issues += stop_on_faults(of_scans, settings.on_bad, settings.unlabelled)
    refuse_empty(usable, issues, excluded)
    names = [unique_name(record, listing.root) for record in usable]
    placed, moved = given_splits(usable, names, settings.split)
    examples, unfit, left_out = read_examples(placed, settings, progress, share)
    issues += [*listed_twice, *moved, *unfit]
    excluded |= left_out
    refuse_empty(examples.records, issues, excluded)
    shared, doubts = _split_and_share(examples, listing.root, settings)
    return _assembled(shared, DataIssues((*issues, *doubts), excluded), settings)


@dataclass(frozen=True)
class _Shared:
    """R examples sorted by client, with what ``LabelledData`` says of their rows."""

    examples: Examples
    names: tuple[str, ...]
    group_names: tuple[str, ...]
    groups: np.ndarray
    splits: np.ndarray
    clients: tuple[str, ...]
    offsets: np.ndarray


def _split_and_share(
    examples: Examples, root: Path | None, settings: LabelSettings
) -> tuple[_Shared, list[Issue]]:
    """Draws splits, gives images to clients, and checks what came of it."""
    records = examples.records
    names = [unique_name(record, root) for record in records]
    group_names = [
        f"image {name}" if record.group is None else record.group
        for record, name in zip(records, names, strict=True)
    ]
    groups = make_groups(group_names, examples.targets == 1)
    given = np.array([record.split for record in records], dtype="<U5")
    splits = drawn_splits(given, groups, settings.split)
    clients, owner = _assign_by_name(examples, names, group_names, groups, settings)

    policy = settings.duplicates
    leaked, copies = checks.copies_across_splits(examples.decoded, splits, policy)
    if "train" not in settings.split.required:
        leaked, copies = set(), []  # Nothing is trained on these images.
    kept = np.delete(np.arange(len(records)), list(leaked))
    # Only images that are left count: else an image in two splits, at two clients, would lose both.
    left = examples.take(kept)
    repeated, repeats = repeated_images(left.decoded, clients, owner[kept], policy)
    kept, left = np.delete(kept, list(repeated)), left.without(repeated)
    splits, owner = splits[kept], owner[kept]
    checks.check_splits(splits, left.targets, left.classes, settings)
    doubts = [
        *copies,
        *repeats,
        *checks.ungrouped(left.records),
        *checks.absent_classes(splits, left.targets, left.classes),
        *checks.clients_without_training(clients, owner, splits),
    ]
    groups = make_groups([group_names[index] for index in kept], left.targets == 1)
    order = np.argsort(owner, kind="stable")
    holders, offsets = rows_of_clients(clients, owner)
    shared = _Shared(
        examples=left.take(order),
        names=tuple(names[index] for index in kept[order]),
        group_names=groups.names,
        groups=groups.ids[order],
        splits=splits[order],
        clients=holders,
        offsets=offsets,
    )
    return shared, doubts


def _assign_by_name(
    examples: Examples,
    names: list[str],
    group_names: list[str],
    groups: Groups,
    settings: LabelSettings,
) -> tuple[tuple[str, ...], np.ndarray]:
    """Client names and the client of each image, int64 [R], whatever the order of the files.

    All splits are partitioned together, so that a client's test images come from the distribution
    of its training images. Label skew goes by the rarest class in a group.
    """
    order = sorted(range(len(names)), key=names.__getitem__)
    clients, assigned = assign(
        [examples.records[index].client for index in order],
        [group_names[index] for index in order],
        groups.strata[groups.ids[order]] + 1,
        settings,
    )
    owner = np.empty(len(names), np.int64)
    owner[order] = assigned
    return clients, owner


def _assembled(shared: _Shared, issues: DataIssues, settings: LabelSettings) -> LabelledData:
    """The rows as one piece of data, with a name for the whole."""
    examples, records, decoded = shared.examples, shared.examples.records, shared.examples.decoded
    masks, native, targets = examples.masks, decoded.native, examples.targets
    single = settings.kind == "single"
    labels = (targets.argmax(1) if single else np.full(len(records), -1)).astype(np.int32)
    images = CachedStore(decoded.cached, decoded.rows, labels)
    mask_store = None if masks is None else CachedStore(masks.cached, masks.rows, labels)
    spacing = [
        spacing_mm(r, (int(h), int(w)), settings.spacing_key, settings.spacing_size_columns)
        for r, (h, w) in zip(records, native, strict=True)
    ]
    parts = [decoded.rows, shared.offsets, targets, shared.groups]
    folders = [decoded.cached.folder.name, repr((settings.kind, examples.classes))]
    if masks is not None:
        parts.append(masks.rows)
        folders.append(masks.cached.folder.name)
    identity = hashlib.sha256("\n".join([*folders, *shared.splits.tolist()]).encode())
    for part in parts:
        identity.update(part.tobytes())
    return LabelledData(
        task=Task(settings.kind, examples.classes),
        store=LabelledStore(images, None if masks else targets, mask_store),
        names=shared.names,
        images=tuple(record.image for record in records),
        clients=shared.clients,
        offsets=shared.offsets,
        splits=shared.splits,
        labels=labels,
        targets=targets,
        groups=shared.groups,
        group_names=shared.group_names,
        native_size=native,
        spacing=np.array(spacing, np.float32),
        attributes=tuple(record.attributes for record in records),
        masks=masks.sources if masks else (),
        mask_classes=masks.classes if masks else MaskClasses(),
        class_pixels=masks.counts if masks else np.zeros((len(records), 0), np.int64),
        issues=issues,
        fingerprint=identity.hexdigest(),
    )
