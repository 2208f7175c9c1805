"""An .npy file of images, written row by row; it gains colour with the first coloured row."""

from pathlib import Path
from typing import IO

import numpy as np


class RowFile:
    """An .npy file of rows, appended in order; becomes three channels at the first colour.

    Written as a stream and not through a memory map: a full disk is then an OSError that says so,
    not a bus error that kills the process.
    """

    def __init__(self, path: Path, count: int, size: int, channels: int | None) -> None:
        self.channels = channels or 1
        self._path, self._count, self._size, self._written = path, count, size, 0
        self._file = self._begin(path)

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, image: np.ndarray) -> None:
        """Writes uint8 [S, S, 1 or 3]."""
        if image.shape[-1] > self.channels:
            self._widen()
        self._put(image[None])
        self._written += 1

    def _put(self, images: np.ndarray) -> None:
        shape = (*images.shape[:3], self.channels)
        self._file.write(np.ascontiguousarray(np.broadcast_to(images, shape)).data)

    def _begin(self, path: Path) -> IO[bytes]:
        shape = (self._count, self._size, self._size, self.channels)
        file = path.open("wb")
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        return file

    def _widen(self) -> None:
        """Repeats the channel of all rows written so far."""
        start = self._file.tell() - self._written * self._size**2
        self._file.close()
        self.channels = 3
        wide = self._path.with_suffix(".wide")
        self._file = self._begin(wide)
        with self._path.open("rb") as grey:
            grey.seek(start)
            for _ in range(self._written):
                row = np.frombuffer(grey.read(self._size**2), np.uint8)
                self._put(row.reshape(1, self._size, self._size, 1))
        wide.replace(self._path)
