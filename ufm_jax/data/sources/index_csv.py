"""index.csv: one line an image, with label, group, split and whatever else is known of it.

The column `image` is required; `mask`, `label`, `group`, `patient` (the group where there is no
`group`) and `split` are understood; all others are kept as attributes. Paths are relative to the
file they stand in.
"""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ufm_jax.data.records import Listing, Record
from ufm_jax.errors import DataError

SET_COLUMN = "set"
"""A column that every index has: the name of the folder it lies in."""


def read_index(root: Path, index: Sequence[str], client_columns: Sequence[str]) -> Listing:
    """Reads one or several index files.

    Args:
      root: folder that no path may leave.
      index: files relative to `root`; none = every index.csv in `root` or in a folder of it.
      client_columns: columns whose values, joined by '/', name the client; none = a client for
        each set. 'set' stands for the folder that the index lies in.

    Returns:
      Clients in order of appearance. Groups carry the name of their set, because two sets may
      number their patients alike.

    Raises:
      DataError: a file is missing or malformed, or lacks a column.
    """
    files = [root / name for name in index] or sorted(
        [*root.glob("index.csv"), *root.glob("*/index.csv")]
    )
    if not files:
        raise DataError(f"no index.csv in {root} or in its folders: set `root` or `index`")
    records = []
    for file in files:
        folder = Path(os.path.relpath(file.parent, root)).as_posix()
        if folder.startswith(".."):
            raise DataError(f"index {file} lies outside the root {root}: set `root` or `index`")
        set_name = root.resolve().name if folder == "." else folder
        columns = tuple(client_columns) or (SET_COLUMN,)
        records += [_record(row, file, set_name, columns) for row in _rows(file, columns)]
    clients = tuple(dict.fromkeys(record.client for record in records if record.client))
    return Listing(clients, tuple(records), root)


def _rows(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of one file, after checks that every later look-up succeeds."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text, strict=True)
            rows = list(reader)
            present = reader.fieldnames or []
    except FileNotFoundError as error:
        raise DataError(f"index {file} does not exist: set `root` or `index`") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"index {file} is not a UTF-8 CSV file: {error}") from error
    absent = [c for c in ("image", *columns) if c not in present and c != SET_COLUMN]
    if absent:
        raise DataError(f"index {file} lacks the columns {absent}; it has {list(present)}")
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise DataError(f"index {file}: row {number} has not {len(present)} fields")
        if not row["image"]:
            raise DataError(f"index {file}: row {number} names no image")
    return rows


def _record(row: Mapping[str, str], file: Path, set_name: str, columns: Sequence[str]) -> Record:
    values = [set_name if column == SET_COLUMN else row[column] for column in columns]
    group = row.get("group") or row.get("patient")
    mask = row.get("mask")
    known = ("image", "mask", "label", "group", "split")
    return Record(
        client="/".join(values) if all(values) else "",
        image=file.parent / row["image"],
        label=row.get("label") or None,
        mask=file.parent / mask if mask else None,
        group=f"{set_name}/{group}" if group else None,
        split=row.get("split", ""),
        attributes={SET_COLUMN: set_name, **{k: v for k, v in row.items() if k not in known}},
    )
