"""Simulated images as folders of files, laid out as a user's own would be, to try every command.

institutions/SITE/*.png     without labels, a folder an institution: to pretrain on
index.csv                   lists these, so that the whole may serve as one set among others
diagnosis/CLASS/*.png       a folder a class: to fine-tune on
segmentation/image/*.png    and segmentation/mask/*.png, equal names: to fine-tune on
elsewhere/CLASS/*.png       from institutions that gave no other image: to evaluate on
unlabelled/*.png            from there too: to predict
"""

import os
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from ufm_jax.errors import DataError
from ufm_jax.files import write_text
from ufm_jax.phantoms.generate import phantom
from ufm_jax.phantoms.lesion import LABEL_NAMES
from ufm_jax.threads import map_in_order

_ELSEWHERE = 2
"""Institutions that take no part in training."""


def write_phantoms(
    out: Path,
    *,
    sites: int = 8,
    images: int = 100,
    size: int = 200,
    seed: int = 0,
    workers: int = 0,
) -> dict[str, int]:
    """Simulates images and writes them.

    Args:
        out: A new folder.
        sites: Institutions that train.
        images: Images of each site: the first half without labels, the other with labels and masks.
        size: Longer side of the pictures.
        seed: The same seed gives the same files.
        workers: Threads; 0 = one a core. No number changes the files.

    Returns:
        Images in each folder.

    Raises:
        DataError: If the folder exists, or a number is too small.
    """
    if out.exists():
        raise DataError(f"{out} exists: remove it, or name another folder")
    if sites < 1 or images < 2:
        raise DataError(f"{sites} sites of {images} images: use 1 or more sites of 2 or more")
    half = images // 2
    plans = [(site, index) for site in range(sites + _ELSEWHERE) for index in range(images)]

    def make(plan: tuple[int, int]) -> tuple[str, ...]:
        site, index = plan
        made = phantom(seed, site, index, size)
        name, label = f"site{site}_{index:03d}.png", LABEL_NAMES[made.label]
        if site >= sites:
            places: tuple[str, ...] = (f"elsewhere/{label}",) if index < half else ("unlabelled",)
        elif index < half:
            places = (f"institutions/site{site}",)
        else:
            places = (f"diagnosis/{label}", "segmentation/image")
            _save(out / "segmentation/mask" / name, made.picture_of(255 * made.mask))
        for place in places:
            _save(out / place / name, made.picture_of(made.image))
        return tuple(place.split("/")[0] for place in places)

    placed = map_in_order(make, plans, workers or os.cpu_count() or 1)
    counts = Counter(chain.from_iterable(placed))
    found = sorted((out / "institutions").glob("*/*.png"))
    lines = [f"{path.relative_to(out).as_posix()},{path.parent.name}" for path in found]
    write_text(out / "index.csv", "\n".join(["image,site", *lines, ""]))
    return dict(counts)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
