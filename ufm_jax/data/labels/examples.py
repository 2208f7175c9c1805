"""From records to decoded images with targets; what cannot be used is left out and listed."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ufm_jax.data import screening
from ufm_jax.data.cache.cache import Progress
from ufm_jax.data.cache.shared_cache import ALONE, Share
from ufm_jax.data.decoding import Decoded, decode_records, decode_settings, faults_of_decoding
from ufm_jax.data.issues import Issue, stop_on_faults
from ufm_jax.data.labels.masks.classes import AUTO, MaskClasses, parse_mask_classes
from ufm_jax.data.labels.masks.joined import JoinedMask
from ufm_jax.data.labels.masks.rows import MaskRows, MaskSource, decode_masks, values_in_masks
from ufm_jax.data.labels.settings import LabelSettings
from ufm_jax.data.labels.sizes import native_sizes
from ufm_jax.data.labels.sources import leave_out
from ufm_jax.data.labels.task import check_classes, read_targets
from ufm_jax.data.records import Record, file_faults


@dataclass(frozen=True)
class Masks:
    """Masks of R images.

    Attributes:
        sources: R masks.
        classes: What their values mean.
        rows: The decoded masks.
    """

    sources: tuple[MaskSource, ...]
    classes: MaskClasses
    rows: MaskRows

    def take(self, kept: np.ndarray) -> "Masks":
        """Those at some positions, without the faults."""
        rows = self.rows
        sources = tuple(self.sources[index] for index in kept)
        taken = MaskRows(rows.cached, rows.rows[kept], rows.counts[kept], rows.grey[kept], {})
        return Masks(sources, self.classes, taken)


@dataclass(frozen=True)
class Examples:
    """R images that can be used for a task.

    Attributes:
        decoded: Records and pixels.
        native: int32 [R, 2], (height, width) of the file.
        classes: C names.
        targets: float32 [R, C], 1 = shows it, 0 = does not, nan = unknown.
        masks: None for diagnosis.
    """

    decoded: Decoded
    native: np.ndarray
    classes: tuple[str, ...]
    targets: np.ndarray
    masks: Masks | None = None

    @property
    def records(self) -> tuple[Record, ...]:
        """R records."""
        return self.decoded.records

    def without(self, positions: Collection[int]) -> "Examples":
        """All but those at some positions."""
        kept = np.array([i for i in range(len(self.records)) if i not in positions], np.int64)
        return Examples(
            self.decoded.without(positions),
            self.native[kept],
            self.classes,
            self.targets[kept],
            None if self.masks is None else self.masks.take(kept),
        )


def faults_before_decoding(
    records: Sequence[Record], root: Path | None, settings: LabelSettings
) -> dict[int, Issue]:
    """Finds what makes records unusable for the task and shows without reading a file.

    Args:
        records: What the source listed.
        root: Folder that neither images nor masks may leave.
        settings: The task.

    Returns:
        The first fault of each faulty record, by position.
    """
    faults = screening.faults_before_decoding(records, root, require_labels=False)
    if settings.kind == "segment":
        found = _mask_faults(records, root, settings)
    else:
        found = dict(read_targets(records, [r.label for r in records], settings).faults)
    # Of other images the label is known when they are decoded.
    files = {i: f for i, f in found.items() if isinstance(records[i].image, Path)}
    return dict(sorted({**files, **faults}.items()))


def read_examples(
    records: Sequence[Record],
    settings: LabelSettings,
    cache_dir: Path,
    num_workers: int,
    progress: Progress | None = None,
    share: Share = ALONE,
) -> tuple[Examples, list[Issue], dict[str, int]]:
    """Decodes images, and reads their labels or masks.

    Args:
        records: Records without a known fault.
        settings: Task and data.
        cache_dir: Made if absent.
        num_workers: Threads.
        progress: Called with (done, total) while images, then masks, are decoded.
        share: This process among those that load the same data at the same time.

    Returns:
        The examples, what is wrong with those left out or doubtful with others, and what was left
        out on purpose, by reason.

    Raises:
        DataError: As the settings ask for.
    """
    pixels = decode_settings(settings)
    decoded = decode_records(records, pixels, cache_dir, num_workers, progress, share)
    native = native_sizes(decoded)
    faults, notes = faults_of_decoding(decoded, require_labels=False)
    issues: list[Issue] = [*notes, *_listed(faults.values(), settings)]
    # Records whose source says their label have been through ``leave_out``.
    labels = [
        decoded.label(index) if record.label is None and index not in faults else None
        for index, record in enumerate(decoded.records)
    ]
    kept, left_out = leave_out(labels, settings.leave_out)
    dropped = set(range(len(labels))).difference(kept)
    unknown = np.zeros((len(labels), 0), np.float32)
    examples = Examples(decoded, native, (), unknown).without({*faults, *dropped})
    if settings.kind == "segment":
        examples, found = _with_masks(examples, settings, cache_dir, num_workers, progress)
    else:
        examples, found = _with_labels(examples, settings)
    return examples, [*issues, *found], left_out


def _with_labels(examples: Examples, settings: LabelSettings) -> tuple[Examples, Iterable[Issue]]:
    """Reads the labels; leaves out what has none that can be used."""
    labels = [examples.decoded.label(index) for index in range(len(examples.records))]
    check_classes(labels, settings)
    targets = read_targets(examples.records, labels, settings)
    issues = _listed(targets.faults.values(), settings)
    labelled = replace(examples, classes=targets.classes, targets=targets.values)
    return labelled.without(targets.faults), issues


def _with_masks(
    examples: Examples,
    settings: LabelSettings,
    cache_dir: Path,
    num_workers: int,
    progress: Progress | None,
) -> tuple[Examples, Iterable[Issue]]:
    """Reads the masks; leaves out those that cannot be used."""
    sources = [_mask_of(record, settings) for record in examples.records]
    if settings.mask_classes == AUTO:
        classes = values_in_masks(sources, cache_dir, num_workers)
    else:
        classes = parse_mask_classes(settings.mask_classes)
    natives = [(int(height), int(width)) for height, width in examples.native]
    size = settings.working_size
    rows = decode_masks(sources, natives, classes, size, cache_dir, num_workers, progress)
    clients = [record.client for record in examples.records]
    names = [str(s) if isinstance(s, Path) else s.name for s in sources]
    faults = [
        Issue(kind, clients[i], names[i], reason) for i, (kind, reason) in rows.faults.items()
    ]
    grey = "holds greys; from half of full scale on they count as foreground"
    notes = [Issue("grey_mask", clients[i], names[i], grey) for i in np.flatnonzero(rows.grey)]
    issues = [*_listed(faults, settings), *notes]
    shows = (rows.counts[:, 1:] > 0).astype(np.float32)
    masks = Masks(tuple(sources), classes, rows)
    masked = replace(examples, classes=classes.names, targets=shows, masks=masks)
    return masked.without(rows.faults), issues


def _mask_of(record: Record, settings: LabelSettings) -> MaskSource:
    """The mask of a record that is known to have one."""
    if settings.source == "synthetic":
        from ufm_jax.data.labels.masks.synthetic import SimulatedMask

        return SimulatedMask.of(record.image)
    if record.mask is None:
        raise ValueError(f"{record.name} has no mask and was not left out")
    return record.mask


def _mask_faults(
    records: Sequence[Record], root: Path | None, settings: LabelSettings
) -> dict[int, Issue]:
    """Masks that are not named, missing, empty, or outside the root."""
    column = settings.mask_column if settings.source == "index" else "mask"
    faults: dict[int, Issue] = {
        index: Issue("no_mask", record.client, record.name, f"has no {column}")
        for index, record in enumerate(records)
        if record.mask is None
    }
    files = [
        (index, Record(record.client, file))
        for index, record in enumerate(records)
        for file in (record.mask.files if isinstance(record.mask, JoinedMask) else (record.mask,))
        if file is not None
    ]
    found = file_faults([record for _, record in files], root) if root is not None else {}
    return faults | {files[position][0]: issue for position, issue in found.items()}


def _listed(issues: Iterable[Issue], settings: LabelSettings) -> tuple[Issue, ...]:
    return stop_on_faults(issues, settings.on_bad, settings.unlabelled)
