"""Several processes fill one decoding cache together, each with a part of the work.

The images are cut into parts, each decoded into a folder of its own, as any other images are, and
every process begins at another part. A process that finds a part complete goes on to the next; one
that finds it locked waits for it. The first to have all parts copies them into one folder, the same
that a single process would have written, and removes them. Only the cache's folder and its locks
are needed for that: processes whose caches are not the same folder decode everything.
"""

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ufm_jax.data.cache.cache import DecodeSettings, Progress, cache_key, decoded_rows
from ufm_jax.data.cache.decode import Row
from ufm_jax.data.cache.folder import CachedRows, open_rows
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.records import ImageSource
from ufm_jax.files import exclusive

Share = tuple[int, int]
"""(index, count) of a process among those that decode the same images at the same time."""

ALONE: Share = (0, 1)

_PARTS_EACH = 4
_PART_MIN = 64


def decoded_together(
    images: Sequence[ImageSource],
    digests: Sequence[bytes],
    settings: DecodeSettings,
    cache_dir: Path,
    num_workers: int,
    progress: Progress | None = None,
    share: Share = ALONE,
) -> CachedRows:
    """Opens the decoded rows of images, as ``cache.decoded_rows`` does, sharing what is to decode.

    ``share`` is this process among those that call this with the same images and, where they are to
    share, the same ``cache_dir``. ``progress`` is called after each image, or each part.
    """
    index, count = share
    if count == 1:
        return decoded_rows(images, digests, settings, cache_dir, num_workers, progress)
    size = max(_PART_MIN, -(-len(images) // (_PARTS_EACH * count)))
    begins = range(0, len(images), size)
    first = len(begins) * index // count
    whole = cache_dir / cache_key(digests, settings)
    parts: dict[int, CachedRows] = {}
    for begin in (*begins[first:], *begins[:first]):
        if (rows := open_rows(whole)) is not None:
            return rows
        part = slice(begin, begin + size)
        parts[begin] = decoded_rows(images[part], digests[part], settings, cache_dir, num_workers)
        if progress is not None:
            progress(sum(map(len, parts.values())), len(images))
    if len(begins) == 1:
        return parts[0]
    in_order = [parts[begin] for begin in begins]
    rows = decoded_rows(
        images, digests, settings, cache_dir, num_workers, source=lambda: _rows_of(in_order)
    )
    _remove(in_order)
    return rows


def _rows_of(parts: Iterable[CachedRows]) -> Iterator[Row | CorruptImage]:
    """The rows of complete folders, as they were decoded."""
    for part in parts:
        images = part.images()
        for index in range(len(part)):
            if index in part.failures:
                yield CorruptImage(part.failures[index])
                continue
            yield Row(
                image=images.read(np.array([index]))[0],
                extent=tuple(part.extents[index].tolist()),
                geometry=part.geometry[index],
                digest=part.digests[index].tobytes(),
                native=tuple(part.natives[index].tolist()),
                frames=int(part.frames[index]),
                peak=int(part.peaks[index]),
                label=part.labels.get(index),
            )


def _remove(parts: Iterable[CachedRows]) -> None:
    """Removes parts whose rows lie in the whole folder now."""
    for part in parts:
        lock = part.folder.with_suffix(".lock")
        with contextlib.suppress(BlockingIOError), exclusive(lock, wait=False) as locked:
            if locked is not None:  # Without locks, another process may still be reading the part.
                shutil.rmtree(part.folder, ignore_errors=True)
