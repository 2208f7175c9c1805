"""Frames of scans, read once and kept as PNG in the cache: what was blackened never comes back.

A scan is a file of one or many frames: DICOM, a video clip, NIfTI. Its folder in the cache is named
by the file's content, the choice of frames, and the code that reads them. It holds the frames, cut
to the scan, ``overview.png``, which shows what was blackened, and ``scan.json``: what ``Scan``
lists. No name, date or number of the header is in it.
"""

import functools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

import numpy as np
from PIL import Image

import ufm_jax.data.geometry
import ufm_jax.data.scans
from ufm_jax.data import image_file
from ufm_jax.data.cache import decode
from ufm_jax.data.cache.decode import drop_equal_channels, is_full_16, pixel_digest, to_bytes
from ufm_jax.data.cache.fingerprint import code_stamp, digest, read_sealed, write_sealed
from ufm_jax.data.image_file import CorruptImage, FileImage, read_image_file
from ufm_jax.data.scans import clip, dicom, nifti
from ufm_jax.data.scans.deidentify import Cut, Kept, blackened, kept_part, overview, whole_picture
from ufm_jax.data.scans.frames import DIFFERENT, chosen_frames, different
from ufm_jax.data.scans.kinds import is_clip, is_nifti, is_picture
from ufm_jax.data.scans.regions import Regions
from ufm_jax.files import private_folder

_FACTS, OVERVIEW = "scan.json", "overview.png"


@dataclass(frozen=True)
class Frame:
    """A frame that is kept: its number in the file from 0, its PNG, and the name of its pixels."""

    number: int
    file: str
    content: str


@dataclass(frozen=True)
class Scan:
    """What is kept of a file.

    Attributes:
        frames: In the file.
        kept: Those taken.
        left_out: Why others that were chosen are not among them; '' if all are.
        scan_by: What told where the scan is; '' if nothing did.
        cut: The frames' box in the file's pictures; None if nothing is kept.
        mm: Millimetres a pixel; None if unknown.
        model, transducer, frame_ms, organ: See ``dicom.Header``.
        doubts: What was not believed of the header, or not used of the file.
    """

    frames: int
    kept: tuple[Frame, ...] = ()
    left_out: str = ""
    scan_by: str = ""
    cut: Cut | None = None
    mm: float | None = None
    model: str = ""
    transducer: str = ""
    frame_ms: float | None = None
    organ: str = ""
    doubts: tuple[str, ...] = ()


UNKNOWN_SCAN = (
    "where the scan is cannot be told from the header or the picture; data.whole_frames=True takes "
    "pictures whole, if they show nothing else"
)
LIKE_THE_LAST = "hardly differs from the frame taken before it"
_FIRST = "holds {} frames, of which the first is used"
_LOOKED_AT, _DARK = 16, 2**14


@dataclass(frozen=True)
class FrameFile:
    """A kept frame as a record's image; see ``records.ImageHandle``.

    Attributes:
        name: The scan's, with the frame's number behind it where there are several.
        file: Its PNG in the cache.
        content: The name of its pixels.
        frames: Frames of the scan.
        number: Its number in the scan, from 0.
        cut: Its box in the scan's pictures.
    """

    name: str
    file: Path
    content: str
    frames: int
    number: int
    cut: Cut

    def fingerprint(self) -> bytes:
        """The name of its pixels."""
        return bytes.fromhex(self.content)

    def load(self) -> bytes:
        """The encoded PNG."""
        try:
            return self.file.read_bytes()
        except OSError as error:
            raise CorruptImage(f"its frame is gone from the cache: {error.strerror}") from error


class Reading(NamedTuple):
    """How scans are read.

    Attributes:
        frames: Which frames; see ``frames``.
        whole: Whether a picture whose scan cannot be told is taken whole.
        value_range: Black and white of grey values of more than 8 bits; () = what the header says.
    """

    frames: str
    whole: bool = False
    value_range: tuple[float, ...] = ()


def open_scan(path: Path, content: bytes, reading: Reading, cache_dir: Path) -> tuple[Scan, Path]:
    """The kept frames of a scan, read now or before.

    Args:
        path: The file.
        content: The name of its bytes.
        reading: How it is read.
        cache_dir: The cache.

    Returns:
        What is kept, and the folder of the frames.

    Raises:
        CorruptImage: If the file does not decode.
        DataError: If a package that reads it is not installed.
        OSError: If the cache cannot be written.
    """
    folder = cache_dir / f"scan-{digest(content, repr(reading).encode(), _stamp()).hex()}"
    facts = read_sealed(folder / _FACTS)
    if facts is not None:
        return _from_json(facts), folder
    partial = Path(mkdtemp(prefix="scan-", suffix=".partial", dir=private_folder(cache_dir)))
    try:
        scan = _extract(path, reading, partial)
        write_sealed(partial / _FACTS, json.dumps(asdict(scan)).encode())
        try:
            partial.rename(folder)
        except OSError:
            # Another process was as quick, or what lies there is damaged.
            if read_sealed(folder / _FACTS) is None:
                shutil.rmtree(folder, ignore_errors=True)
                partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return scan, folder


def frame_files(scan: Scan, folder: Path, name: str) -> list[FrameFile]:
    """The kept frames of a scan as ``open_scan`` returns it, which messages call ``name``."""
    if scan.cut is None:
        return []
    several = scan.frames > 1
    return [
        FrameFile(
            f"{name} frame {frame.number + 1}" if several else name,
            folder / frame.file,
            frame.content,
            scan.frames,
            frame.number,
            scan.cut,
        )
        for frame in scan.kept
    ]


def patient_of(path: Path) -> str:
    """The patient's number in clear, for ``pseudonyms`` alone; '' where the file has none.

    Raises:
        CorruptImage, DataError: As ``open_scan`` does.
    """
    has_none = is_clip(path) or is_nifti(path) or is_picture(path)
    return "" if has_none else dicom.read_header(path).patient


def _extract(path: Path, reading: Reading, folder: Path) -> Scan:
    """Reads a scan frame by frame, and writes those that are kept to ``folder``."""
    contents = _contents(path)
    chosen = chosen_frames(reading.frames, contents.frames)
    seen = _Seen(reading.value_range)
    brightest = functools.reduce(np.maximum, map(seen.level, _looked_at(path, contents)))
    part = kept_part(brightest, contents.regions)
    if part is None and reading.whole:
        part = whole_picture(brightest)
    Image.fromarray(overview(brightest, part)).save(folder / OVERVIEW)
    kept: list[Frame] = []
    if part is not None:
        pictures = (
            (number, blackened(drop_equal_channels(seen.picture(stored)), part))
            for number, stored in zip(chosen, contents.read(path, chosen), strict=False)
        )
        for number, picture in different(pictures) if reading.frames == DIFFERENT else pictures:
            file = f"{number + 1:06}.png"
            grey = picture.shape[-1] == 1
            # Level 3 takes less than half the time of the default.
            Image.fromarray(picture[..., 0] if grey else picture).save(
                folder / file, compress_level=3
            )
            kept.append(Frame(number, file, pixel_digest(picture).hex()))
    left_out = LIKE_THE_LAST if len(kept) < seen.pictures else ""
    return Scan(
        frames=contents.frames,
        kept=tuple(kept),
        left_out=left_out if part else UNKNOWN_SCAN,
        scan_by=part.reason if part else "",
        cut=part.cut if part else None,
        mm=contents.mm,
        model=contents.model,
        transducer=contents.transducer,
        frame_ms=contents.frame_ms,
        organ=contents.organ,
        doubts=(*contents.regions.faults, *contents.doubts, *seen.doubts(part, chosen)),
    )


class _Seen:
    """Turns frames into pictures, and remembers what is doubtful about them."""

    def __init__(self, value_range: tuple[float, ...]) -> None:
        self._value_range = value_range
        self._peak = 0
        self.pictures = 0

    def level(self, stored: FileImage) -> np.ndarray:
        """A frame's grey levels, uint8 [H, W]."""
        range_ = self._value_range if stored.exact else ()
        if not range_ and is_full_16(stored):
            self._peak = max(self._peak, int(stored.samples.max()))
        return to_bytes(stored, range_).max(axis=2)

    def picture(self, stored: FileImage) -> np.ndarray:
        """A frame, uint8 [H, W, C]."""
        self.pictures += 1
        return to_bytes(stored, self._value_range if stored.exact else ())

    def doubts(self, part: Kept | None, chosen: Sequence[int]) -> Iterator[str]:
        """What a person should know."""
        if part is not None and self.pictures < len(chosen):
            yield f"ends early: {self.pictures} of {len(chosen)} frames could be read"
        if 0 < self._peak < _DARK:
            yield (
                f"has 16 bits by its header and no value above {self._peak}, so that it is dark: "
                "set data.value_range to its black and white"
            )


def _looked_at(path: Path, contents: "_Contents") -> Iterator[FileImage]:
    """Frames at equal distances, in which the scan is looked for."""
    return contents.read(path, chosen_frames(f"evenly:{_LOOKED_AT}", contents.frames))


class _Contents(NamedTuple):
    """What a file says of itself, and how its frames are read."""

    read: Callable[[Path, Sequence[int]], Iterator[FileImage]]
    frames: int
    mm: float | None = None
    regions: Regions = Regions()
    model: str = ""
    transducer: str = ""
    frame_ms: float | None = None
    organ: str = ""
    doubts: tuple[str, ...] = ()


def _contents(path: Path) -> _Contents:
    if is_clip(path):
        frames, frame_ms = clip.read_timing(path)
        return _Contents(clip.read_frames, frames, frame_ms=frame_ms)
    if is_nifti(path):
        return _Contents(nifti.read_frames, *nifti.read_shape(path))
    if is_picture(path):
        several = read_image_file(_bytes_of(path)).frames
        return _Contents(_read_picture, 1, doubts=(_FIRST.format(several),) if several > 1 else ())
    header = dicom.read_header(path)
    return _Contents(
        *(dicom.read_frames, header.frames, header.regions.mm, header.regions),
        *(header.model, header.transducer, header.frame_ms, header.organ),
    )


def _read_picture(path: Path, frames: Sequence[int]) -> Iterator[FileImage]:
    """The first frame of an image file, which is all that is read of one."""
    del frames
    yield read_image_file(_bytes_of(path))


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorruptImage(f"cannot be opened: {error.strerror}") from error


def _from_json(text: bytes) -> Scan:
    facts = json.loads(text)
    facts["kept"] = tuple(Frame(**frame) for frame in facts["kept"])
    facts["cut"] = facts["cut"] and Cut(*facts["cut"])
    facts["doubts"] = tuple(facts["doubts"])
    return Scan(**facts)


@functools.cache
def _stamp() -> bytes:
    """Changes with the code that decides the pixels, and with the packages that decode them."""
    code = code_stamp(ufm_jax.data.scans, ufm_jax.data.geometry, decode, image_file)
    return digest(code, *map(_version, ("pydicom", "python-gdcm", "av", "nibabel", "pillow")))


def _version(package: str) -> bytes:
    try:
        return version(package).encode()
    except PackageNotFoundError:
        return b""
