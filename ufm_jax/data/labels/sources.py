"""From any source to records with label, mask, group, split and attributes."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ufm_jax.data.cells import matched, text_of
from ufm_jax.data.labels.folders import read_split_folders
from ufm_jax.data.labels.settings import LabelSettings
from ufm_jax.data.listing import read_listing
from ufm_jax.data.records import Listing, Record, unique_name
from ufm_jax.data.sources.index_csv import SET_COLUMN, file_of_cell
from ufm_jax.errors import DataError

_KEY = re.compile(r"(?<!\S)(\w+)\s*=")


def read_labelled(settings: LabelSettings) -> Listing:
    """Lists the records of a source as a task needs them.

    Their ``label``, ``mask`` and ``group`` are those that the settings ask for (the label is the
    first label column's value), and their attributes hold every column and every key of the notes.
    Groups are named without the folder of the root, so that moving it changes nothing.

    Raises:
        DataError: If the source is malformed, or lacks a column that the settings name.
    """
    if settings.source == "folders":
        listing = read_split_folders(settings)
        records = listing.records
    else:
        listing = read_listing(settings)
        records = tuple(_from_index(record, listing.root, settings) for record in listing.records)
        _check_columns(records, settings)
    if settings.group_pattern:
        records = _grouped(records, listing.root, settings.group_pattern)
    kept, left_out = leave_out([r.label for r in records], settings.leave_out)
    records = tuple(records[index] for index in kept)
    return replace(listing, records=records, excluded={**listing.excluded, **left_out})


def leave_out(
    labels: Sequence[str | None], values: Sequence[str]
) -> tuple[list[int], dict[str, int]]:
    """Positions of labels that are not among some values, and the number of the others, by reason.

    Raises:
        DataError: If there are labels, but none has one of the values.
    """
    present = [label for label in labels if label is not None]
    values = matched("leave_out", values, present) if present else ()
    kept = [index for index, label in enumerate(labels) if label not in values]
    dropped = Counter(f"label {label!r} is left out" for label in labels if label in values)
    return kept, dict(dropped)


def notes_of(text: str) -> dict[str, str]:
    """The pairs in notes such as 'HC_mm=44.3 px_mm=0.07' or 'licence=CC BY 4.0; probe=convex'."""
    found: dict[str, str] = {}
    for part in text.split(";"):
        _, *pairs = _KEY.split(part)
        found |= zip(pairs[::2], map(str.strip, pairs[1::2]), strict=True)
    return found


def _from_index(record: Record, root: Path | None, settings: LabelSettings) -> Record:
    """Fills a record from the columns that the settings name."""
    columns = dict(record.attributes)
    if record.label is not None:
        columns["label"] = record.label
    notes = notes_of(columns.get(settings.notes_column, ""))
    columns = {**{key: text_of(value) for key, value in notes.items()}, **columns}
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
    if settings.mask_column != "mask" and base is not None:
        path = columns.get(settings.mask_column, "")
        mask = file_of_cell(base, path) if path else None
    label = columns.get(settings.label_columns[0]) or None
    return replace(record, label=label, mask=mask, group=group, attributes=columns)


def _index_folder(record: Record, root: Path | None) -> Path | None:
    """The folder that the index of a record lies in, which its paths are relative to."""
    if root is None or not isinstance(record.image, Path):
        return None
    folder = root / record.attributes.get(SET_COLUMN, "")
    return folder if record.image.is_relative_to(folder) else root


def _check_columns(records: Sequence[Record], settings: LabelSettings) -> None:
    """Refuses settings that name a column or a key that no record has."""
    if settings.source != "index":
        return
    present = sorted({k for record in records for k, value in record.attributes.items() if value})
    if any(record.mask is not None for record in records):
        present.append("mask")
    split = settings.split
    usual, segments = LabelSettings, settings.kind == "segment"
    wanted = {
        "label_columns": () if segments else settings.label_columns,
        "mask_column": (settings.mask_column,) if segments else (),
        "group_column": (settings.group_column,) if settings.group_column else (),
        "split.column": (split.column,) if split.policy == "column" else (),
        "split.fold_column": (split.fold_column,) if split.policy == "fold" else (),
        "notes_column": {settings.notes_column} - {usual.notes_column},
        "spacing_key": {settings.spacing_key} - {usual.spacing_key},
        "spacing_size_columns": {*settings.spacing_size_columns} - {*usual.spacing_size_columns},
    }
    for setting, columns in wanted.items():
        if absent := [column for column in columns if column not in present]:
            raise DataError(
                f"{setting}: no image of {settings.root} has a value under {absent}; "
                f"the columns and keys with values are: {', '.join(present)}"
            )


def _grouped(records: Sequence[Record], root: Path | None, pattern: str) -> tuple[Record, ...]:
    """Finds, in their paths, the groups of records that have none."""
    alone = [unique_name(record, root) for record in records if record.group is None]
    found = {name: match for name in alone if (match := re.search(pattern, name))}
    if alone and not found:
        raise DataError(
            f"group_pattern={pattern!r} finds no group in any of {len(alone)} paths, such as "
            f"{alone[0]!r}"
        )
    group_of = {name: "/".join(filter(None, match.groups())) for name, match in found.items()}
    return tuple(
        replace(record, group=record.group or group_of.get(unique_name(record, root)))
        for record in records
    )
