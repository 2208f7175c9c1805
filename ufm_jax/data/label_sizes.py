"""Native sizes of images, and the millimetres of a pixel."""

import io
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ufm_jax.data.cells import integer_of, positive
from ufm_jax.data.records import ImageHandle, Picture, Record
from ufm_jax.data.screening import Decoded
from ufm_jax.errors import DataError
from ufm_jax.files import replacing

T = TypeVar("T")

_FILE = "upright_sizes.npy"
_TURNED = frozenset((5, 6, 7, 8))
"""EXIF orientations that exchange height and width."""


def native_sizes(decoded: Decoded, num_workers: int) -> np.ndarray:
    """Sizes of the upright images before scaling.

    They are kept in the images' cache folder, because only headers tell them.

    Args:
      decoded: R records.
      num_workers: threads.

    Returns:
      int32 [R, 2] (height, width); zeros for an image that did not decode.

    Raises:
      OSError: a file vanished since its digest was taken.
    """
    cached, rows = decoded.cached, decoded.rows
    file = cached.folder / _FILE
    try:
        sizes = np.load(file)
    except (OSError, ValueError, EOFError):
        sizes = np.zeros(0, np.int32)
    if sizes.shape != (len(cached), 2):
        of_row = {int(row): index for index, row in enumerate(rows) if row >= 0}
        known = [row for row in of_row if row not in cached.failures]
        images = [decoded.records[of_row[row]].image for row in known]
        sizes = np.zeros((len(cached), 2), np.int32)
        with ThreadPoolExecutor(num_workers) as pool:
            for row, size in zip(known, pool.map(_native_size, images), strict=True):
                sizes[row] = size
        with replacing(file) as partial, partial.open("wb") as out:
            np.save(out, sizes)
    found: np.ndarray = np.where(rows[:, None] >= 0, sizes[rows], 0)
    return found


def spacing_mm(
    record: Record, native: tuple[int, int], key: str, size_columns: tuple[str, str]
) -> float:
    """Millimetres of a pixel of the file, nan where unknown.

    A spacing measured on the scanner's image does not hold for a copy at another size: it grows by
    what the copy shrank (the geometric mean of both axes, which differ by rounding only).

    Args:
      record: the image, with what the source says of it.
      native: (height, width) of the file.
      key: where the spacing stands.
      size_columns: where the (width, height) stand that it refers to.

    Raises:
      DataError: one of the three is not a positive number, or only one side of the size is given.
    """
    place, cells = record.place or record.name, record.attributes
    spacing = read_attribute(cells, key, positive, place)
    width, height = (read_attribute(cells, column, _side, place) for column in size_columns)
    if (width is None) != (height is None):
        raise DataError(
            f"{place}: one of the columns {size_columns} is empty: give both sides or none"
        )
    if width is None or height is None:
        return spacing
    return float(spacing * np.sqrt(width / native[1] * height / native[0]))


def read_attribute(
    attributes: Mapping[str, str], key: str, read: Callable[[str], T], place: str
) -> T:
    """What an image has under a column or key.

    Args:
      attributes: what the source says of it.
      key: the column or key; '' is read where it has none.
      read: reads a cell, such as `cells.positive`.
      place: the image or its row, for messages.

    Raises:
      DataError: the cell cannot be read; names file, row, column and cell.
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


def _native_size(image: Path | ImageHandle) -> tuple[int, int]:
    """(height, width) of an upright image that is known to decode."""
    content = image if isinstance(image, Path) else image.load()
    if isinstance(content, Picture):
        return content.pixels.shape[0], content.pixels.shape[1]
    with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as opened:
        turned = opened.getexif().get(ExifTags.Base.Orientation) in _TURNED
        # Of some formats Pillow exchanges the header's sides itself; the turned picture is certain.
        width, height = ImageOps.exif_transpose(opened).size if turned else opened.size
    return height, width
