"""From usable records to decoded rows, and what shows only when files are read."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ufm_jax.data.cache.cache import DecodeSettings, Progress
from ufm_jax.data.cache.fingerprint import content_digests, distinct
from ufm_jax.data.cache.folder import CachedRows
from ufm_jax.data.cache.shared_cache import ALONE, Share, decoded_together
from ufm_jax.data.issues import Issue
from ufm_jax.data.records import Record
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError


@dataclass(frozen=True)
class Decoded:
    """Records and where their pixels are.

    Attributes:
        records: R records.
        cached: The cache folder that holds their rows.
        rows: int64 [R], row of each record in ``cached``; equal files share a row; -1 = unreadable.
        unreadable: Why, by position, for each row -1.
    """

    records: tuple[Record, ...]
    cached: CachedRows
    rows: np.ndarray
    unreadable: Mapping[int, str] = field(default_factory=dict)

    def label(self, index: int) -> str | None:
        """The record's label, or the one its picture brought."""
        return self.records[index].label or self.cached.labels.get(int(self.rows[index]))

    @property
    def native(self) -> np.ndarray:
        """int32 [R, 2], (height, width) of the upright images; zeros where decoding failed."""
        return np.where(self.rows[:, None] >= 0, self.cached.natives[self.rows], 0)

    def take(self, positions: np.ndarray) -> "Decoded":
        """The records at some positions, none of them unreadable, in that order."""
        records = tuple(self.records[index] for index in positions)
        return Decoded(records, self.cached, self.rows[positions])

    def without(self, positions: Collection[int]) -> "Decoded":
        """All records but those at some positions, which include all that are unreadable."""
        return self.take(np.delete(np.arange(len(self.records)), list(positions)))


def decode_settings(settings: DataSettings) -> DecodeSettings:
    """The part of the settings that decides pixels."""
    channels = None if settings.channels == "auto" else settings.channels
    detector = None
    if settings.detect_geometry:
        from ufm_jax.data.geometry.detect import detect_geometry

        detector = detect_geometry
    return DecodeSettings(settings.working_size, channels, detector, settings.value_range)


def decode_records(
    records: Sequence[Record],
    settings: DataSettings,
    cache_dir: Path,
    progress: Progress | None = None,
    share: Share = ALONE,
) -> Decoded:
    """Opens the decoded rows of records, decoding what is not in the cache.

    Args:
        records: R records without known faults, at least one.
        settings: What decides the pixels, and the number of threads.
        cache_dir: Made if absent.
        progress: Called with (done, total) while images are decoded.
        share: This process among those that decode the same records; see ``shared_cache``.

    Returns:
        All records, including those that failed: see ``faults_of_decoding``.

    Raises:
        DataError: If no image can be read, or the depth of the files must be said.
    """
    images = [record.image for record in records]
    digests, unreadable = content_digests(images, cache_dir, settings.workers)
    if len(unreadable) == len(records):
        raise DataError(f"no image can be read; first: {records[0].name}: {unreadable[0]}")
    first, rows = distinct(digests, unreadable)
    cached = decoded_together(
        [images[index] for index in first],
        [digests[index] for index in first],
        decode_settings(settings),
        cache_dir,
        settings.workers,
        progress,
        share,
    )
    check_depth(np.where(rows >= 0, cached.peaks[rows], 0), [r.name for r in records])
    return Decoded(tuple(records), cached, rows, unreadable)


def check_depth(peaks: np.ndarray, names: Sequence[str]) -> None:
    """Refuses files that have 16 bits by their headers and, as a set, use fewer.

    Args:
        peaks: int [R], see ``decode.Row``.
        names: Names of the R files.

    Raises:
        DataError: If no file reaches a quarter of full scale: 10, 12 or 14 bits, stored in 16,
            would come out dark.
    """
    most, deep = int(peaks.max(initial=0)), np.flatnonzero(peaks)
    if 0 < most < 2**14:
        bits = next(bits for bits in (10, 12, 14) if most < 2**bits)
        raise DataError(
            f"{len(deep)} files have 16 bits by their headers, and none a value above {most}; "
            f"first: {names[deep[0]]}. Set data.value_range=(0, {2**bits - 1}) if "
            f"they hold {bits} bits, (0, 65535) if they hold 16"
        )


def faults_of_decoding(
    decoded: Decoded, require_labels: bool
) -> tuple[dict[int, Issue], list[Issue]]:
    """Finds what showed only when the files were read.

    ``require_labels`` makes an image without a label a fault.

    Returns:
        The fault of each unusable record, by position; and issues of usable records.
    """
    faults: dict[int, Issue] = {}
    notes: list[Issue] = []
    for index, (record, row) in enumerate(zip(decoded.records, decoded.rows.tolist(), strict=True)):
        if reason := decoded.unreadable.get(index) or decoded.cached.failures.get(row):
            faults[index] = Issue("corrupt", record.client, record.name, reason)
        elif require_labels and decoded.label(index) is None:
            faults[index] = Issue("no_label", record.client, record.name, "has no label")
        elif (frames := int(decoded.cached.frames[row])) > 1:
            reason = f"frame 1 of {frames} is used"
            notes.append(Issue("multi_frame", record.client, record.name, reason))
    return faults, notes
