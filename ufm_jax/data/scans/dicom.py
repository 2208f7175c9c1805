"""DICOM files: frames as pydicom decodes them, and the little of a header that is kept.

Nothing of a header leaves this module but what ``Header`` lists. The patient's number is handed on
for ``pseudonyms`` alone, which hashes it.
"""

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ufm_jax.data.image_file import CorruptImage, FileImage, check_size
from ufm_jax.data.optional import needed_packages
from ufm_jax.data.scans.frames import plausible_ms
from ufm_jax.data.scans.jpeg import stream_size
from ufm_jax.data.scans.regions import Regions, read_regions

if TYPE_CHECKING:
    from pydicom import Dataset

_NAMING = (
    *("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber", "StudyID"),
    *("InstitutionName", "ReferringPhysicianName", "OperatorsName", "PerformingPhysicianName"),
)
_WORD = re.compile(r"\w{3,}")
_DATE = re.compile(r"(19|20)\d\d[-/. ]?[01]\d|[0-3]?\d[-/.][01]?\d[-/.](19|20)?\d\d")
_PLAIN_NAME = re.compile(r"[\w .,/+()-]{1,32}")
_MOST_FRAMES = 100_000
_ORGANS = frozenset(
    (
        *("ABDOMEN", "AORTA", "APPENDIX", "BLADDER", "BRAIN", "BREAST", "CAROTID", "CHEST", "EYE"),
        *("FETUS", "GALLBLADDER", "HEAD", "HEART", "HIP", "KIDNEY", "KNEE", "LIVER", "LUNG"),
        *("NECK", "OVARY", "PANCREAS", "PELVIS", "PROSTATE", "SCROTUM", "SHOULDER", "SPLEEN"),
        *("TESTIS", "THYROID", "UTERUS"),
    )
)
"""Values of Body Part Examined that are kept: what else stands there may be anything."""
_JPEG_FAMILY = "1.2.840.10008.1.2.4."
"""How the transfer syntaxes of JPEG, JPEG-LS and JPEG 2000 begin."""


class NoPictures(CorruptImage):
    """A sound DICOM file that holds no pictures."""


@dataclass(frozen=True)
class Header:
    """What is kept of a header.

    Attributes:
        frames: Frames in the file.
        height: Rows.
        width: Columns.
        photometric: How samples are to be read, such as 'MONOCHROME2'.
        regions: Where tissue is, and millimetres a pixel.
        model: The scanner's model; '' if unknown.
        transducer: Its transducer; '' if unknown.
        frame_ms: Milliseconds between frames; None if unknown.
        organ: The part of the body, if it is one of ``_ORGANS``, in lower case; '' else.
        patient: (0010,0020), in clear: for ``pseudonyms.Pseudonyms`` alone; '' if unknown.
    """

    frames: int
    height: int
    width: int
    photometric: str
    regions: Regions
    model: str = ""
    transducer: str = ""
    frame_ms: float | None = None
    organ: str = ""
    patient: str = ""

    def __repr__(self) -> str:
        """Without the patient, whose number must not reach a log."""
        return f"Header({self.frames} x {self.height} x {self.width}, {self.photometric})"


def read_header(path: Path) -> Header:
    """The header of a DICOM file of pictures.

    Raises:
        CorruptImage: If the file is no such file, or is broken.
        DataError: If pydicom is not installed.
    """
    return _header(_read(path, stop_before_pixels=True))


def read_frames(path: Path, frames: Sequence[int]) -> Iterator[FileImage]:
    """Some frames of a DICOM file, one at a time.

    Palettes are applied, YBR becomes RGB, and grey values pass the modality's and the first VOI
    look-up table or window, all as pydicom does it.

    Args:
        path: The file.
        frames: Numbers from 0, ascending.

    Raises:
        CorruptImage: If the file is broken, or of a compression that no installed decoder knows.
        DataError: If pydicom is not installed.
    """
    data = _read(path, stop_before_pixels=False)
    with _decoding():
        _check_compression(data)
        _check_streams(data)
        _turn_palettes(data)
        for pixels in silent_pydicom().pixels.iter_pixels(data, indices=list(frames)):
            yield _as_stored(pixels, data)


def silent_pydicom() -> ModuleType:
    """The package, silenced: its warnings quote the header, and this module reports the faults.

    Raises:
        DataError: If it is not installed.
    """
    with needed_packages():
        import pydicom
        import pydicom.encaps
        import pydicom.pixels
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    return pydicom


@contextmanager
def _decoding() -> Iterator[None]:
    """Makes a fault of whatever pydicom and its decoders raise on broken bytes.

    Without the error's text, which may quote the header.
    """
    try:
        yield
    except (CorruptImage, MemoryError):
        raise
    except Exception as error:
        raise CorruptImage(f"does not decode as DICOM ({type(error).__name__})") from None


def _read(path: Path, *, stop_before_pixels: bool) -> "Dataset":
    pydicom = silent_pydicom()
    with _decoding():
        data = pydicom.dcmread(path, stop_before_pixels=stop_before_pixels, force=True)
        if "Rows" not in data or "Columns" not in data:
            if data.get("SOPClassUID") or data.file_meta.get("MediaStorageSOPClassUID"):
                raise NoPictures("is a DICOM file without pictures, such as a report or DICOMDIR")
            raise CorruptImage("is not a DICOM file of pictures: it has no Rows or Columns")
    return data


def _check_compression(data: "Dataset") -> None:
    """Refuses a compression for which no decoder is installed."""
    syntax = data.file_meta.get("TransferSyntaxUID")
    try:
        available = syntax is None or silent_pydicom().pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        known = syntax.name if syntax.name != str(syntax) else "an unknown syntax"
        raise CorruptImage(
            f"is compressed as {known}, which no installed package decodes: decompress it"
        )


def _check_streams(data: "Dataset") -> None:
    """Refuses compressed frames that are not of the size that the header declares.

    Decoders take the memory that a frame asks for, and a broken one may ask for all there is.
    """
    if not data.file_meta.get("TransferSyntaxUID", "").startswith(_JPEG_FAMILY):
        return
    declared = int(data.Rows), int(data.Columns), int(data.SamplesPerPixel)
    frames = int(data.get("NumberOfFrames") or 1)
    streams = silent_pydicom().encaps.generate_frames(data.PixelData, number_of_frames=frames)
    for number, stream in enumerate(streams, 1):
        if (found := stream_size(stream)) != declared:
            raise CorruptImage(
                f"holds a frame {number} of {found or 'unknown'} rows, columns and samples, where "
                f"the header says {declared}"
            )


def _turn_palettes(data: "Dataset") -> None:
    """Turns the palettes of a big-endian file, which pydicom applies as if they were not."""
    if data.original_encoding[1] is not False:
        return
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTableData"
        if name in data:
            setattr(data, name, np.frombuffer(data[name].value, ">u2").astype("<u2").tobytes())


def _header(data: "Dataset") -> Header:
    with _decoding():
        height, width = int(data.Rows), int(data.Columns)
        frames = int(data.get("NumberOfFrames") or 1)
        check_size(width, height)
        if not 1 <= frames <= _MOST_FRAMES:
            raise CorruptImage(f"declares {frames} frames: up to {_MOST_FRAMES} are read")
        return Header(
            frames=frames,
            height=height,
            width=width,
            photometric=str(data.get("PhotometricInterpretation", "")),
            regions=read_regions(data.get("SequenceOfUltrasoundRegions") or (), height, width),
            model=_plain(data.get("ManufacturerModelName"), data),
            transducer=_plain(data.get("TransducerType"), data),
            frame_ms=plausible_ms(_number(data.get("FrameTime"))),
            organ=_organ(data.get("BodyPartExamined")),
            patient=str(data.get("PatientID") or "").strip(),
        )


def _as_stored(pixels: np.ndarray, data: "Dataset") -> FileImage:
    """A decoded frame [H, W] or [H, W, 3] with what is black and white in it."""
    tables = silent_pydicom().pixels
    photometric = str(data.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        pixels = tables.apply_color_lut(pixels, data)[..., :3]
        return FileImage(pixels, range=(0, np.iinfo(pixels.dtype).max))
    if pixels.ndim == 3:
        return FileImage(pixels, range=(0, 2 ** int(data.BitsStored) - 1))
    shown = tables.apply_voi_lut(tables.apply_modality_lut(pixels, data), data, index=0)
    return FileImage(
        shown[..., None],
        range=_grey_range(shown, data),
        white_is_zero=photometric == "MONOCHROME1",
        exact=shown is pixels or np.array_equal(shown, pixels),
    )


def _grey_range(shown: np.ndarray, data: "Dataset") -> tuple[float, float]:
    """Black and white of grey values, those of the output of a window or table if there is one."""
    bits, signed = int(data.BitsStored), int(data.get("PixelRepresentation", 0)) == 1
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if "RescaleSlope" in data and "RescaleIntercept" in data:
        slope, intercept = float(data.RescaleSlope), float(data.RescaleIntercept)
        low, high = sorted((low * slope + intercept, high * slope + intercept))
    if "VOILUTSequence" in data and data.VOILUTSequence:
        low, high = 0, 2 ** int(data.VOILUTSequence[0].LUTDescriptor[2]) - 1
    return float(min(low, shown.min())), float(max(high, shown.max()))


def _plain(value: Any, data: "Dataset") -> str:
    """A name of a device, unless it holds what such names do not: then it could say more.

    That is a character or a length that is not theirs, a date, or a word of what names somebody.
    """
    text = str(value or "").strip()
    named = " ".join(str(data.get(keyword) or "") for keyword in _NAMING)
    words = {word.casefold() for word in _WORD.findall(named)}
    says_more = _DATE.search(text) or words & {w.casefold() for w in _WORD.findall(text)}
    return text if _PLAIN_NAME.fullmatch(text) and not says_more else ""


def _organ(value: Any) -> str:
    text = str(value or "").strip().upper()
    return text.lower() if text in _ORGANS else ""


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
