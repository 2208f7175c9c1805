"""The published layout: ROOT/16_clients/split_1/client_k.txt, one image path a line."""

import re
from pathlib import Path

from ufm_jax.data.cells import trimmed
from ufm_jax.data.records import Listing, Record
from ufm_jax.data.sources.index_csv import file_of_cell
from ufm_jax.errors import DataError


def read_lists(root: Path, folder: str) -> Listing:
    """Reads one client from each list file, in natural order (client_2 before client_10).

    Args:
        root: Folder that the paths in the lists are relative to; absolute paths must lie inside it.
        folder: Where the list files (*.txt) lie, relative to ``root``.

    Raises:
        DataError: If there is no list, or a list cannot be read or is not UTF-8 text.
    """
    lists = sorted((root / folder).glob("*.txt"), key=_natural)
    if not lists:
        raise DataError(
            f"no list of a client (*.txt) in {root / folder}: point `root` and `lists` to where "
            "client_1.txt and its like are"
        )
    records = tuple(
        Record(file.stem, file_of_cell(root, line)) for file in lists for line in _lines(file)
    )
    return Listing(tuple(file.stem for file in lists), records, root)


def _lines(file: Path) -> list[str]:
    """The lines that are not blank, stripped; a byte order mark is dropped."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"list {file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"list {file} is not UTF-8 text: {error}; convert it") from error
    return [line for line in map(trimmed, text.splitlines()) if line]


def _natural(file: Path) -> list[tuple[int, str]]:
    """Sorting key in which numbers count as numbers."""
    parts = re.split(r"(\d+)", file.stem)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
