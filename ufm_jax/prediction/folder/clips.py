"""What is written about a scan of several frames as a whole: a summary, and its overlays as a clip.

``OUT/clips.csv`` has a row for each such scan: clip, frames (in the file), predicted (of them), and
what ``Output.summary`` says of these. ``OUT/clips/*.mp4`` plays the overlays in the scan's time.
"""

from collections.abc import Sequence
from pathlib import Path

from ufm_jax.data.csv_files import writing_csv
from ufm_jax.data.scans.extract import Scan
from ufm_jax.prediction.folder.outputs import Cells, Output

TABLE, CLIPS = "clips.csv", "clips"

_FRAMES_A_SECOND = 10.0
"""Where a scan does not say how long a frame lasts."""


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
