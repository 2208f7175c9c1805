"""From a listing to the records that may be decoded: asked for, and without a fault that shows."""

import functools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from stat import S_ISREG

from ufm_jax.data.cells import matched, name_of, near_equal
from ufm_jax.data.issues import Issue, refuse_empty, stop_on_faults
from ufm_jax.data.records import Listing, Record
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError


def screen(
    listing: Listing,
    settings: DataSettings,
    faults_of: Callable[[Sequence[Record], Path | None], Mapping[int, Issue]],
    unlabelled: str | None = None,
) -> tuple[tuple[Record, ...], list[Issue], dict[str, int]]:
    """Leaves out what is not asked for, and what has a fault that shows without reading a file.

    Args:
        listing: What the source lists.
        settings: Splits and columns by which records are kept or left out.
        faults_of: (records, root) -> the fault of each faulty record, by position.
        unlabelled: Whether images without label or mask stop the run; see ``stop_on_faults``.

    Returns:
        The usable records, at least one; an issue for each that has a fault or is doubtful; and
        the number of those left out on purpose, by reason.

    Raises:
        DataError: As the settings ask for, or if no record is left.
    """
    _stop_without_images(listing)
    issues = [*stop_on_faults(listing.issues, settings.on_bad, unlabelled)]
    issues += _near_equal_names(listing.records)
    records, ruled_out = _exclude_records(listing.records, settings.exclusions())
    records, other_splits, torn = keep_splits(records, settings.splits)
    faults = faults_of(records, listing.root)
    issues += [*torn, *stop_on_faults(faults.values(), settings.on_bad, unlabelled)]
    usable = tuple(record for index, record in enumerate(records) if index not in faults)
    excluded = {**listing.excluded, **ruled_out, **other_splits}
    refuse_empty(usable, issues, excluded)
    return usable, issues, excluded


def _stop_without_images(listing: Listing) -> None:
    """Refuses a source that lists files but no image, and says what the files are."""
    others = [Path(issue.path) for issue in listing.issues if issue.kind == "not_image"]
    if listing.records or not others:
        return
    counts = Counter(path.suffix.lower() or "without a suffix" for path in others).most_common(5)
    held = ", ".join(f"{count} files {suffix}" for suffix, count in counts)
    raise DataError(
        f"{listing.root or others[0].parent} holds no image that can be read, but {held}; "
        "convert them to PNG"
    )


def keep_splits(
    records: Sequence[Record], splits: Sequence[str]
) -> tuple[tuple[Record, ...], dict[str, int], list[Issue]]:
    """Keeps the records of some splits; if ``splits`` is empty, all records.

    Returns:
        The records kept; the number left out for each reason; and an issue for each group that has
        images on both sides, because a patient on both sides of a split makes a figure worthless.

    Raises:
        DataError: If no record is of a split that is asked for.
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


def _exclude_records(
    records: Sequence[Record], rules: Sequence[tuple[str, str, str]]
) -> tuple[tuple[Record, ...], dict[str, int]]:
    """Leaves out records that meet a rule of ``DataSettings.exclusions``, counted by rule.

    Raises:
        DataError: If a rule meets no record, hence is a mistake.
    """
    kept, counts = tuple(records), {}
    for of_set, column, value in rules:
        name = f"{of_set}:{column}={value}" if of_set else f"{column}={value}"
        values = [_value(record, of_set, column) for record in kept]
        matched(f"exclude ({name})", (value,), values)
        left = tuple(r for r, own in zip(kept, values, strict=True) if own != name_of(value))
        counts[f"excluded by {name}"] = len(kept) - len(left)
        kept = left
    return kept, counts


def _value(record: Record, of_set: str, column: str) -> str:
    """What a record has in a column; '' if nothing, or if the record is of another set."""
    if of_set not in ("", record.attributes.get("set")):
        return ""
    known = {"label": record.label, "group": record.group, "split": record.split}
    return (known | dict(record.attributes)).get(column) or ""


def _near_equal_names(records: Sequence[Record]) -> list[Issue]:
    """An issue for groups, clients, labels or splits whose names are nearly the same."""
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


def faults_before_decoding(
    records: Sequence[Record], root: Path | None, require_labels: bool
) -> dict[int, Issue]:
    """The first fault of each record that shows without reading a file, by position.

    No file may leave ``root``, which is None if the images are not files. ``require_labels`` makes
    an image without a label a fault.
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


def file_faults(records: Sequence[Record], root: Path) -> dict[int, Issue]:
    """The fault of each image file that is missing, empty or outside the root, by position.

    No file is read, and images that are not files are passed over. A file may leave the root
    neither by '..' nor by a symbolic link.
    """
    fault = fault_of_file(root)
    faults = {}
    for index, record in enumerate(records):
        if isinstance(record.image, Path) and (found := fault(record.image)):
            faults[index] = Issue(found[0], record.client, record.name, found[1])
    return faults


def fault_of_file(root: Path) -> Callable[[Path], tuple[str, str] | None]:
    """A function that returns a file's kind of fault and the reason, or None if it is sound.

    A file that leaves ``root`` has a fault.
    """
    real_root = os.path.realpath(root)
    real_folder = functools.lru_cache(maxsize=None)(os.path.realpath)

    def fault(path: Path) -> tuple[str, str] | None:
        try:
            plain = path.name != ".." and not path.is_symlink()
            real = os.path.join(real_folder(path.parent), path.name)
            real = real if plain else os.path.realpath(path)
            if os.path.commonpath([real_root, real]) != real_root:
                return "outside", f"lies outside the root {root}, at {real}"
            stat = os.stat(real)
        except (OSError, ValueError) as error:
            return "missing", f"cannot be opened: {getattr(error, 'strerror', None) or error}"
        if not S_ISREG(stat.st_mode):
            return "missing", "is not a file"
        return None if stat.st_size else ("empty", "has 0 bytes")

    return fault
