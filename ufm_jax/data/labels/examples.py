"""From records to decoded images with targets; what cannot be used is left out and listed."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ufm_jax.data import screening
from ufm_jax.data.cache.cache import Progress
from ufm_jax.data.cache.shared_cache import ALONE, Share
from ufm_jax.data.decoding import Decoded, decode_records, faults_of_decoding
from ufm_jax.data.issues import Issue, stop_on_faults
from ufm_jax.data.labels.masks.classes import AUTO, parse_mask_classes
from ufm_jax.data.labels.masks.joined import JoinedMask
from ufm_jax.data.labels.masks.rows import MaskRows, decode_masks, values_in_masks
from ufm_jax.data.labels.settings import LabelSettings
from ufm_jax.data.labels.sources import leave_out
from ufm_jax.data.labels.task import check_classes, read_targets
from ufm_jax.data.records import Record, name_of_source
from ufm_jax.files import cache_folder


@dataclass(frozen=True)
class Examples:
    """R images that can be used for a task.

    Attributes:
        decoded: Records and pixels.
        classes: C names.
        targets: float32 [R, C], 1 = shows it, 0 = does not, nan = unknown.
        masks: None for diagnosis.
    """

    decoded: Decoded
    classes: tuple[str, ...]
    targets: np.ndarray
    masks: MaskRows | None = None

    @property
    def records(self) -> tuple[Record, ...]:
        """R records."""
        return self.decoded.records

    def take(self, positions: np.ndarray) -> "Examples":
        """The examples at some positions, in that order."""
        masks = None if self.masks is None else self.masks.take(positions)
        decoded = self.decoded.take(positions)
        return Examples(decoded, self.classes, self.targets[positions], masks)

    def without(self, positions: Collection[int]) -> "Examples":
        """All examples but those at some positions."""
        return self.take(np.delete(np.arange(len(self.records)), list(positions)))


def faults_before_decoding(
    records: Sequence[Record], root: Path | None, settings: LabelSettings
) -> dict[int, Issue]:
    """The first fault of each record that shows without reading a file, by position.

    Neither images nor masks may leave ``root``.
    """
    faults = screening.faults_before_decoding(records, root, require_labels=False)
    if settings.kind == "segment":
        unfit = _mask_faults(records, root, settings)
    else:
        unfit = dict(read_targets(records, [r.label for r in records], settings).faults)
    # The label of an image that is not a file is known only once it is decoded.
    files = {i: f for i, f in unfit.items() if isinstance(records[i].image, Path)}
    return dict(sorted({**files, **faults}.items()))


def read_examples(
    records: Sequence[Record],
    settings: LabelSettings,
    progress: Progress | None = None,
    share: Share = ALONE,
) -> tuple[Examples, list[Issue], dict[str, int]]:
    """Decodes the images of records without a known fault, and reads their labels or masks.

    ``progress`` and ``share`` are those of ``load_labelled``.

    Returns:
        The examples; what is wrong with images left out or doubtful in others; and the number left
        out on purpose, by reason.

    Raises:
        DataError: As the settings ask for.
    """
    cache_dir = cache_folder(settings.cache_dir)
    decoded = decode_records(records, settings, cache_dir, progress, share)
    faults, notes = faults_of_decoding(decoded, require_labels=False)
    issues: list[Issue] = [*notes, *_listed(faults.values(), settings)]
    # Records whose source names their label have already been through ``leave_out``.
    labels = [
        decoded.label(index) if record.label is None and index not in faults else None
        for index, record in enumerate(decoded.records)
    ]
    kept, left_out = leave_out(labels, settings.leave_out)
    dropped = set(range(len(labels))).difference(kept)
    unknown = np.zeros((len(labels), 0), np.float32)
    examples = Examples(decoded, (), unknown).without({*faults, *dropped})
    if settings.kind == "segment":
        examples, unfit = _with_masks(examples, settings, cache_dir, progress)
    else:
        examples, unfit = _with_labels(examples, settings)
    return examples, [*issues, *unfit], left_out


def _with_labels(examples: Examples, settings: LabelSettings) -> tuple[Examples, Iterable[Issue]]:
    """Reads the labels; leaves out images without a usable one."""
    labels = [examples.decoded.label(index) for index in range(len(examples.records))]
    check_classes(labels, settings)
    targets = read_targets(examples.records, labels, settings)
    issues = _listed(targets.faults.values(), settings)
    labelled = replace(examples, classes=targets.classes, targets=targets.values)
    return labelled.without(targets.faults), issues


def _with_masks(
    examples: Examples, settings: LabelSettings, cache_dir: Path, progress: Progress | None
) -> tuple[Examples, Iterable[Issue]]:
    """Reads the masks; leaves out images without a usable one."""
    sources = [record.mask for record in examples.records if record.mask is not None]
    if settings.mask_classes == AUTO:
        classes = values_in_masks(sources, cache_dir, settings.workers)
    else:
        classes = parse_mask_classes(settings.mask_classes)
    natives = [(int(height), int(width)) for height, width in examples.decoded.native]
    size, workers = settings.working_size, settings.workers
    masks = decode_masks(sources, natives, classes, size, cache_dir, workers, progress)

    def issue(kind: str, index: int, reason: str) -> Issue:
        return Issue(kind, examples.records[index].client, name_of_source(sources[index]), reason)

    grey = "holds greys; from half of full scale on they count as foreground"
    faults = [issue(kind, index, reason) for index, (kind, reason) in masks.faults.items()]
    notes = [issue("grey_mask", index, grey) for index in np.flatnonzero(masks.grey).tolist()]
    issues = [*_listed(faults, settings), *notes]
    shows = (masks.counts[:, 1:] > 0).astype(np.float32)
    masked = replace(examples, classes=classes.names, targets=shows, masks=masks)
    return masked.without(masks.faults), issues


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
    unfit = screening.file_faults([record for _, record in files], root) if root is not None else {}
    return faults | {files[position][0]: issue for position, issue in unfit.items()}


def _listed(issues: Iterable[Issue], settings: LabelSettings) -> tuple[Issue, ...]:
    return stop_on_faults(issues, settings.on_bad, settings.unlabelled)
