"""Frames of scans, read once and kept as PNG in the cache: what was blackened never comes back.

A scan is a file of one or many frames: DICOM, a video clip, NIfTI. Its folder in the cache is named
by the file's content, the choice of frames, and the code that reads them. It holds the frames, cut
to the scan, ``overview.png``, which shows what was blackened, and ``scan.json``: what ``Scan``
lists. No name, date or number of the header is in it.
"""

import functools
import json
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import mkdtemp

import ufm_jax.data.geometry
import ufm_jax.data.scans
from ufm_jax.data import image_file
from ufm_jax.data.cache import decode
from ufm_jax.data.cache.fingerprint import code_stamp, digest, read_sealed, write_sealed
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.scans.deidentify import Cut
from ufm_jax.data.scans.extract import Frame, Reading, Scan, extract
from ufm_jax.files import private_folder

_FACTS = "scan.json"


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
        scan = extract(path, reading, partial)
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
