"""Which images a model was trained on or chosen by, so that none of them ever tests it.

A file beside the model holds digests of the decoded images: an image is known again under another
name, in another folder and in another split.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ufm_jax.data.cache.decode import pixel_digest
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.errors import ConfigError
from ufm_jax.files import write_json
from ufm_jax.runs.stored import read_as

SEEN_FILE = "seen.json"

_NO_TEST = ("train", "val")
"""Splits whose figures are not a test."""

_AT_ONCE = 512
"""Images in memory at a time."""

_log = logging.getLogger(__name__)


class SeenImages(NamedTuple):
    """The images that a run was trained on or chosen by.

    Attributes:
        data: The fingerprint of its data, splits included.
        images: Digests of its training and validation images.
    """

    data: str
    images: frozenset[str]


def seen_images(data: LabelledData, rows: np.ndarray) -> SeenImages:
    """The images that a run sees by training on ``rows`` of ``data`` or choosing by them."""
    return SeenImages(
        data.fingerprint, frozenset(next(names) for names in _content_names(data, rows))
    )


def write_seen_images(workdir: Path, seen: SeenImages) -> None:
    """Writes into a run's folder which images the run has seen."""
    write_json(workdir / SEEN_FILE, {"data": seen.data, "images": sorted(seen.images)})


def read_seen_images(workdir: Path) -> SeenImages:
    """Reads what ``write_seen_images`` wrote.

    Raises:
        RunError: If it is damaged.
    """
    return read_as(SeenImages, workdir / SEEN_FILE, "restore it, or train in a new folder")


def rows_to_evaluate(
    seen: SeenImages, data: LabelledData, rows: Mapping[str, np.ndarray], policy: str
) -> tuple[dict[str, np.ndarray], str]:
    """Takes the images that a model has seen out of what tests it.

    Args:
        seen: What the model's run has seen.
        data: The images, of that run or of others.
        rows: Split -> rows, int64 [n]. Those of 'train' and 'val' stay, and the note says that they
            are not a test.
        policy: 'error' refuses images to take out; see ``DataSettings.duplicates``.

    Returns:
        Split -> rows, int64 [n], and what a reader must know of them, or ''.

    Raises:
        ConfigError: If nothing is left to test on, or the policy is 'error' and a test split has an
            image that was seen.
    """
    kept, notes = {}, []
    for split, asked in rows.items():
        found = (seen.images.isdisjoint(names) for names in _content_names(data, asked))
        known = ~np.fromiter(found, bool, len(asked))
        kept[split] = asked
        if not known.any():
            continue
        told = f"{split}: {known.sum()} of {len(asked)} images were trained on or chosen by"
        if split in _NO_TEST:
            notes.append(f"{told}, so that these figures are not a test.")
            continue
        told += f", such as {', '.join(data.names[row] for row in asked[known][:3])}"
        if policy == "error" or known.all():
            raise ConfigError(
                f"{told}: name other images with --config.data.root, or evaluate on the run's "
                "own test split"
            )
        notes.append(f"{told}; these are left out.")
        kept[split] = asked[~known]
    for note in notes:
        _log.info("%s", note)
    return kept, " ".join(notes)


def _content_names(data: LabelledData, rows: np.ndarray) -> Iterator[Iterator[str]]:
    """Names for the content of each row's image, see ``_names``."""
    for begin in range(0, len(rows), _AT_ONCE):
        found = data.store.images.read(rows[begin : begin + _AT_ONCE])
        for image, (height, width) in zip(found["image"], found["extent"], strict=True):
            yield _names(image[:height, :width])


def _names(picture: np.ndarray) -> Iterator[str]:
    """Names for the content of a picture, the first of which is kept.

    A grey picture has two, since one channel or three may be read of it.
    """
    grey = picture[..., :1]
    if (picture == grey).all():
        yield pixel_digest(grey).hex()
        yield pixel_digest(grey.repeat(3, -1)).hex()
    else:
        yield pixel_digest(picture).hex()
