"""What a cell of a table says: the one door for texts, names and numbers that people bring.

A spreadsheet, pandas or R writes the same value in many ways. Every table is read through this
module, so that a patient or class has one name, and so that a number is never guessed.

    text      blanks and byte order marks at its ends go, Unicode is composed (NFC), a whole number
              loses the zeros after its point (1.0 is 1), and what stands for a missing value is ''
    number    1024.5, 1,024.5, 1.024,5, 0,25; '1,024' alone may mean 1.024 or 1024: an error
    integer   512, 512.0, 1,024; '1.024' is not whole: an error
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from ufm_jax.errors import DataError

MISSING = frozenset(
    ("", "#N/A", "<NA>", "N/A", "n/a", "NA", "nan", "NaN", "-nan", "-NaN", "NULL", "null", "None")
)
"""What pandas, R and spreadsheets write for a value that is not known. 'none' may be a finding."""

_BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\ufeff\u200b\u2060"
"""Invisible characters: blanks, byte order marks, spaces of zero width."""

_SHOWN = 20

_WHOLE = re.compile(r"(-?\d+)\.0+")
_PLAIN = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?", re.ASCII)
_GROUPED_BY_POINTS = re.compile(r"[+-]?[1-9]\d{0,2}((\.\d{3})+,\d+|(\.\d{3}){2,})", re.ASCII)
_COMMA = re.compile(r"[+-]?\d*,\d+", re.ASCII)
_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")


def trimmed(text: str) -> str:
    """A text without the invisible characters at its ends."""
    return text.strip(_BLANKS)


def text_of(cell: str) -> str:
    """The text in a cell; '' for a missing value."""
    name = name_of(cell)
    return "" if name in MISSING else name


def name_of(text: str) -> str:
    """A name as a cell would hold it, where 'NA' is a name too: a folder, a column, a setting."""
    name = unicodedata.normalize("NFC", trimmed(text))
    whole = _WHOLE.fullmatch(name)
    return whole[1] if whole else name


def number_of(cell: str) -> float:
    """The number in a cell; nan for a missing value.

    Raises:
        ValueError: If it is not a finite number, or may mean two; the message is the end of a
            sentence that begins with the cell.
    """
    text = trimmed(cell)
    if text in MISSING:
        return float("nan")
    grouped, comma = _GROUPED.fullmatch(text), _COMMA.fullmatch(text)
    if grouped and comma:
        point, whole = text.replace(",", "."), text.replace(",", "")
        raise ValueError(f"may mean {point} or {whole}: write one of these")
    if grouped:
        text = text.replace(",", "")
    elif comma:
        text = text.replace(",", ".")
    elif _GROUPED_BY_POINTS.fullmatch(text):
        text = text.replace(".", "").replace(",", ".")
    if not _PLAIN.fullmatch(text) or abs(value := float(text)) == float("inf"):
        raise ValueError("is not a number: write it with a decimal point, without a unit")
    return value


def integer_of(cell: str) -> int | None:
    """The whole number in a cell; None for a missing value. Commas may separate thousands.

    Raises:
        ValueError: As ``number_of``, or if the number is not whole.
    """
    text = trimmed(cell)
    value = number_of(text.replace(",", "") if _GROUPED.fullmatch(text) else text)
    if value != value:
        return None
    if not value.is_integer():
        raise ValueError("is not a whole number")
    return int(value)


def positive(cell: str) -> float:
    """The number above 0 in a cell; nan for a missing value.

    Raises:
        ValueError: As ``number_of``, or if the number is not above 0.
    """
    value = number_of(cell)
    if value <= 0:
        raise ValueError("is not above 0: leave the cell empty where the value is not known")
    return value


def near_equal(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that differ only by case, blanks, Unicode form or leading zeros, such as p1 and P01.

    Only a person can tell whether they mean the same.
    """
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        folded = unicodedata.normalize("NFKC", name).casefold()
        alike.setdefault(_ZEROS.sub("", "".join(folded.split())), []).append(name)
    return [tuple(sorted(group)) for group in alike.values() if len(group) > 1]


def same_name(name: str, asked: str) -> bool:
    """Whether two names are one, as cells are compared."""
    return name_of(name) == name_of(asked)


def same_folder(name: str, asked: str) -> bool:
    """Whether two names of folders are one, in any case."""
    return name_of(name).casefold() == name_of(asked).casefold()


def matched(
    setting: str,
    asked: Sequence[str],
    present: Iterable[str],
    default: Sequence[str] = (),
    meets: Callable[[str, str], bool] = same_name,
) -> tuple[str, ...]:
    """The names in ``present`` that a setting asks for, in the order of its entries.

    Args:
        setting: The setting's key, for messages.
        asked: The setting's entries.
        present: The names that the data have.
        default: Entries that need not be present, because nobody asked for them.
        meets: (name, entry) -> whether the entry means the name.

    Raises:
        DataError: If an entry meets no name and is not a default; lists the names.
    """
    names = tuple(dict.fromkeys(present))
    found: list[str] = []
    for entry in asked:
        met = [name for name in names if meets(name, entry)]
        if not met and not any(meets(name, entry) for name in default):
            known = _few(sorted(filter(None, names)))
            raise DataError(f"{setting}: {entry!r} matches nothing; there is {known}")
        found += met
    return tuple(dict.fromkeys(found))


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(map(repr, names[:_SHOWN])) or "none") + more
