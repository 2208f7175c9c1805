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
        key: Attribute that holds the spacing.
        size_columns: Attributes that hold the (width, height) that it refers to.

    Raises:
        DataError: If an attribute is not a positive number, only one side of the size is given, or
            the pixel that comes out has an impossible size.
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
    """An image's attribute, as ``read`` (such as ``cells.positive``) reads the cell.

    Args:
        attributes: What the source says of the image.
        key: The column or key; if it is absent, its cell is ''.
        read: From a cell to its value.
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
