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
from ufm_jax.data.cache.cache import DecodeSettings, Progress, decoded_rows
from ufm_jax.data.cache.decode import Row, fitted_extent, pixel_digest
from ufm_jax.data.cache.fingerprint import (
    code_stamp,
    content_digests,
    digest,
    distinct,
    read_sealed,
    write_sealed,
)
from ufm_jax.data.cache.folder import CachedRows
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.labels.masks import classes as mask_classes
from ufm_jax.data.labels.masks import decode
from ufm_jax.data.labels.masks.classes import MaskClasses, classes_of_values
from ufm_jax.data.labels.masks.decode import ClassMask, MaskFault
from ufm_jax.data.records import ImageSource, name_of_source
from ufm_jax.errors import DataError
from ufm_jax.threads import map_in_order

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class MaskRows:
    """Masks of R images.

    Attributes:
        sources: [R], the masks at their own size.
        classes: What their values mean, C classes.
        cached: The cache folder of the distinct masks.
        rows: int64 [R], row of each mask in it.
        counts: int64 [R, 1 + C], pixels of background and of each class at the native size.
        grey: bool [R], whether greys were thresholded.
        faults: (kind, reason) of each mask that cannot be used, by position.
    """

    sources: tuple[ImageSource, ...]
    classes: MaskClasses
    cached: CachedRows
    rows: np.ndarray
    counts: np.ndarray
    grey: np.ndarray
    faults: Mapping[int, tuple[str, str]]

    def take(self, positions: np.ndarray) -> "MaskRows":
        """The masks at some positions, none of them faulty, in that order."""
        sources = tuple(self.sources[index] for index in positions)
        rows, counts, grey = self.rows[positions], self.counts[positions], self.grey[positions]
        return MaskRows(sources, self.classes, self.cached, rows, counts, grey, {})


def read_mask(source: ImageSource, classes: MaskClasses, native: Size) -> ClassMask:
    """Reads a mask at its own size, which must be its image's ``native`` size.

    Raises:
        MaskFault: If it does not decode, is of another size, or holds a value of no class.
    """
    values = decode.source_values(source)
    if values.shape != native:
        (height, width), (image_height, image_width) = values.shape, native
        raise MaskFault(
            "mask_size", f"is {width} x {height} pixels, its image {image_width} x {image_height}"
        )
    return decode.class_mask(values, classes)


def decode_masks(
    sources: Sequence[ImageSource],
    natives: Sequence[Size],
    classes: MaskClasses,
    size: int,
    cache_dir: Path,
    num_workers: int,
    progress: Progress | None = None,
) -> MaskRows:
    """Opens R masks at the working size, reading those that are not in the cache.

    ``natives`` are the sizes of their images; ``progress`` is called with (done, total) while masks
    are read.

    Raises:
        DataError: If a mask shows that the values of all of them must be named.
    """
    contents, unreadable = content_digests(sources, cache_dir, num_workers)
    rule = digest(_code(), repr(classes).encode())
    names = [
        digest(rule, content, repr(native).encode())
        for content, native in zip(contents, natives, strict=True)
    ]
    first, rows = distinct(names, unreadable)

    def read(index: int) -> Row | CorruptImage:
        try:
            return _row(sources[index], classes, natives[index], size)
        except CorruptImage as fault:
            return fault

    cached = decoded_rows(
        [sources[index] for index in first],
        [names[index] for index in first],
        DecodeSettings(size, channels=1),
        cache_dir,
        num_workers,
        progress,
        source=lambda: map_in_order(read, first, num_workers),
    )
    counts = np.zeros((len(rows), 1 + len(classes.names)), np.int64)
    grey = np.zeros(len(rows), bool)
    faults: dict[int, tuple[str, str]] = {}
    measured = {row: json.loads(text) for row, text in cached.labels.items()}
    for index, row in enumerate(rows.tolist()):
        if index in unreadable:
            faults[index] = "missing", unreadable[index]
        elif row in cached.failures:
            kind, _, reason = cached.failures[row].partition(": ")
            if (
                kind == decode.VOID
            ):  # It concerns all masks, so that leaving this one out would not help.
                raise DataError(f"{name_of_source(sources[index])} {reason}")
            faults[index] = kind, reason
        else:
            counts[index], grey[index] = measured[row]["counts"], measured[row]["grey"]
    return MaskRows(tuple(sources), classes, cached, rows, counts, grey, faults)


def values_in_masks(
    sources: Sequence[ImageSource], cache_dir: Path, num_workers: int
) -> MaskClasses:
    """The classes of mask_classes='auto': every value that occurs in readable masks."""
    contents, unreadable = content_digests(sources, cache_dir, num_workers)
    key = digest(_code(), *sorted(set(contents))).hex()
    memo = cache_dir / f"values-{key}.sealed"
    if (known := read_sealed(memo)) is not None:
        return classes_of_values(json.loads(known))

    def values(index: int) -> list[int]:
        try:
            return [int(value) for value in np.unique(decode.source_values(sources[index]))]
        except CorruptImage:
            return []  # ``decode_masks`` names it.

    readable = [index for index in range(len(sources)) if index not in unreadable]
    present = sorted({v for some in map_in_order(values, readable, num_workers) for v in some})
    write_sealed(memo, json.dumps(present).encode())
    return classes_of_values(present)


def _code() -> bytes:
    """Changes when the code that reads masks does."""
    return code_stamp(image_file, decode, mask_classes)


def _row(source: ImageSource, classes: MaskClasses, native: Size, size: int) -> Row:
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
