"""From any source to records with label, mask, group, split and attributes.

Folder layouts, each with or without the folders train, val and test, in upper or lower case:

    ROOT/train/CLASS/*.png                       diagnosis
    ROOT/train/image/*.png, ROOT/train/mask/*.png    segmentation, equal stems
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ufm_jax.data.federated import read_listing
from ufm_jax.data.issues import Issue
from ufm_jax.data.label_settings import LabelSettings, SplitSettings
from ufm_jax.data.records import Listing, Record
from ufm_jax.data.sources.folders import read_folders
from ufm_jax.data.sources.index_csv import SET_COLUMN
from ufm_jax.errors import DataError
from ufm_jax.files import user_path

_PAIR = re.compile(r"(\w+)=(.*?)(?=\s+\w+=|\s*;|\s*$)")


def read_labelled(settings: LabelSettings) -> Listing:
    """Lists the records of a source as a task needs them.

    Args:
      settings: source, columns and folders.

    Returns:
      Records whose `label`, `mask` and `group` are those the settings ask for (the label is the
      first label column's value), and whose attributes hold every column and every key of the
      notes. Groups are named without the folder of the root, so that moving it changes nothing.

    Raises:
      DataError: the source is malformed, or lacks a column that the settings name.
    """
    if settings.data.source == "folders":
        listing = _read_split_folders(settings)
        records = listing.records
    else:
        listing = read_listing(settings.data)
        records = tuple(_from_index(record, listing.root, settings) for record in listing.records)
        _check_columns(records, settings)
    if settings.group_pattern:
        records = tuple(
            _grouped(record, listing.root, settings.group_pattern) for record in records
        )
    records, left_out = leave_out(records, [r.label for r in records], settings.leave_out)
    return replace(listing, records=records, excluded={**listing.excluded, **left_out})


def leave_out(
    records: Sequence[Record], labels: Sequence[str | None], values: Sequence[str]
) -> tuple[tuple[Record, ...], dict[str, int]]:
    """Drops the records whose label is among some values, and counts them by reason."""
    kept = [r for r, label in zip(records, labels, strict=True) if label not in values]
    dropped = Counter(f"label {label!r} is left out" for label in labels if label in values)
    return tuple(kept), dict(dropped)


def unique_name(record: Record, root: Path | None) -> str:
    """The image's path below the root, or its handle's name: the same wherever the root lies."""
    if root is None or not isinstance(record.image, Path):
        return record.name
    try:
        return record.image.relative_to(root).as_posix()
    except ValueError:
        return record.name


def notes_of(text: str) -> dict[str, str]:
    """The pairs in notes such as 'HC_mm=44.3 px_mm=0.07' or 'licence=CC BY 4.0; probe=convex'."""
    return {key: value for part in text.split(";") for key, value in _PAIR.findall(part)}


def _from_index(record: Record, root: Path | None, settings: LabelSettings) -> Record:
    """Fills a record from the columns that the settings name."""
    columns = dict(record.attributes)
    if record.label is not None:
        columns["label"] = record.label
    columns = {**notes_of(columns.get(settings.notes_column, "")), **columns}
    if record.split:
        columns["split"] = record.split
    base = _index_folder(record, root)
    prefix = f"{columns.get(SET_COLUMN, '')}/"
    if record.group is not None:
        columns["group"] = record.group.removeprefix(prefix)
    value = columns.get(settings.group_column or "group")
    # Two sets may number their patients alike; one set's name may be that of the root.
    group = (value if base == root else prefix + value) if value else None
    mask = record.mask
    if settings.mask_column != "mask":
        path = columns.get(settings.mask_column, "")
        mask = base / path if base is not None and path else None
    label = columns.get(settings.label_columns[0]) or None
    return replace(record, label=label, mask=mask, group=group, attributes=columns)


def _index_folder(record: Record, root: Path | None) -> Path | None:
    """The folder that the index of a record lies in, which its paths are relative to."""
    if root is None or not isinstance(record.image, Path):
        return None
    folder = root / record.attributes.get(SET_COLUMN, "")
    return folder if record.image.is_relative_to(folder) else root


def _check_columns(records: Sequence[Record], settings: LabelSettings) -> None:
    """Refuses settings that name a column or a key which no record has."""
    if settings.data.source != "index":
        return
    present = sorted({k for record in records for k, value in record.attributes.items() if value})
    if any(record.mask is not None for record in records):
        present.append("mask")
    split = settings.split
    wanted = {
        "label_columns": () if settings.kind == "segment" else settings.label_columns,
        "mask_column": (settings.mask_column,) if settings.kind == "segment" else (),
        "group_column": (settings.group_column,) if settings.group_column else (),
        "split.column": (split.column,) if split.policy == "column" else (),
        "split.fold_column": (split.fold_column,) if split.policy == "fold" else (),
    }
    for setting, columns in wanted.items():
        if absent := [column for column in columns if column not in present]:
            raise DataError(
                f"{setting}: no image of {settings.data.root} has a value under {absent}; "
                f"the columns and keys with values are: {', '.join(present)}"
            )


def _grouped(record: Record, root: Path | None, pattern: str) -> Record:
    """Finds the group of a record that has none in its path."""
    if record.group is not None:
        return record
    found = re.search(pattern, unique_name(record, root))
    return replace(record, group="/".join(filter(None, found.groups()))) if found else record


def _read_split_folders(settings: LabelSettings) -> Listing:
    """Reads ROOT/train and so on, or ROOT itself where it has no such folders."""
    root = user_path(settings.data.root)
    if not root.is_dir():
        raise DataError(f"root {root} is not a folder")
    found = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    splits = _split_folders(found, settings.split)
    if splits and (beside := [name for name in found if name not in splits and name[0] != "."]):
        raise DataError(
            f"{root} has the folders {beside} beside {list(splits)}: move them into these, or away,"
            " or name what they mean in split.train_values, val_values or test_values"
        )
    _check_policy(root, splits, settings)
    read = _masked_folders if settings.kind == "segment" else _class_folders
    parts = [read(root / name, split, settings) for name, split in (splits or {"": ""}).items()]
    client = root.resolve().name
    records = tuple(
        replace(r, client=client, attributes={"split": r.split, **r.attributes})
        for part in parts
        for r in part.records
    )
    excluded: Counter[str] = sum((Counter(part.excluded) for part in parts), Counter())
    issues = tuple(issue for part in parts for issue in part.issues)
    return Listing((client,), records, root, issues, dict(excluded))


def _split_folders(found: Sequence[str], split: SplitSettings) -> dict[str, str]:
    """The folders that mean a split, and the value of the settings that each is."""
    values = (*split.train_values, *split.val_values, *split.test_values)
    value_of = {value.casefold(): value for value in values}
    return {
        name: name if name in values else value_of[name.casefold()]
        for name in found
        if name.casefold() in value_of
    }


def _check_policy(root: Path, splits: Mapping[str, str], settings: LabelSettings) -> None:
    """Refuses a policy that would train on images which lie in a folder to test or choose by."""
    split, asked = settings.split, settings.data.splits
    used = {value for value in splits.values() if not asked or value in asked}
    heeded = split.policy == "column" or (split.policy == "fold" and split.fold_column == "split")
    # Where nothing is trained, all images may be taken together.
    if heeded or used <= set(split.train_values) or "train" not in split.required:
        return
    raise DataError(
        f"{root} has the folders {list(splits)}, which say what is trained on and what tests, and "
        f"split.policy={split.policy!r} takes no notice of them: set split.policy='column', or "
        "data.root to one of the folders to split its images alone"
    )


def _class_folders(root: Path, split: str, settings: LabelSettings) -> Listing:
    """ROOT/CLASS/.../*.png; the class is the label."""
    listing = read_folders(root, settings.data.exclude_folders)
    filled = {record.client for record in listing.records}
    empty = [
        Issue("empty_class", name, str(root / name), "holds no image")
        for name in listing.clients
        if name not in filled
    ]
    records = tuple(
        replace(r, label=r.client, split=split, attributes={"label": r.client})
        for r in listing.records
    )
    return replace(listing, records=records, issues=(*listing.issues, *empty))


def _masked_folders(root: Path, split: str, settings: LabelSettings) -> Listing:
    """ROOT/image/*.png with ROOT/mask/*.png, paired by path without suffix."""
    listing = read_folders(root, ())
    image_folder = _one_of(root, listing.clients, settings.image_folders, "image_folders")
    mask_folder = _one_of(root, listing.clients, settings.mask_folders, "mask_folders")
    masks = _by_stem(listing.records, root / mask_folder)
    images = _by_stem(listing.records, root / image_folder)
    records = tuple(
        replace(record, split=split, mask=masks[stem][1] if stem in masks else None)
        for stem, (record, _) in images.items()
    )
    lone = [
        Issue("lone_mask", image_folder, str(masks[stem][1]), f"no image {stem!r} in its place")
        for stem in masks
        if stem not in images
    ]
    used = {image_folder, mask_folder}
    beside = Counter(f"folder {r.client!r}" for r in listing.records if r.client not in used)
    issues: tuple[Issue, ...] = (*listing.issues, *lone)
    return Listing(listing.clients, records, root, issues, dict(beside))


def _by_stem(records: Sequence[Record], folder: Path) -> dict[str, tuple[Record, Path]]:
    """Records of the images below a folder, by path in it without suffix."""
    found: dict[str, tuple[Record, Path]] = {}
    for record in records:
        path = record.image
        if not isinstance(path, Path) or not path.is_relative_to(folder):
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise DataError(
                f"{found[stem][1]} and {path} have one stem, by which images and masks are paired: "
                "rename or remove one"
            )
        found[stem] = record, path
    return found


def _one_of(root: Path, present: Sequence[str], names: Sequence[str], setting: str) -> str:
    """The one folder of some names that is there."""
    found = [name for name in names if name in present]
    if len(found) != 1:
        raise DataError(
            f"{root} has the folders {sorted(present)}, of which {found or 'none'} are among "
            f"{setting}={tuple(names)}: there must be one"
        )
    return found[0]
