"""Video clips (MP4, AVI, MOV, MKV, WEBM), read and written by PyAV."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ufm_jax.data.image_file import CorruptImage, FileImage
from ufm_jax.data.optional import needed_packages
from ufm_jax.data.scans.frames import plausible_ms


def read_timing(path: Path) -> tuple[int, float | None]:
    """Frames in a clip, counted without decoding them, and milliseconds a frame; None if unknown.

    Raises:
        CorruptImage: If the file is not a clip.
        DataError: If PyAV is not installed.
    """
    with needed_packages():
        import av
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            # What the header of a clip says of their number is not always so.
            frames = sum(1 for packet in container.demux(stream) if packet.size)
            rate = stream.average_rate
    except Exception as error:  # A clip without a video, or broken bytes.
        raise CorruptImage(_undecoded(error)) from None
    return frames, plausible_ms(1000 / float(rate)) if rate else None


def read_frames(path: Path, frames: Sequence[int]) -> Iterator[FileImage]:
    """Some frames of a clip, one at a time: those there are, where it ends early.

    Args:
        path: The file.
        frames: Numbers from 0, ascending.

    Raises:
        CorruptImage: If the clip is broken, or ends before the first of them.
        DataError: If PyAV is not installed.
    """
    with needed_packages():
        import av
    wanted, found = set(frames), 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    found += 1
                    yield FileImage(np.asarray(frame.to_ndarray(format="rgb24")))
                if found == len(wanted):
                    return
    except Exception as error:
        raise CorruptImage(_undecoded(error)) from None
    if not found:
        raise CorruptImage(f"ends before frame {min(wanted) + 1}")


def write_frames(path: Path, frames: Iterable[np.ndarray], rate: float) -> None:
    """Writes pictures of one size as MP4 (H.264).

    Args:
        path: The file.
        frames: uint8 [H, W, 3].
        rate: Frames a second.

    Raises:
        DataError: If PyAV is not installed.
    """
    with needed_packages():
        import av
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("h264", rate=Fraction(rate).limit_denominator(1000))
        stream.pix_fmt = "yuv420p"
        for index, pixels in enumerate(frames):
            # The format asks for an even number of rows and columns.
            odd = [(0, side % 2) for side in pixels.shape[:2]]
            even = np.pad(pixels, (*odd, (0, 0)), mode="edge")
            if index == 0:
                stream.height, stream.width = even.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())


def _undecoded(error: Exception) -> str:
    return f"does not decode as a clip ({type(error).__name__})"
