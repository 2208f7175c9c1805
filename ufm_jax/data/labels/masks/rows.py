"""Masks in the decoding cache: each is read once, scaled to its image's canvas, and measured.

They are rows of ``cache``, like images, under a name that also holds the images' sizes, the classes
and the code; 'images.npy' then holds class numbers [N, S, S, 1], 255 outside the picture.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ufm_jax.data import image_file
from ufm_jax.data.cache.cache import DecodeSettings, Progress, decoded_rows, open_cache_dir
from ufm_jax.data.cache.decode import Row, fitted_extent, pixel_digest
from ufm_jax.data.cache.fingerprint import (
    code_stamp,
    content_digests,
    digest,
    memo_of,
    read_sealed,
    write_sealed,
)
from ufm_jax.data.cache.folder import CachedRows
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.labels.masks import classes as mask_classes
from ufm_jax.data.labels.masks import decode
from ufm_jax.data.labels.masks.classes import MaskClasses, classes_of_values
from ufm_jax.data.labels.masks.decode import ClassMask, MaskFault
from ufm_jax.data.records import ImageHandle, Picture
from ufm_jax.errors import DataError
from ufm_jax.threads import map_in_order

MaskSource = Path | ImageHandle
"""A mask file, or a handle that loads a mask's bytes, or its values as a ``Picture``."""

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class MaskRows:
    """Masks of R images.

    Attributes:
        cached: The cache folder of the distinct masks.
        rows: int64 [R], row of each mask in it.
        counts: int64 [R, 1 + C], pixels of background and of each class at the native size.
        grey: bool [R], whether greys were thresholded.
        faults: (kind, reason) of each mask that cannot be used, by position.
    """

    cached: CachedRows
    rows: np.ndarray
    counts: np.ndarray
    grey: np.ndarray
    faults: Mapping[int, tuple[str, str]]


def read_mask(source: MaskSource, classes: MaskClasses, native: Size) -> ClassMask:
    """Reads a mask at its own size.

    Args:
        source: The mask.
        classes: What its values mean.
        native: Size of its image.

    Raises:
        MaskFault: If it does not decode, is of another size, or holds a value of no class.
    """
    values = _values(source)
    if values.shape != native:
        (height, width), (image_height, image_width) = values.shape, native
        raise MaskFault(
            "mask_size", f"is {width} x {height} pixels, its image {image_width} x {image_height}"
        )
    return decode.class_mask(values, classes)


def decode_masks(
    sources: Sequence[MaskSource],
    natives: Sequence[Size],
    classes: MaskClasses,
    size: int,
    cache_dir: Path,
    num_workers: int,
    progress: Progress | None = None,
) -> MaskRows:
    """Opens the masks of images, reading those that are not in the cache.

    Args:
        sources: R masks.
        natives: R sizes of their images.
        classes: What values mean.
        size: S, the working size.
        cache_dir: Made if absent.
        num_workers: Threads.
        progress: Called with (done, total) while masks are read.

    Raises:
        DataError: If a mask shows that the values of all of them must be named.
    """
    contents, unreadable = mask_digests(sources, cache_dir, num_workers)
    stamp = _code()
    rule = digest(stamp, repr(classes).encode())
    names = [
        digest(rule, content, repr(native).encode())
        for content, native in zip(contents, natives, strict=True)
    ]
    first: dict[bytes, int] = {}
    for index, name in enumerate(names):
        if index not in unreadable:
            first.setdefault(name, index)
    chosen = list(first.values())

    def read(index: int) -> Row | CorruptImage:
        try:
            return _row(sources[index], classes, natives[index], size)
        except CorruptImage as fault:
            return fault

    cached = decoded_rows(
        [sources[index] for index in chosen],
        list(first),
        DecodeSettings(size, channels=1),
        cache_dir,
        num_workers,
        progress,
        source=lambda: map_in_order(read, chosen, num_workers),
    )
    row_of = {name: row for row, name in enumerate(first)}
    rows = np.array([row_of.get(name, -1) for name in names], np.int64)
    masks = _measured(cached, rows, unreadable, len(classes.names))
    for index, (kind, reason) in masks.faults.items():
        if kind == decode.VOID:  # Leaving this one out would not tell what the others mean.
            source = sources[index]
            raise DataError(f"{source if isinstance(source, Path) else source.name} {reason}")
    return masks


def values_in_masks(
    sources: Sequence[MaskSource], cache_dir: Path, num_workers: int
) -> MaskClasses:
    """The classes of mask_classes='auto': every value that occurs in readable masks."""
    contents, unreadable = mask_digests(sources, cache_dir, num_workers)
    key = digest(_code(), *sorted(set(contents))).hex()
    memo = cache_dir / f"values-{key}.sealed"
    if (known := read_sealed(memo)) is not None:
        return classes_of_values(json.loads(known))

    def values(index: int) -> list[int]:
        try:
            return [int(value) for value in np.unique(_values(sources[index]))]
        except CorruptImage:
            return []  # ``decode_masks`` names it

    readable = [index for index in range(len(sources)) if index not in unreadable]
    found = sorted({v for some in map_in_order(values, readable, num_workers) for v in some})
    write_sealed(memo, json.dumps(found).encode())
    return classes_of_values(found)


def mask_digests(
    sources: Sequence[MaskSource], cache_dir: Path, num_workers: int
) -> tuple[list[bytes], dict[int, str]]:
    """Names the content of masks; see ``fingerprint.content_digests``."""
    open_cache_dir(cache_dir)
    return content_digests(sources, memo_of(sources, cache_dir), num_workers)


def _code() -> bytes:
    """Changes when the code that reads masks does."""
    return code_stamp(image_file, decode, mask_classes)


def _values(source: MaskSource) -> np.ndarray:
    """Values of a mask, int32 [H, W]."""
    if isinstance(source, Path):
        try:
            return decode.decode_values(source.read_bytes())
        except OSError as error:
            raise MaskFault("missing", f"cannot be read: {error.strerror or error}") from error
    content = source.load()
    pixels = content.pixels if isinstance(content, Picture) else content
    return decode.decode_values(pixels)


def _row(source: MaskSource, classes: MaskClasses, native: Size, size: int) -> Row:
    """A mask as a row of the cache; what was measured stands where a label would."""
    numbers, grey = read_mask(source, classes, native)
    extent = fitted_extent(*native, size)
    counts = decode.pixels_of_classes(numbers, len(classes.names))
    return Row(
        image=decode.scale_mask(numbers, extent, size)[..., None],
        extent=extent,
        geometry=np.zeros(7, np.float32),
        digest=pixel_digest(numbers),
        native=native,
        label=json.dumps({"counts": counts, "grey": grey}),
    )


def _measured(
    cached: CachedRows, rows: np.ndarray, unreadable: Mapping[int, str], num_classes: int
) -> MaskRows:
    """Looks up for each image what was measured of its mask."""
    counts = np.zeros((len(rows), 1 + num_classes), np.int64)
    grey = np.zeros(len(rows), bool)
    faults: dict[int, tuple[str, str]] = {}
    measured = {row: json.loads(text) for row, text in cached.labels.items()}
    for index, row in enumerate(rows.tolist()):
        if index in unreadable:
            faults[index] = "missing", unreadable[index]
        elif row in cached.failures:
            kind, _, reason = cached.failures[row].partition(": ")
            faults[index] = kind, reason
        else:
            counts[index], grey[index] = measured[row]["counts"], measured[row]["grey"]
    return MaskRows(cached, rows, counts, grey, faults)
