"""The reconstructions as one PNG, for a README or a slide."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ufm_jax.files import replacing
from ufm_jax.objectives.pictures import Pictures

COLUMNS = (
    ("masked", "what the encoder sees"),
    ("reconstruction", "reconstruction"),
    ("clean", "original"),
)
RECONSTRUCTION_FILE = "reconstructions.png"

_CELL, _GAP, _HEAD, _MARGIN = 224, 10, 34, 16
_INK = (58, 66, 78)


def write_reconstruction_png(
    workdir: str | os.PathLike[str], pictures: Pictures, *, rows: int = 4
) -> Path:
    """Writes the first ``rows`` examples as ``COLUMNS`` side by side, and returns the path.

    Args:
        workdir: Existing folder.
        pictures: At least one example.
        rows: The largest number of examples that are shown.
    """
    count = min(rows, len(pictures.captions))
    if count == 0:
        raise ValueError(
            f"{workdir}/{RECONSTRUCTION_FILE}: no example pictures were given to write there"
        )
    width = 2 * _MARGIN + len(COLUMNS) * _CELL + (len(COLUMNS) - 1) * _GAP
    canvas = Image.new("RGB", (width, _HEAD + _MARGIN + count * (_CELL + _GAP) - _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=17)
    for column, (name, heading) in enumerate(COLUMNS):
        left = _MARGIN + column * (_CELL + _GAP)
        draw.text((left + _CELL / 2, _HEAD / 2 + 1), heading, fill=_INK, font=font, anchor="mm")
        for row in range(count):
            image = _cell(getattr(pictures, name)[row])
            canvas.paste(image, (left, _HEAD + row * (_CELL + _GAP)))
    path = Path(workdir) / RECONSTRUCTION_FILE
    with replacing(path) as partial:
        canvas.save(partial, format="PNG", optimize=True)
    return path


def _cell(image: np.ndarray) -> Image.Image:
    """Fits an image into a square cell, aspect kept, on a faint ground."""
    picture = Image.fromarray(image).convert("RGB")
    scale = _CELL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    cell = Image.new("RGB", (_CELL, _CELL), (242, 244, 246))
    cell.paste(
        picture.resize(size, Image.Resampling.BICUBIC),
        ((_CELL - size[0]) // 2, (_CELL - size[1]) // 2),
    )
    return cell
