"""From a scan to PNG of the frames that are kept, cut to the scan and black outside of it."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ufm_jax.data.cache.decode import drop_equal_channels, is_full_16, pixel_digest, to_bytes
from ufm_jax.data.image_file import FileImage
from ufm_jax.data.scans.contents import Contents, read_contents
from ufm_jax.data.scans.deidentify import Cut, Kept, blackened, kept_part, overview, whole_picture
from ufm_jax.data.scans.frames import DIFFERENT, chosen_frames, different

OVERVIEW = "overview.png"
UNKNOWN_SCAN = (
    "where the scan is cannot be told from the header or the picture; data.whole_frames=True takes "
    "pictures whole, if they show nothing else"
)
LIKE_THE_LAST = "hardly differs from the frame taken before it"
_LOOKED_AT, _DARK = 16, 2**14


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


def extract(path: Path, reading: Reading, folder: Path) -> Scan:
    """Reads a scan frame by frame, and writes those that are kept to ``folder``.

    Beside them lies ``OVERVIEW``, which shows what was blackened.

    Raises:
        CorruptImage: If the file does not decode.
        DataError: If a package that reads it is not installed.
    """
    contents = read_contents(path)
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
        if not self._value_range and is_full_16(stored):
            self._peak = max(self._peak, int(stored.samples.max()))
        return self._bytes(stored).max(axis=2)

    def picture(self, stored: FileImage) -> np.ndarray:
        """A frame, uint8 [H, W, C]."""
        self.pictures += 1
        return self._bytes(stored)

    def _bytes(self, stored: FileImage) -> np.ndarray:
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


def _looked_at(path: Path, contents: Contents) -> Iterator[FileImage]:
    """Frames at equal distances, in which the scan is looked for."""
    return contents.read(path, chosen_frames(f"evenly:{_LOOKED_AT}", contents.frames))
