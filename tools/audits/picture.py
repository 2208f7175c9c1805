"""The pictures that an attack found, beside the true ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ufm_jax.files import replacing

if TYPE_CHECKING:
    from tools.audits.leak import Leak, Pictures

_CELL, _GAP, _HEAD = 224, 10, 52
_INK = (58, 66, 78)


def write_picture(folder: Path, true: "Pictures", leaks: "Sequence[Leak]") -> Path:
    """Writes inversion.png: a row a picture, a column for the truth and one for each message."""
    columns = [("true", "", true)] + [
        (leak.title, f"{leak.decibels.mean():.1f} dB", leak.pictures) for leak in leaks
    ]
    size = len(columns) * (_CELL + _GAP) + _GAP, _HEAD + len(true) * (_CELL + _GAP)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for c, (title, score, pictures) in enumerate(columns):
        left = _GAP + c * (_CELL + _GAP)
        for text, at, points in ((title, 15, 17), (score, 37, 14)):
            font = ImageFont.load_default(size=points)
            draw.text((left + _CELL / 2, at), text, fill=_INK, font=font, anchor="mm")
        for row, pixels in enumerate(pictures):
            grey = np.clip(pixels.mean(axis=-1), 0, 255).astype(np.uint8)
            cell = (
                Image.fromarray(grey)
                .convert("RGB")
                .resize((_CELL, _CELL), Image.Resampling.NEAREST)
            )
            canvas.paste(cell, (left, _HEAD + row * (_CELL + _GAP)))
    path = folder / "inversion.png"
    with replacing(path) as partial:
        canvas.save(partial, format="PNG")
    return path
