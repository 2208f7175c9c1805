"""The millimetres of a pixel of a file."""

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

from ufm_jax.data.cells import integer_of, positive
from ufm_jax.data.records import Record
from ufm_jax.errors import DataError

T = TypeVar("T")

_FINEST, _COARSEST = 1e-6, 1e3
"""No pixel of an image of a body is smaller or larger, in mm."""


def spacing_mm(
    record: Record, native: tuple[int, int], key: str, size_columns: tuple[str, str]
) -> float:
    """Millimetres of a pixel of the file, nan where unknown.

    A spacing measured on the scanner's image does not hold for a copy at another size: it grows by
    what the copy shrank (the geometric mean of both axes, which differ by rounding only).

    Args:
        record: The image, with what the source says of it.
        native: (height, width) of the file.
        key: Where the spacing stands.
        size_columns: Where the (width, height) stand that it refers to.

    Raises:
        DataError: If one of the three is not a positive number, only one side of the size is given,
            or the pixel that comes out is of no possible size.
    """
    place, cells = record.place or record.name, record.attributes
    spacing = read_attribute(cells, key, positive, place)
    width, height = (read_attribute(cells, column, _side, place) for column in size_columns)
    if (width is None) != (height is None):
        raise DataError(
            f"{place}: one of the columns {size_columns} is empty: give both sides or none"
        )
    if width is not None and height is not None:
        spacing *= math.sqrt(width / native[1] * height / native[0])
    if not (_FINEST <= spacing <= _COARSEST or math.isnan(spacing)):
        raise DataError(
            f"{place}: a pixel of {spacing:g} mm by {key} {cells.get(key, '')!r} and the columns "
            f"{size_columns}: give mm, {_FINEST:g} to {_COARSEST:g}, and sizes in pixels"
        )
    return spacing


def read_attribute(
    attributes: Mapping[str, str], key: str, read: Callable[[str], T], place: str
) -> T:
    """What an image has under a column or key.

    Args:
        attributes: What the source says of it.
        key: The column or key; '' is read where it has none.
        read: Reads a cell, such as ``cells.positive``.
        place: The image or its row, for messages.

    Raises:
        DataError: If the cell cannot be read; names file, row, column and cell.
    """
    cell = attributes.get(key, "")
    try:
        return read(cell)
    except ValueError as error:
        raise DataError(f"{place}: {key} {cell!r} {error}") from None


def _side(cell: str) -> int | None:
    """A side of an image in pixels, None where it is not known."""
    side = integer_of(cell)
    if side is not None and side < 1:
        raise ValueError("is not a number of pixels")
    return side
