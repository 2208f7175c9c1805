"""An .npy file of images: written row by row, checked row by row when it is read."""

from pathlib import Path
from typing import IO

import numpy as np

from ufm_jax.data.cache.fingerprint import digest
from ufm_jax.errors import DataError


class RowFile:
    """An .npy file of rows, appended in order; all get three channels at the first coloured row.

    It is written as a stream and not through a memory map, because a full disk is then an OSError
    that says so, not a bus error that kills the process.

    Attributes:
        channels: Channels of all rows written so far.
        sums: uint8 [N, 16], digest of each row's bytes.
    """

    def __init__(self, path: Path, count: int, size: int, channels: int | None) -> None:
        self.channels = channels or 1
        self.sums = np.zeros((count, 16), np.uint8)
        self._path, self._count, self._size, self._written = path, count, size, 0
        self._file = self._begin(path)

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, image: np.ndarray) -> None:
        """Appends a row, uint8 [S, S, 1 or 3]."""
        if image.shape[-1] > self.channels:
            self._widen()
        self._put(self._written, image)
        self._written += 1

    def _put(self, index: int, image: np.ndarray) -> None:
        row = np.broadcast_to(image, (*image.shape[:2], self.channels)).tobytes()
        self.sums[index] = np.frombuffer(digest(row), np.uint8)
        self._file.write(row)

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
            for index in range(self._written):
                row = np.frombuffer(grey.read(self._size**2), np.uint8)
                self._put(index, row.reshape(self._size, self._size, 1))
        wide.replace(self._path)


class CheckedRows:
    """Rows of images in a file, mapped into memory; each is checked when it is first read."""

    def __init__(self, path: Path, shape: tuple[int, ...], sums: np.ndarray) -> None:
        """Maps the rows, (N, S, S, C), that fill the end of a file; ``sums`` as in ``RowFile``.

        Raises:
            DataError: If the file is gone, or smaller than its rows.
        """
        self._path, self._sums = path, sums
        self._checked = np.zeros(len(sums), bool)
        try:
            begin = path.stat().st_size - int(np.prod(shape))
            rows = np.memmap(path, np.uint8, "r", begin, shape)
        except (OSError, ValueError) as error:
            raise self._damaged(f"cannot be mapped: {error}") from error
        self._rows = rows.view(np.ndarray)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Gathers rows: int [R] -> uint8 [R, S, S, C].

        Raises:
            DataError: If a row is not what was written.
        """
        images: np.ndarray = self._rows[rows]
        for place in np.flatnonzero(~self._checked[rows]):
            if digest(images[place].tobytes()) != self._sums[rows[place]].tobytes():
                raise self._damaged(f"row {rows[place]} is not what was written")
        self._checked[rows] = True
        return images

    def _damaged(self, reason: str) -> DataError:
        return DataError(
            f"{self._path}: {reason}; remove the folder {self._path.parent}, and the images are "
            "decoded again"
        )
