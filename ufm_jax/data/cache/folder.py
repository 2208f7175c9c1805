"""What a folder of the decoding cache holds: flat arrays, a row an image.

    images.npy      uint8   [N, S, S, C], zeros where decoding failed
    extents.npy     int32   [N, 2]
    natives.npy     int32   [N, 2]
    geometry.npy    float32 [N, 7]
    digests.npy     uint8   [N, 16], hash of the native pixels
    frames.npy      int32   [N]
    peaks.npy       int32   [N]
    sums.npy        uint8   [N, 16], hash of each row of images.npy
    meta.sealed     the folder's name, shapes, hashes of all files but images.npy, failures, labels

What is small is checked when a folder is opened, an image when it is first read (see ``row_file``).
"""

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ufm_jax.data.cache.decode import Row
from ufm_jax.data.cache.fingerprint import digest, read_sealed, write_sealed
from ufm_jax.data.cache.row_file import CheckedRows, RowFile
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.files import flush

FORMAT = b"ufm_jax rows 2"
"""Changes with the layout."""

_IMAGES, _META = "images.npy", "meta.sealed"
_COLUMNS = {
    "extents": (np.int32, (2,)),
    "natives": (np.int32, (2,)),
    "geometry": (np.float32, (7,)),
    "digests": (np.uint8, (16,)),
    "frames": (np.int32, ()),
    "peaks": (np.int32, ()),
}
"""Arrays of what is known of each row beside its pixels: their type, and the shape of a row."""


@dataclass(frozen=True)
class CachedRows:
    """A complete cache folder; everything but the pixels is in memory.

    Its arrays are those of the module's table, and hold what ``decode.Row`` says.

    Attributes:
        folder: Where it lies.
        image_shape: (S, S, C).
        failures: Reason, by row, of images that did not decode.
        labels: Label, by row, of pictures that bring their own.
    """

    folder: Path
    image_shape: tuple[int, int, int]
    extents: np.ndarray
    natives: np.ndarray
    geometry: np.ndarray
    digests: np.ndarray
    frames: np.ndarray
    peaks: np.ndarray
    sums: np.ndarray
    failures: dict[int, str]
    labels: dict[int, str]

    def __len__(self) -> int:
        return len(self.extents)

    def images(self) -> CheckedRows:
        """The pixels; zeros where decoding failed."""
        return CheckedRows(self.folder / _IMAGES, (len(self), *self.image_shape), self.sums)


def write_rows(
    folder: Path, key: str, rows: Iterable[Row | CorruptImage], shape: tuple[int, int, int | None]
) -> None:
    """Writes rows into an empty folder.

    Args:
        folder: Under its temporary name.
        key: Name that it will have.
        rows: N rows, or the reasons why they did not decode.
        shape: (N, S, C); C = None: 3 if any row has colour, else 1.
    """
    count, size, channels = shape
    arrays = {name: np.zeros((count, *row), dtype) for name, (dtype, row) in _COLUMNS.items()}
    failures: dict[str, str] = {}
    labels: dict[str, str] = {}
    with RowFile(folder / _IMAGES, count, size, channels) as file:
        for index, row in enumerate(rows):
            if isinstance(row, CorruptImage):
                failures[str(index)] = str(row)
                file.append(np.zeros((size, size, 1), np.uint8))
            else:
                file.append(row.image)
                _note(arrays, index, row)
                if row.label is not None:
                    labels[str(index)] = row.label
    arrays["sums"] = file.sums
    hashes = {}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
        hashes[name] = digest((folder / f"{name}.npy").read_bytes()).hex()
    meta = {
        "key": key,
        "image_shape": [size, size, file.channels],
        "bytes": (folder / _IMAGES).stat().st_size,
        "hashes": hashes,
        "failures": failures,
        "labels": labels,
    }
    for name in (*(f"{name}.npy" for name in arrays), _IMAGES):
        flush(folder / name)
    write_sealed(folder / _META, json.dumps(meta).encode())


def _note(arrays: dict[str, np.ndarray], index: int, row: Row) -> None:
    """Writes what is known of a row beside its pixels."""
    arrays["extents"][index], arrays["natives"][index] = row.extent, row.native
    arrays["geometry"][index] = row.geometry
    arrays["digests"][index] = np.frombuffer(row.digest, np.uint8)
    arrays["frames"][index], arrays["peaks"][index] = row.frames, row.peak


def open_rows(folder: Path) -> CachedRows | None:
    """Opens a cache folder; None if it is absent, or holds something else than was written.

    The pixels are only measured: see ``CachedRows.images``.
    """
    content = read_sealed(folder / _META)
    if content is None:
        return None
    meta: dict[str, Any] = json.loads(content)
    if meta["key"] != folder.name:
        return None
    arrays = {}
    try:
        for name, sealed in meta["hashes"].items():
            data = (folder / f"{name}.npy").read_bytes()
            if digest(data).hex() != sealed:
                return None
            arrays[name] = np.load(io.BytesIO(data))
        if (folder / _IMAGES).stat().st_size != meta["bytes"]:
            return None
    except OSError:
        return None
    size, _, channels = meta["image_shape"]
    return CachedRows(
        folder=folder,
        image_shape=(size, size, channels),
        **arrays,
        failures={int(row): reason for row, reason in meta["failures"].items()},
        labels={int(row): label for row, label in meta["labels"].items()},
    )
