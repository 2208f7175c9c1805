"""Which images a model was trained on or chosen by, so that none of them ever tests it.

Kept in the run's folder beside the model, by the content of the decoded images: under another name,
in another folder or in another split they are found all the same.
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
"""Splits by which nobody tests a model."""

_AT_ONCE = 512
"""Images in memory at a time."""

_log = logging.getLogger(__name__)


class Seen(NamedTuple):
    """What a run has seen.

    Attributes:
        data: Fingerprint of its data, splits included.
        images: Names of the content of its training and validation images.
    """

    data: str
    images: frozenset[str]


def see(data: LabelledData, rows: np.ndarray) -> Seen:
    """What a run has seen that trains on ``rows`` of ``data`` or chooses by them."""
    return Seen(data.fingerprint, frozenset(next(names) for names in _content_names(data, rows)))


def write_seen(workdir: Path, seen: Seen) -> None:
    """Keeps in a run's folder what the run has seen."""
    write_json(workdir / SEEN_FILE, {"data": seen.data, "images": sorted(seen.images)})


def read_seen(workdir: Path) -> Seen:
    """Reads what ``write_seen`` wrote.

    Raises:
        RunError: If it is damaged.
    """
    return read_as(Seen, workdir / SEEN_FILE, "restore it, or train in a new folder")


class Evaluated(NamedTuple):
    """What a model may be evaluated on.

    Attributes:
        rows: Split -> rows, int64 [n].
        note: What a reader must know of them; '' where the model has seen none.
    """

    rows: dict[str, np.ndarray]
    note: str


def evaluated_rows(
    seen: Seen, data: LabelledData, rows: Mapping[str, np.ndarray], policy: str
) -> Evaluated:
    """Takes the images that a model has seen out of what tests it.

    Args:
        seen: What its run has seen.
        data: The images, of that run or others.
        rows: Split -> rows, int64 [n]. Those of 'train' and 'val' stay, and the note says that they
            are not a test.
        policy: Under 'error' nothing is taken out; see ``DataSettings.duplicates``.

    Raises:
        ConfigError: If nothing is left to test on, or the policy is 'error' and a split for testing
            has an image that was seen.
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
    return Evaluated(kept, " ".join(notes))


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
