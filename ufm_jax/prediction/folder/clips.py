"""What is written about a scan of several frames as a whole: a summary, and its overlays as a clip.

``OUT/clips.csv`` has a row for each such scan: clip, frames (in the file), predicted (of them), and
what ``Output.summary`` says of these. ``OUT/clips/*.mp4`` plays the overlays in the scan's time.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ufm_jax.data.csv_files import writing_csv
from ufm_jax.data.image_file import read_image_file
from ufm_jax.data.optional import needed_packages
from ufm_jax.data.scans.store import Scan
from ufm_jax.files import private_file, private_folder
from ufm_jax.prediction.folder.outputs import Cells, Output

TABLE, CLIPS = "clips.csv", "clips"

_FRAMES_A_SECOND = 10.0
"""Where a scan does not say how long a frame lasts."""
_MOST = 100_000


def summary_of(output: Output, name: str, scan: Scan, frames: Sequence[Cells]) -> Cells:
    """The row of a scan: its path, what is known of it, and the cells of its predicted frames."""
    counts = {"frames": str(scan.frames), "predicted": str(len(frames))}
    return {"clip": name, **counts, **(output.summary(frames) if frames else {})}


def write_summaries(output: Output, rows: Sequence[Cells], out: Path) -> None:
    """Writes the rows of scans as ``OUT/clips.csv``."""
    columns = ("clip", "frames", "predicted", *output.summary_columns)
    with writing_csv(out / TABLE, columns) as add:
        for row in rows:
            add([row.get(column, "") for column in columns])


def frame_rate(frames: int, shown: int, frame_ms: float | None) -> float:
    """Frames a second with which ``shown`` frames last as long as the scan's ``frames`` do."""
    whole = 1000 / frame_ms if frame_ms else _FRAMES_A_SECOND
    return whole * shown / frames


def write_clip(pictures: Iterable[Path], rate: float, out: Path) -> None:
    """Writes pictures of one size as MP4 (H.264), ``rate`` frames a second.

    Raises:
        DataError: If PyAV is not installed.
    """
    with needed_packages():
        import av

    private_folder(out.parent)
    with av.open(str(private_file(out)), "w") as container:
        stream: Any = container.add_stream("h264", rate=Fraction(rate).limit_denominator(_MOST))
        stream.pix_fmt = "yuv420p"
        for index, file in enumerate(pictures):
            pixels = _even(read_image_file(file.read_bytes()).samples)
            if index == 0:
                stream.height, stream.width = pixels.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _even(pixels: np.ndarray) -> np.ndarray:
    """The picture with an even number of rows and columns, as the format asks for."""
    odd = [(0, side % 2) for side in pixels.shape[:2]]
    return np.pad(pixels, (*odd, (0, 0)), mode="edge")
