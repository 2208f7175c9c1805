"""NIfTI files, by nibabel: a picture, or the slices of a volume or of a series in time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ufm_jax.data.image_file import CorruptImage, FileImage
from ufm_jax.data.optional import needed_packages

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001}
_SQUARE_WITHIN = 0.01


def read_shape(path: Path) -> tuple[int, float | None]:
    """Slices of a file, and millimetres a pixel; None where its header does not say.

    Raises:
        CorruptImage: If the file is not NIfTI.
        DataError: If nibabel is not installed.
    """
    image = _open(path)
    slices = int(np.prod(image.shape[2:], dtype=np.int64)) if image.ndim > 2 else 1
    sides = [float(side) for side in image.header.get_zooms()[:2]]
    unit = _MM.get(image.header.get_xyzt_units()[0])
    square = min(sides) > 0 and max(sides) <= min(sides) * (1 + _SQUARE_WITHIN)
    return slices, float(np.mean(sides)) * unit if square and unit else None


def read_frames(path: Path, frames: Sequence[int]) -> Iterator[FileImage]:
    """Some slices of a file, one at a time: rows run down and columns across.

    NIfTI's first axis is a picture's columns.  Black and white are the least and largest value of
    the whole file, since its header does not say them, unless it holds bytes.

    Args:
        path: The file.
        frames: Numbers from 0, ascending; the third axis runs fastest.

    Raises:
        CorruptImage: If the file is broken.
        DataError: If nibabel is not installed.
    """
    image = _open(path)
    try:
        values = np.asanyarray(image.dataobj)
        flat = values.reshape(*values.shape[:2], -1, order="F")
        if not np.isfinite(flat).all():
            raise CorruptImage("holds values that are not finite")
        full = (0.0, 255.0) if flat.dtype == np.uint8 else (float(flat.min()), float(flat.max()))
        low, high = full if full[0] < full[1] else (full[0], full[0] + 1)
        for number in frames:
            yield FileImage(
                np.ascontiguousarray(flat[:, :, number].T)[..., None], range=(low, high)
            )
    except CorruptImage:
        raise
    except Exception as error:
        raise CorruptImage(_undecoded(error)) from None


def read_slice(path: Path, number: int, slices: int) -> np.ndarray:
    """One slice of a file that should have ``slices``, its values as they are, [H, W].

    Raises:
        CorruptImage: If the file is broken, or has another number of slices.
        DataError: If nibabel is not installed.
    """
    image = _open(path)
    found, _ = read_shape(path)
    if found != slices:
        raise CorruptImage(f"has {found} slices, where {slices} are needed")
    try:
        place = np.unravel_index(number, image.shape[2:], order="F")
        return np.asarray(image.dataobj[(slice(None), slice(None), *map(int, place))]).T
    except Exception as error:
        raise CorruptImage(_undecoded(error)) from None


def _open(path: Path) -> "Nifti1Image":
    with needed_packages():
        import nibabel
    try:
        image = cast("Nifti1Image", nibabel.load(path))
        if len(image.shape) < 2 or min(image.shape) < 1:
            raise CorruptImage(f"holds an array of shape {image.shape}, not pictures")
        if image.get_data_dtype().kind not in "iuf":
            raise CorruptImage("holds complex numbers or colours, and grey values are read")
        return image
    except CorruptImage:
        raise
    except Exception as error:
        raise CorruptImage(_undecoded(error)) from None


def _undecoded(error: Exception) -> str:
    return f"does not decode as NIfTI ({type(error).__name__})"
