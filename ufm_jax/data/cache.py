"""The decoding cache: each image is decoded once, into flat memory-mapped arrays.

One folder for each combination of content, settings and decoding code, named by a hash over them:
nothing in it ever changes, and a changed file means another folder. The client of an image is not
part of the name, so another partition of the same images decodes nothing.

    CACHE/<key>/images.npy      uint8   [N, S, S, C], zeros where decoding failed
                extents.npy     int32   [N, 2]
                geometry.npy    float32 [N, 7]
                digests.npy     uint8   [N, 16], hash of the native pixels
                frames.npy      int32   [N]
                meta.json       shapes, file sizes, failures, labels
    CACHE/<key>.lock            held while <key> is written
    CACHE/<key>.partial-*/      a folder being written, or left by a writer that was killed

A folder is written under another name and renamed when complete. Of two writers one waits for the
other, and finds the work done; where the file system has no locks both write, and one wins.
"""

import contextlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ufm_jax.data.decode as decode
from ufm_jax.data.decode import CorruptImage, GeometryDetector, Row
from ufm_jax.data.fingerprint import code_stamp, digest
from ufm_jax.data.records import ImageHandle
from ufm_jax.data.row_file import RowFile
from ufm_jax.data.threads import map_in_order
from ufm_jax.files import exclusive, naming, private_folder

Progress = Callable[[int, int], None]
"""Called with (images done, images in all) from the writing thread."""

_FORMAT = b"ufm_jax rows 1"
_ARRAYS = ("images", "extents", "geometry", "digests", "frames")


@dataclass(frozen=True)
class DecodeSettings:
    """What decides the pixels of a row.

    Attributes:
      size: S, the working size.
      channels: 1 or 3; None = 3 if any image has colour, else 1.
      detector: finds the scan geometry; None leaves it unknown.
    """

    size: int
    channels: int | None = None
    detector: GeometryDetector | None = None


@dataclass(frozen=True)
class CachedRows:
    """A complete cache folder; everything but the pixels is in memory.

    Attributes:
      folder: where it lies.
      image_shape: (S, S, C).
      extents: int32 [N, 2].
      geometry: float32 [N, 7].
      digests: uint8 [N, 16], equal for equal native pixels.
      frames: int32 [N], frames in the file.
      failures: reason, by row, of images that did not decode.
      labels: label, by row, of pictures that bring their own.
    """

    folder: Path
    image_shape: tuple[int, int, int]
    extents: np.ndarray
    geometry: np.ndarray
    digests: np.ndarray
    frames: np.ndarray
    failures: dict[int, str]
    labels: dict[int, str]

    def __len__(self) -> int:
        return len(self.extents)


def open_cache_dir(cache_dir: Path) -> None:
    """Makes the cache's folder, readable by its owner alone: it will hold patients' images."""
    private_folder(cache_dir)


def cache_key(digests: Sequence[bytes], settings: DecodeSettings) -> str:
    """Name of the cache folder of these contents, in this order, under these settings."""
    detector = settings.detector
    modules = [decode] if detector is None else [decode, sys.modules[detector.__module__]]
    plain = f"{settings.size} {settings.channels} {detector and detector.__qualname__}"
    return digest(_FORMAT, plain.encode(), code_stamp(*modules), b"".join(digests)).hex()


def decoded_rows(
    images: Sequence[Path | ImageHandle],
    digests: Sequence[bytes],
    settings: DecodeSettings,
    cache_dir: Path,
    num_workers: int,
    progress: Progress | None = None,
    source: Callable[[], Iterable[Row | CorruptImage]] | None = None,
) -> CachedRows:
    """Opens the decoded rows of images, decoding them first if they are not in the cache.

    Args:
      images: N files or handles.
      digests: name of the content of each, see `fingerprint.content_digests`.
      settings: what decides the pixels.
      cache_dir: an existing folder.
      num_workers: decoding threads (Pillow releases the GIL).
      progress: called after each decoded image.
      source: gives the decoded rows, where they need not be decoded from `images`.

    Returns:
      The rows, in the order of `images`.

    Raises:
      OSError: a file vanished since its digest was taken, or the disk is full.
    """
    key = cache_key(digests, settings)
    folder = cache_dir / key
    if (rows := open_rows(folder)) is not None:
        return rows
    with naming(folder), exclusive(cache_dir / f"{key}.lock") as lock:
        locked = lock is not None
        if locked and (rows := open_rows(folder)) is not None:
            return rows
        if locked:
            shutil.rmtree(folder, ignore_errors=True)
            _remove_abandoned(cache_dir, key)
        partial = cache_dir / f"{key}.partial-{secrets.token_hex(4)}"
        partial.mkdir(mode=0o700)
        try:
            decoded = source() if source else _decode_in_order(images, settings, num_workers)
            _write(partial, decoded, len(images), settings, progress)
            _rename(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    rows = open_rows(folder)
    if rows is None:
        raise OSError(f"{folder} was damaged while it was written: is the disk sound and not full?")
    return rows


def _write(
    partial: Path,
    rows: Iterable[Row | CorruptImage],
    count: int,
    settings: DecodeSettings,
    progress: Progress | None,
) -> None:
    """Writes rows into a folder; its meta.json comes last."""
    extents, geometry = np.zeros((count, 2), np.int32), np.zeros((count, 7), np.float32)
    digests, frames = np.zeros((count, 16), np.uint8), np.zeros(count, np.int32)
    failures: dict[str, str] = {}
    labels: dict[str, str] = {}
    with RowFile(partial / "images.npy", count, settings.size, settings.channels) as file:
        for index, row in enumerate(rows):
            if isinstance(row, CorruptImage):
                failures[str(index)] = str(row)
                file.append(np.zeros((settings.size, settings.size, 1), np.uint8))
            else:
                file.append(row.image)
                extents[index], geometry[index] = row.extent, row.geometry
                digests[index], frames[index] = np.frombuffer(row.digest, np.uint8), row.frames
                if row.label is not None:
                    labels[str(index)] = row.label
            if progress is not None:
                progress(index + 1, count)
    arrays: dict[str, np.ndarray] = {
        "extents": extents,
        "geometry": geometry,
        "digests": digests,
        "frames": frames,
    }
    for name, array in arrays.items():
        np.save(partial / f"{name}.npy", array)
    sizes = {name: (partial / f"{name}.npy").stat().st_size for name in _ARRAYS}
    meta = {
        "image_shape": [settings.size, settings.size, file.channels],
        "bytes": sizes,
        "failures": failures,
        "labels": labels,
    }
    (partial / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    for name in (*(f"{name}.npy" for name in _ARRAYS), "meta.json"):
        _flush(partial / name)


def _decode_in_order(
    images: Sequence[Path | ImageHandle], settings: DecodeSettings, num_workers: int
) -> Iterator[Row | CorruptImage]:
    """Decodes in threads, hands over in order, and holds a bounded number of rows."""

    def decode_one(image: Path | ImageHandle) -> Row | CorruptImage:
        try:
            content = image.read_bytes() if isinstance(image, Path) else image.load()
            return decode.make_row(content, settings.size, settings.channels, settings.detector)
        except CorruptImage as error:
            return error

    return map_in_order(decode_one, images, num_workers)


def open_rows(folder: Path) -> CachedRows | None:
    """Opens a cache folder; None if there is none, or if a file of it is not of its size."""
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        for name, size in meta["bytes"].items():
            if (folder / f"{name}.npy").stat().st_size != size:
                return None
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    size, _, channels = meta["image_shape"]
    return CachedRows(
        folder=folder,
        image_shape=(size, size, channels),
        **{name: np.load(folder / f"{name}.npy") for name in _ARRAYS[1:]},
        failures={int(row): reason for row, reason in meta["failures"].items()},
        labels={int(row): label for row, label in meta["labels"].items()},
    )


def _remove_abandoned(cache_dir: Path, held_key: str) -> None:
    """Removes half-written folders whose writer no longer lives; the lock of `held_key` is ours."""
    for partial in cache_dir.glob("*.partial-*"):
        key = partial.name.split(".")[0]
        if key == held_key:
            shutil.rmtree(partial, ignore_errors=True)
            continue
        with (
            contextlib.suppress(BlockingIOError),
            exclusive(cache_dir / f"{key}.lock", wait=False) as locked,
        ):
            if locked is not None:
                shutil.rmtree(partial, ignore_errors=True)


def _rename(partial: Path, folder: Path) -> None:
    """Puts a complete folder in its place, unless another writer was faster."""
    try:
        partial.rename(folder)
    except OSError:
        if open_rows(folder) is None:
            raise


def _flush(path: Path) -> None:
    """Waits until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
