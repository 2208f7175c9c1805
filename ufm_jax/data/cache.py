"""The decoding cache: each image is decoded once, into flat memory-mapped arrays.

One folder for each combination of content, settings and decoding code, named by a hash over them:
nothing in it ever changes, and a changed file means another folder. The client of an image is not
part of the name, so another partition of the same images decodes nothing.

    CACHE/<key>/images.npy      uint8   [N, S, S, C], zeros where decoding failed
                extents.npy     int32   [N, 2]
                natives.npy     int32   [N, 2]
                geometry.npy    float32 [N, 7]
                digests.npy     uint8   [N, 16], hash of the native pixels
                frames.npy      int32   [N]
                peaks.npy       int32   [N]
                sums.npy        uint8   [N, 16], hash of each row of images.npy
                meta.sealed     shapes, hashes of all files but images.npy, failures, labels
    CACHE/<key>.lock            held while <key> is written
    CACHE/<key>.partial-*/      a folder being written, or left by a writer that was killed

A folder is written under another name and renamed when complete. Of two writers one waits for the
other, and finds the work done; where the file system has no locks both write, and one wins. What is
small is checked when a folder is opened, and decoded anew, with a warning, if it was changed; an
image is checked when it is first read (see `row_file`).
"""

import contextlib
import io
import json
import logging
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ufm_jax.data import decode, image_file
from ufm_jax.data.decode import GeometryDetector, Row
from ufm_jax.data.fingerprint import code_stamp, digest, read_sealed, write_sealed
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.records import ImageHandle
from ufm_jax.data.row_file import CheckedRows, RowFile
from ufm_jax.data.threads import map_in_order
from ufm_jax.errors import DataError
from ufm_jax.files import private_folder

Progress = Callable[[int, int], None]
"""Called with (images done, images in all) from the writing thread."""

_log = logging.getLogger(__name__)

_FORMAT = b"ufm_jax rows 2"
_IMAGES, _META = "images.npy", "meta.sealed"
_WIDTHS = {
    "extents": (np.int32, 2),
    "natives": (np.int32, 2),
    "geometry": (np.float32, 7),
    "digests": (np.uint8, 16),
    "frames": (np.int32, 0),
    "peaks": (np.int32, 0),
}
"""Arrays that hold a value, or as many as said, of each row."""


@dataclass(frozen=True)
class DecodeSettings:
    """What decides the pixels of a row.

    Attributes:
      size: S, the working size.
      channels: 1 or 3; None = 3 if any image has colour, else 1.
      detector: finds the scan geometry; None leaves it unknown.
      value_range: black and white of files of more than 8 bits; () = what their headers say.
    """

    size: int
    channels: int | None = None
    detector: GeometryDetector | None = None
    value_range: tuple[float, ...] = ()


@dataclass(frozen=True)
class CachedRows:
    """A complete cache folder; everything but the pixels is in memory.

    Attributes:
      folder: where it lies.
      image_shape: (S, S, C).
      extents: int32 [N, 2].
      natives: int32 [N, 2], (height, width) before scaling; zeros where decoding failed.
      geometry: float32 [N, 7].
      digests: uint8 [N, 16], equal for equal native pixels.
      frames: int32 [N], frames in the file.
      peaks: int32 [N], see `decode.Row`.
      sums: uint8 [N, 16], see `row_file`.
      failures: reason, by row, of images that did not decode.
      labels: label, by row, of pictures that bring their own.
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


def open_cache_dir(cache_dir: Path) -> None:
    """Makes the cache's folder, readable by its owner alone: it will hold patients' images.

    Raises:
      DataError: it cannot be made.
    """
    try:
        private_folder(cache_dir)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cache_dir={cache_dir} cannot be made: {reason}; name another") from error


def cache_key(digests: Sequence[bytes], settings: DecodeSettings) -> str:
    """Name of the cache folder of these contents, in this order, under these settings."""
    detector = settings.detector
    modules = [image_file, decode]
    if detector is not None:
        modules.append(sys.modules[detector.__module__])
    name = detector and detector.__qualname__
    plain = f"{settings.size} {settings.channels} {name} {settings.value_range}"
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
    with exclusive(cache_dir / f"{key}.lock") as locked:
        # Asked first: a folder that comes later is another writer's, and whole.
        occupied = os.path.lexists(folder)
        if (rows := open_rows(folder)) is not None:
            return rows
        if locked:
            _remove_abandoned(cache_dir, key)
        if occupied:
            _log.warning("%s is damaged: its images are decoded again", folder)
            _remove(folder)
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
    arrays = {name: _column(count, *kind) for name, kind in _WIDTHS.items()}
    failures: dict[str, str] = {}
    labels: dict[str, str] = {}
    with RowFile(partial / _IMAGES, count, settings.size, settings.channels) as file:
        for index, row in enumerate(rows):
            if isinstance(row, CorruptImage):
                failures[str(index)] = str(row)
                file.append(np.zeros((settings.size, settings.size, 1), np.uint8))
            else:
                file.append(row.image)
                _note(arrays, index, row)
                if row.label is not None:
                    labels[str(index)] = row.label
            if progress is not None:
                progress(index + 1, count)
    arrays["sums"] = file.sums
    hashes = {}
    for name, array in arrays.items():
        np.save(partial / f"{name}.npy", array)
        hashes[name] = digest((partial / f"{name}.npy").read_bytes()).hex()
    meta = {
        "key": partial.name.split(".")[0],
        "image_shape": [settings.size, settings.size, file.channels],
        "bytes": (partial / _IMAGES).stat().st_size,
        "hashes": hashes,
        "failures": failures,
        "labels": labels,
    }
    write_sealed(partial / _META, json.dumps(meta).encode())
    for name in (*(f"{name}.npy" for name in arrays), _IMAGES):
        _flush(partial / name)


def _column(count: int, dtype: type, width: int) -> np.ndarray:
    return np.zeros((count, width) if width else count, dtype)


def _note(arrays: dict[str, np.ndarray], index: int, row: Row) -> None:
    """Writes what is known of a row beside its pixels."""
    arrays["extents"][index], arrays["natives"][index] = row.extent, row.native
    arrays["geometry"][index] = row.geometry
    arrays["digests"][index] = np.frombuffer(row.digest, np.uint8)
    arrays["frames"][index], arrays["peaks"][index] = row.frames, row.peak


def _decode_in_order(
    images: Sequence[Path | ImageHandle], settings: DecodeSettings, num_workers: int
) -> Iterator[Row | CorruptImage]:
    """Decodes in threads, hands over in order, and holds a bounded number of rows."""

    def decode_one(image: Path | ImageHandle) -> Row | CorruptImage:
        try:
            content = image.read_bytes() if isinstance(image, Path) else image.load()
            return decode.make_row(
                content,
                settings.size,
                settings.channels,
                settings.detector,
                settings.value_range,
            )
        except CorruptImage as error:
            return error

    return map_in_order(decode_one, images, num_workers)


def open_rows(folder: Path) -> CachedRows | None:
    """Opens a cache folder; None if there is none, or if what it holds is not what was written.

    The pixels are only measured: see `CachedRows.images`.
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


@contextlib.contextmanager
def exclusive(path: Path, wait: bool = True) -> Iterator[bool]:
    """Holds a lock that the system releases even if its holder is killed.

    Yields:
      Whether it is held: not where the file system or the platform has no such locks, nor, with
      `wait` false, while another process holds it.
    """
    with path.open("ab") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except (ImportError, OSError):
            held = False
        yield held


def _remove_abandoned(cache_dir: Path, held_key: str) -> None:
    """Removes half-written folders whose writer no longer lives; the lock of `held_key` is ours."""
    for partial in cache_dir.glob("*.partial-*"):
        key = partial.name.split(".")[0]
        if key == held_key:
            shutil.rmtree(partial, ignore_errors=True)
            continue
        with exclusive(cache_dir / f"{key}.lock", wait=False) as held:
            if held:
                shutil.rmtree(partial, ignore_errors=True)


def _remove(path: Path) -> None:
    """Removes a folder, or what stands in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
