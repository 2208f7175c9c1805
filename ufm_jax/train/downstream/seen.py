"""Which images a model was trained on or chosen by, so that none of them ever tests it.

Kept in the run's folder beside the model, by the content of the decoded images: under another name,
in another folder or in another split they are found all the same.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ufm_jax.data.decode import pixel_digest
from ufm_jax.data.labelled import LabelledData
from ufm_jax.files import write_json

SEEN_FILE = "seen.json"

_AT_ONCE = 512
"""Images in memory at a time."""


class Seen(NamedTuple):
    """What a run has seen.

    Attributes:
        data: Fingerprint of its data, splits included.
        images: Names of the content of its training and validation images.
    """

    data: str
    images: frozenset[str]


def write_seen(workdir: Path, data: LabelledData, rows: np.ndarray) -> None:
    """Notes the data and the images of ``rows``, those trained on and those chosen by."""
    names = sorted(set(_content_names(data, rows)))
    write_json(workdir / SEEN_FILE, {"data": data.fingerprint, "images": names})


def read_seen(workdir: Path) -> Seen:
    """Reads what ``write_seen`` wrote."""
    facts = json.loads((workdir / SEEN_FILE).read_text(encoding="utf-8"))
    return Seen(facts["data"], frozenset(facts["images"]))


def seen_rows(seen: Seen, data: LabelledData, rows: np.ndarray) -> np.ndarray:
    """Those of ``rows`` whose images the run has seen, int64 [n]."""
    found = [name in seen.images for name in _content_names(data, rows)]
    return rows[np.array(found, bool)]


def _content_names(data: LabelledData, rows: np.ndarray) -> list[str]:
    """A name for the content of each row's image."""
    names = []
    for begin in range(0, len(rows), _AT_ONCE):
        found = data.store.images.read(rows[begin : begin + _AT_ONCE])
        for image, (height, width) in zip(found["image"], found["extent"], strict=True):
            names.append(pixel_digest(image[:height, :width]).hex())
    return names
