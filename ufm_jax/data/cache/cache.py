"""The decoding cache: each image is decoded once, into flat memory-mapped arrays.

Each combination of content, settings and decoding code has a folder, named by a hash over them:
nothing in it ever changes, and a changed file means another folder. The client of an image is not
part of the name, so another partition of the same images decodes nothing.

    CACHE/<key>/            see ``folder``
    CACHE/<key>.lock        held while <key> is written
    CACHE/<key>.partial-*/  a folder being written, or left by a writer that was killed

A folder is written under another name and renamed when complete. A second writer waits for the
first, and finds the work done; where the file system has no locks both write, and one wins. A
damaged folder is decoded again, with a warning.
"""

import contextlib
import logging
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ufm_jax.data import image_file
from ufm_jax.data.cache import decode
from ufm_jax.data.cache.decode import GeometryDetector, Row
from ufm_jax.data.cache.fingerprint import code_stamp, digest
from ufm_jax.data.cache.folder import FORMAT, CachedRows, open_rows, write_rows
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.records import ImageSource, load_source
from ufm_jax.files import exclusive, naming
from ufm_jax.threads import map_in_order

Progress = Callable[[int, int], None]
"""Called with (images done, images in all) from the writing thread."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecodeSettings:
    """What decides the pixels of a row.

    Attributes:
        size: S, the working size.
        channels: 1 or 3; None = 3 if any image has colour, else 1.
        detector: Finds the scan geometry; None leaves it unknown.
        value_range: Black and white of files of more than 8 bits; () = what their headers say.
    """

    size: int
    channels: int | None = None
    detector: GeometryDetector | None = None
    value_range: tuple[float, ...] = ()


def cache_key(digests: Sequence[bytes], settings: DecodeSettings) -> str:
    """Name of the cache folder of these contents, in this order, under these settings."""
    detector = settings.detector
    modules = [image_file, decode]
    if detector is not None:
        modules.append(sys.modules[detector.__module__])
    name = detector and detector.__qualname__
    plain = f"{settings.size} {settings.channels} {name} {settings.value_range}"
    return digest(FORMAT, plain.encode(), code_stamp(*modules), b"".join(digests)).hex()


def decoded_rows(
    images: Sequence[ImageSource],
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
        digests: Name of each one's content, see ``fingerprint.content_digests``.
        settings: What decides the pixels.
        cache_dir: An existing folder.
        num_workers: Decoding threads (Pillow releases the GIL).
        progress: Called after each decoded image.
        source: Gives the decoded rows, where they need not be decoded from ``images``.

    Returns:
        The rows, in the order of ``images``.

    Raises:
        OSError: If a file vanished since its digest was taken, or the disk is full.
    """
    key = cache_key(digests, settings)
    folder = cache_dir / key
    if (rows := open_rows(folder)) is not None:
        return rows
    with naming(folder), exclusive(cache_dir / f"{key}.lock") as locked:
        # This comes first, because a folder that appears later is another writer's, and whole.
        occupied = os.path.lexists(folder)
        if (rows := open_rows(folder)) is not None:
            return rows
        if locked is not None:
            _remove_abandoned(cache_dir, key)
        if occupied:
            _log.warning("%s is damaged: its images are decoded again", folder)
            _remove(folder)
        partial = cache_dir / f"{key}.partial-{secrets.token_hex(4)}"
        partial.mkdir(mode=0o700)
        try:
            decoded = source() if source else _decode_in_order(images, settings, num_workers)
            shape = (len(images), settings.size, settings.channels)
            write_rows(partial, key, _counted(decoded, len(images), progress), shape)
            _rename(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    rows = open_rows(folder)
    if rows is None:
        raise OSError(f"{folder} was damaged while it was written: is the disk sound and not full?")
    return rows


def _counted(
    rows: Iterable[Row | CorruptImage], count: int, progress: Progress | None
) -> Iterator[Row | CorruptImage]:
    """The same rows, calling ``progress`` after each has been used."""
    for index, row in enumerate(rows):
        yield row
        if progress is not None:
            progress(index + 1, count)


def _decode_in_order(
    images: Sequence[ImageSource], settings: DecodeSettings, num_workers: int
) -> Iterator[Row | CorruptImage]:
    """Decodes in threads; yields in order, and holds a bounded number of rows."""
    plain = (settings.size, settings.channels, settings.detector, settings.value_range)

    def decode_one(image: ImageSource) -> Row | CorruptImage:
        try:
            return decode.make_row(load_source(image), *plain)
        except CorruptImage as error:
            return error

    return map_in_order(decode_one, images, num_workers)


def _remove_abandoned(cache_dir: Path, held_key: str) -> None:
    """Removes folders that killed writers left; the caller holds the lock of ``held_key``."""
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
