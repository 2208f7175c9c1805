"""CSV files: the one reader and the one writer.

A spreadsheet would run a text that begins with = + - @ as a formula. Such texts are therefore
written with an apostrophe before them, as spreadsheets mark texts, and read back without it.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ufm_jax.data.cells import name_of, number_of, text_of
from ufm_jax.errors import DataError
from ufm_jax.files import replacing

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_MARKED = re.compile(r"'+[=+\-@\t\r\n＝＋－＠]")


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        place: File and number of the row as a spreadsheet counts, the header being row 1.
        cells: Cells by column, as written; ``cells.text_of`` and its like say what they mean.
    """

    place: str
    cells: dict[str, str]


def read_csv(
    path: Path, required: Sequence[str], errors: str = "strict"
) -> tuple[list[str], list[TableRow]]:
    """Reads a CSV file with a header: its columns and rows.

    Empty rows, and columns without a name, are passed over.

    Args:
        path: UTF-8, with or without a byte order mark; the comma, semicolon or tab that its header
            holds most often separates cells.
        required: Columns that must be there.
        errors: 'surrogateescape' for a file of our own, which may hold file names that are not
            UTF-8.

    Raises:
        DataError: If it cannot be read, a column is absent or given twice, or a row has more or
            fewer cells than the header; names file and row.
    """
    try:
        with path.open(encoding="utf-8-sig", errors=errors, newline="") as file:
            text = file.read()
        if "\0" in text:
            raise ValueError("it holds zero bytes")
        # A spreadsheet separates cells by a character that its language does not use in numbers.
        separator = max(",;\t", key=text.partition("\n")[0].count)
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"{path} is not a UTF-8 CSV file ({error}): save it as one, such as 'CSV UTF-8'"
        ) from error
    header = [name_of(_unmarked(name)) for name in lines[0]] if lines else []
    named = [name for name in header if name]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise DataError(f"{path} has two columns of one name, {twice}: rename or remove one")
    if absent := [name for name in required if name not in named]:
        raise DataError(f"{path} lacks the columns {absent}; in row 1 it has {named}")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not any(map(text_of, line)):
            continue
        if len(line) != len(header):
            raise DataError(
                f"{path}, row {number}: it has {len(line)} cells, the header {len(header)}"
            )
        cells = {name: _unmarked(cell) for name, cell in zip(header, line, strict=True) if name}
        rows.append(TableRow(f"{path}, row {number}", cells))
    return named, rows


@contextmanager
def writing_csv(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Iterable[object]], None]]:
    """Yields a function that adds a row of cells; the file is there whole or not at all.

    File names that are not UTF-8 are written byte by byte as they are.
    """
    with (
        replacing(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        # Lines end in both characters, because then cells that hold either are quoted.
        table = csv.writer(file, lineterminator="\r\n")

        def add(cells: Iterable[object]) -> None:
            table.writerow([_marked(cell) if isinstance(cell, str) else cell for cell in cells])

        add(columns)
        yield add


def _marked(text: str) -> str:
    """A text as it is written: with an apostrophe if a spreadsheet would run it as a formula."""
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def _unmarked(text: str) -> str:
    return text[1:] if _MARKED.match(text) else text


def _is_number(text: str) -> bool:
    try:
        return number_of(text) == float(text)
    except ValueError:
        return False
