"""From records to rows: which images are usable, asked for, decoded, and held only once."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ufm_jax.data.cache.cache import DecodeSettings, Progress, open_cache_dir
from ufm_jax.data.cache.fingerprint import content_digests, memo_of
from ufm_jax.data.cache.folder import CachedRows
from ufm_jax.data.cache.shared_cache import ALONE, Share, decoded_together
from ufm_jax.data.cells import matched, name_of, near_equal
from ufm_jax.data.issues import FAULTS, DataIssues, Issue, enforce
from ufm_jax.data.records import Listing, Record, file_faults
from ufm_jax.errors import DataError

_FAULT_REMEDY = "Mend or remove them, or set on_bad='skip' to leave them out and list them"
_DUPLICATE_REMEDY = "Set duplicates='skip' to keep the first of each, or 'keep' to only list them"


@dataclass(frozen=True)
class Decoded:
    """Records and where their pixels are.

    Attributes:
      records: R records.
      cached: the cache folder that holds their rows.
      rows: int64 [R], row of each record in `cached`; equal files share a row; -1 = unreadable.
      unreadable: why, by position, for each row -1.
    """

    records: tuple[Record, ...]
    cached: CachedRows
    rows: np.ndarray
    unreadable: Mapping[int, str] = field(default_factory=dict)

    def label(self, index: int) -> str | None:
        """The record's label, or the one its picture brought."""
        return self.records[index].label or self.cached.labels.get(int(self.rows[index]))

    def without(self, positions: Collection[int]) -> "Decoded":
        """All records but those at some positions, which include all that are unreadable."""
        kept = [i for i in range(len(self.records)) if i not in positions]
        records = tuple(self.records[i] for i in kept)
        return Decoded(records, self.cached, self.rows[np.array(kept, np.int64)])


def stop_without_images(listing: Listing) -> None:
    """Refuses a source that lists files and no image.

    Raises:
      DataError: says what the files are.
    """
    others = [Path(issue.path) for issue in listing.issues if issue.kind == "not_image"]
    if listing.records or not others:
        return
    counts = Counter(path.suffix.lower() or "without a suffix" for path in others).most_common(5)
    found = ", ".join(f"{count} files {suffix}" for suffix, count in counts)
    raise DataError(
        f"{listing.root or others[0].parent} holds no image that can be read, but {found}: DICOM, "
        "NIfTI and videos are not read yet; convert them to PNG, a file a frame"
    )


def stop_on_faults(issues: Iterable[Issue], on_bad: str) -> tuple[Issue, ...]:
    """Hands issues back; under 'error', raises DataError instead if faults are among them."""
    found = tuple(issues)
    enforce((issue for issue in found if issue.kind in FAULTS), on_bad, _FAULT_REMEDY)
    return found


def keep_splits(
    records: Sequence[Record], splits: Sequence[str]
) -> tuple[tuple[Record, ...], dict[str, int], list[Issue]]:
    """Keeps the records of some splits.

    Args:
      records: all records.
      splits: splits to keep; none = all.

    Returns:
      The records kept; the number left out for each reason; and an issue for each group that has
      images on both sides, because a patient on both sides of a split makes a figure worthless.

    Raises:
      DataError: no record is of a split that is asked for.
    """
    if not splits:
        return tuple(records), {}, []
    asked = matched("splits", splits, [record.split for record in records], default=("",))
    kept = tuple(record for record in records if record.split in asked)
    left_out = [record for record in records if record.split not in asked]
    excluded = Counter(f"split {record.split!r} is not asked for" for record in left_out)
    torn = {record.group: record for record in left_out if record.group is not None}
    both = {record.group: record for record in kept if record.group in torn}
    issues = [
        Issue("split_group", r.client, r.name, f"group {group!r} is in split {torn[group].split!r}")
        for group, r in both.items()
    ]
    return kept, dict(excluded), issues


def exclude_records(
    records: Sequence[Record], rules: Sequence[tuple[str, str, str]]
) -> tuple[tuple[Record, ...], dict[str, int]]:
    """Leaves out records by the values of their columns.

    Args:
      records: all records.
      rules: (set, column, value) of those to leave out; see `DataSettings.exclusions`.

    Returns:
      The records kept, and the number that each rule left out.

    Raises:
      DataError: a rule applies to no record, hence is a mistake.
    """
    kept, counts = tuple(records), {}
    for of_set, column, value in rules:
        name = f"{of_set}:{column}={value}" if of_set else f"{column}={value}"
        held = [_value(record, of_set, column) for record in kept]
        matched(f"exclude ({name})", (value,), held)
        left = tuple(r for r, own in zip(kept, held, strict=True) if own != name_of(value))
        counts[f"excluded by {name}"] = len(kept) - len(left)
        kept = left
    return kept, counts


def _value(record: Record, of_set: str, column: str) -> str:
    """What a record of a set has in a column, '' if nothing or of another set."""
    if of_set not in ("", record.attributes.get("set")):
        return ""
    known = {"label": record.label, "group": record.group, "split": record.split}
    return (known | dict(record.attributes)).get(column) or ""


def near_equal_names(records: Sequence[Record]) -> list[Issue]:
    """An issue for names of groups, clients, labels or splits that nearly are one name."""
    issues = []
    for what in ("group", "client", "label", "split"):
        first: dict[str, Record] = {}
        for record in records:
            first.setdefault(getattr(record, what) or "", record)
        for alike in near_equal(first):
            record = first[alike[0]]
            reason = f"{what} {' and '.join(map(repr, alike))}: if they are one, write them alike"
            issues.append(Issue("near_equal", record.client, record.place or record.name, reason))
    return issues


def refuse_nothing(
    records: Sequence[Record], issues: Iterable[Issue], excluded: Mapping[str, int]
) -> None:
    """Raises DataError if no record is left; it says what was skipped or left out, and why."""
    if not records:
        why = DataIssues(tuple(issues), excluded).summary() or ["the source lists none"]
        raise DataError(f"no usable image is left: {'; '.join(why)}")


def faults_before_decoding(
    records: Sequence[Record], root: Path | None, require_labels: bool
) -> dict[int, Issue]:
    """Finds what makes records unusable and shows without reading a file.

    Args:
      records: what the source listed.
      root: folder that no file may leave; None if the records are no files.
      require_labels: whether an image without a label is a fault.

    Returns:
      The first fault of each faulty record, by position.
    """
    faults = file_faults(records, root) if root is not None else {}
    for index, record in enumerate(records):
        if index in faults:
            continue
        if not record.client:
            reason = "the columns that name the client are empty"
            faults[index] = Issue("no_client", "", record.name, reason)
        elif require_labels and record.label is None and isinstance(record.image, Path):
            faults[index] = Issue("no_label", record.client, record.name, "has no label")
    return dict(sorted(faults.items()))


def decode_records(
    records: Sequence[Record],
    settings: DecodeSettings,
    cache_dir: Path,
    num_workers: int,
    progress: Progress | None,
    share: Share = ALONE,
) -> Decoded:
    """Opens the decoded rows of records, decoding what is not in the cache.

    Args:
      records: R records without known faults, at least one.
      settings: what decides the pixels.
      cache_dir: made if absent.
      num_workers: threads.
      progress: called with (done, total) while images are decoded.
      share: this process among those that decode the same records; see `shared_cache`.

    Returns:
      All records, those that failed too: see `faults_of_decoding`.

    Raises:
      DataError: no image can be read, or the depth of the files must be said.
    """
    open_cache_dir(cache_dir)
    listed = [record.image for record in records]
    digests, unreadable = content_digests(listed, memo_of(listed, cache_dir), num_workers)
    if len(unreadable) == len(records):
        raise DataError(f"no image can be read; first: {records[0].name}: {unreadable[0]}")
    first: dict[bytes, int] = {}
    for index, content in enumerate(digests):
        if index not in unreadable:
            first.setdefault(content, index)
    images = [records[index].image for index in first.values()]
    names = list(first)
    cached = decoded_together(images, names, settings, cache_dir, num_workers, progress, share)
    row_of = {content: row for row, content in enumerate(first)}
    rows = np.array([row_of.get(content, -1) for content in digests], np.int64)
    check_depth(np.where(rows >= 0, cached.peaks[rows], 0), [r.name for r in records])
    return Decoded(tuple(records), cached, rows, unreadable)


def check_depth(peaks: np.ndarray, names: Sequence[str]) -> None:
    """Refuses files of 16 bits by their headers that as a set do not use them.

    Args:
      peaks: int [R], see `decode.Row`.
      names: of the R files.

    Raises:
      DataError: no file reaches a quarter of full scale: 10, 12 or 14 bits, stored in 16, would
        come out dark.
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

    Args:
      decoded: the outcome of `decode_records`.
      require_labels: whether an image without a label is a fault.

    Returns:
      The fault of each unusable record, by position; and issues of records that are usable.
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


def repeated_images(
    decoded: Decoded, names: Sequence[str], owner: np.ndarray, policy: str
) -> tuple[set[int], list[Issue]]:
    """Finds images whose pixels an earlier record has too.

    Args:
      decoded: R usable records.
      names: client names.
      owner: int64 [R], the client of each record.
      policy: for images that several clients hold: 'error', 'skip' or 'keep'.

    Returns:
      Positions to leave out: under 'skip', every copy held by another client than the first; and
      an issue for each copy. Copies within a client (still frames of a clip) are only listed.

    Raises:
      DataError: under 'error', if two clients hold the same image.
    """
    first: dict[bytes, int] = {}
    repeated: dict[int, Issue] = {}
    pixels = decoded.cached.digests[decoded.rows]
    for index in range(len(decoded.records)):
        original = first.setdefault(pixels[index].tobytes(), index)
        if original == index:
            continue
        across = owner[original] != owner[index]
        kind = "duplicate_across" if across else "duplicate_within"
        holder = names[owner[original]]
        reason = f"same pixels as {decoded.records[original].name} (client {holder})"
        name = decoded.records[index].name
        repeated[index] = Issue(kind, names[owner[index]], name, reason)
    across_clients = {i: f for i, f in repeated.items() if f.kind == "duplicate_across"}
    enforce(across_clients.values(), policy, _DUPLICATE_REMEDY)
    return set(across_clients) if policy == "skip" else set(), list(repeated.values())


def empty_clients(names: Sequence[str], sizes: np.ndarray) -> list[Issue]:
    """An issue for each client of size 0."""
    return [
        Issue("empty_client", name, "", "no usable image of this client is left")
        for name, size in zip(names, sizes, strict=True)
        if size == 0
    ]
