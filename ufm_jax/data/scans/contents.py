"""What a scan's file says of itself, and how its frames are read, whatever its format."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ufm_jax.data.image_file import CorruptImage, FileImage, read_image_file
from ufm_jax.data.scans import clip, dicom, nifti
from ufm_jax.data.scans.kinds import is_clip, is_nifti, is_picture
from ufm_jax.data.scans.regions import Regions


class Contents(NamedTuple):
    """What a file says of itself, and how its frames are read.

    Attributes:
        read: From the file and numbers of frames, ascending from 0, to these one at a time.
        frames: In the file.
        mm, regions, model, transducer, frame_ms, organ: See ``dicom.Header``.
        doubts: What is not used of the file.
    """

    read: Callable[[Path, Sequence[int]], Iterator[FileImage]]
    frames: int
    mm: float | None = None
    regions: Regions = Regions()
    model: str = ""
    transducer: str = ""
    frame_ms: float | None = None
    organ: str = ""
    doubts: tuple[str, ...] = ()


def read_contents(path: Path) -> Contents:
    """Opens a file.

    Raises:
        CorruptImage: If it is not what its name says.
        DataError: If a package that reads it is not installed.
    """
    if is_clip(path):
        frames, frame_ms = clip.read_timing(path)
        return Contents(clip.read_frames, frames, frame_ms=frame_ms)
    if is_nifti(path):
        return Contents(nifti.read_frames, *nifti.read_shape(path))
    if is_picture(path):
        several = read_image_file(_bytes_of(path)).frames
        return Contents(_read_picture, 1, doubts=_first_of(several))
    header = dicom.read_header(path)
    return Contents(
        *(dicom.read_frames, header.frames, header.regions.mm, header.regions),
        *(header.model, header.transducer, header.frame_ms, header.organ),
    )


def patient_of(path: Path) -> str:
    """The patient's number in clear, for ``pseudonyms`` alone; '' where the file has none.

    Raises:
        CorruptImage, DataError: As ``read_contents`` does.
    """
    has_none = is_clip(path) or is_nifti(path) or is_picture(path)
    return "" if has_none else dicom.read_header(path).patient


def _first_of(frames: int) -> tuple[str, ...]:
    return (f"holds {frames} frames, of which the first is used",) if frames > 1 else ()


def _read_picture(path: Path, frames: Sequence[int]) -> Iterator[FileImage]:
    """The first frame of an image file, which is all that is read of one."""
    del frames
    yield read_image_file(_bytes_of(path))


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorruptImage(f"cannot be opened: {error.strerror}") from error
