"""index.csv: one line an image, with label, group, split and whatever else is known of it.

The column ``image`` is required; ``mask``, ``label``, ``group``, ``patient`` (the group where there
is no ``group``) and ``split`` are understood; all others are kept as attributes. Paths are relative
to the file they stand in.
"""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from ufm_jax.data.cells import near_equal, text_of, trimmed
from ufm_jax.data.csv_files import TableRow, read_csv
from ufm_jax.data.issues import Issue
from ufm_jax.data.records import Listing, Record
from ufm_jax.errors import DataError

SET_COLUMN = "set"
"""A column that every index has: the name of the folder it lies in."""

_TAKEN = frozenset(("image", "mask", "label", "group", "split"))
_UNDERSTOOD = _TAKEN | {"patient"}


def read_index(root: Path, index: Sequence[str], client_columns: Sequence[str]) -> Listing:
    """Reads one or several index files; clients come in order of appearance.

    Groups carry the name of their set, because two sets may number their patients alike.

    Args:
        root: Folder that no path may leave.
        index: Files relative to ``root``; none = every index.csv in ``root`` or in a folder of it.
        client_columns: Columns whose values, joined by '/', name the client; none = each set is a
            client. 'set' stands for the folder that the index lies in.

    Raises:
        DataError: If a file is missing or malformed, lacks a column, has a row without an image, a
            column 'set', or a patient of whose images only some have a group.
    """
    files = [root / name for name in index] or sorted(
        [*root.glob("index.csv"), *root.glob("*/index.csv")]
    )
    if not files:
        raise DataError(f"no index.csv in {root} or in its folders: set `root` or `index`")
    records: list[Record] = []
    issues: list[Issue] = []
    for file in files:
        folder = Path(os.path.relpath(file.parent, root)).as_posix()
        if folder.startswith(".."):
            raise DataError(f"index {file} lies outside the root {root}: set `root` or `index`")
        set_name = root.resolve().name if folder == "." else folder
        columns = tuple(client_columns) or (SET_COLUMN,)
        header, rows = read_csv(file, ["image", *(c for c in columns if c != SET_COLUMN)])
        if SET_COLUMN in header:
            raise DataError(
                f"{file} has a column {SET_COLUMN!r}, a name that stands for the folder of a "
                "table: rename the column"
            )
        _check_groups(rows)
        issues += _near_columns(header, file)
        records += [_record(row, file, set_name, columns) for row in rows]
    clients = tuple(dict.fromkeys(record.client for record in records if record.client))
    return Listing(clients, tuple(records), root, tuple(issues))


def _check_groups(rows: Sequence[TableRow]) -> None:
    """Refuses a patient if only some images have a group: the others would be another group."""
    grouped: dict[str, bool] = {}
    for row in rows:
        patient, group = (text_of(row.cells.get(column, "")) for column in ("patient", "group"))
        if patient and grouped.setdefault(patient, bool(group)) != bool(group):
            raise DataError(
                f"{row.place}: some images of patient {patient!r} have a group and others none: "
                "fill in the column group for all of them, or for none"
            )


def _near_columns(header: Sequence[str], file: Path) -> list[Issue]:
    """An issue for columns that would be understood but for case or blanks, such as 'Group'."""
    reason = "columns {}: only {} is understood unless a setting names the other"
    return [
        Issue("near_equal", "", str(file), reason.format(" and ".join(map(repr, names)), known))
        for names in near_equal((*_UNDERSTOOD, *header))
        for known in map(repr, _UNDERSTOOD & set(names))
    ]


def file_of_cell(folder: Path, cell: str) -> Path:
    """The file that a cell names, blanks at its ends aside.

    If that file is absent, it is the one whose name composes its letters otherwise, as a copy from
    another system does.
    """
    name = trimmed(cell)
    if name == cell and name.isascii():
        return folder / name
    composed = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    spelt = [folder / other for other in (name, cell, *composed)]
    return next(filter(os.path.exists, spelt), spelt[0])


def _record(row: TableRow, file: Path, set_name: str, columns: Sequence[str]) -> Record:
    cells = {column: text_of(cell) for column, cell in row.cells.items()}
    if not cells["image"]:
        raise DataError(f"{row.place}: it names no image")
    values = [set_name if column == SET_COLUMN else cells[column] for column in columns]
    group = cells.get("group") or cells.get("patient")
    mask = row.cells["mask"] if cells.get("mask") else ""
    return Record(
        client="/".join(values) if all(values) else "",
        image=file_of_cell(file.parent, row.cells["image"]),
        label=cells.get("label") or None,
        mask=file_of_cell(file.parent, mask) if mask else None,
        group=f"{set_name}/{group}" if group else None,
        split=cells.get("split", ""),
        attributes={SET_COLUMN: set_name, **{k: v for k, v in cells.items() if k not in _TAKEN}},
        place=row.place,
    )
