"""A mask file becomes an array of class numbers: never interpolated, never read as a picture."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ufm_jax.data.decode import CorruptImage
from ufm_jax.data.mask_classes import (
    BACKGROUND,
    COLOUR,
    IGNORE,
    MaskClasses,
    value_name,
)

_HALF = 128
_FULL_SCALES = (1, 255, 65535)
_SHOWN = 8


class MaskFault(CorruptImage):
    """A mask that cannot be used; its text is 'kind: reason', with a kind of issue."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")


class ClassMask(NamedTuple):
    """A decoded mask.

    Attributes:
      numbers: uint8 [H, W], class numbers, 0 = background, 255 = ignore.
      grey: whether it held greys that were thresholded.
    """

    numbers: np.ndarray
    grey: bool


def decode_values(content: bytes | np.ndarray) -> np.ndarray:
    """Decodes a mask file to the values that it holds.

    EXIF orientation is applied and alpha dropped, as for images. Of a palette image the indices
    count, unless all colours of the palette are grey: then their levels do. A coloured pixel
    becomes the value that `mask_classes.value_of_colour` gives it.

    Args:
      content: content of an image file; or values, which are handed back.

    Returns:
      int32 [H, W].

    Raises:
      MaskFault: it does not decode, has several frames or holds fractions.
    """
    if isinstance(content, np.ndarray):
        return content.astype(np.int32)
    try:
        with Image.open(io.BytesIO(content)) as opened:
            frames = int(getattr(opened, "n_frames", 1))
            image = ImageOps.exif_transpose(opened)
            image.load()
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise anything at all on broken bytes
        raise MaskFault("corrupt", f"does not decode: {error}") from error
    if frames > 1:
        raise MaskFault("corrupt", f"holds {frames} frames, and a mask is one")
    if image.mode == "F":
        raise MaskFault("corrupt", "holds fractions, and a mask holds classes")
    if image.mode == "P":
        return _palette_values(image)
    if image.mode in ("LA", "La"):
        image = image.convert("L")
    if image.mode in ("1", "L") or image.mode.startswith("I"):
        return np.asarray(image).astype(np.int32)
    return _colour_values(np.asarray(image.convert("RGB")))


def _palette_values(image: Image.Image) -> np.ndarray:
    """Indices, or levels where the palette is grey; [H, W] in P mode -> int32 [H, W]."""
    indices = np.asarray(image).astype(np.int32)
    # The whole palette decides, not the colours in use: masks of one set must be read alike, also
    # those that lack a class. Writers fill palettes up with greys, which turn no palette coloured.
    colours = np.array(image.getpalette(), np.int32).reshape(-1, 3)
    if (colours != colours[:, :1]).any():
        return indices
    if indices.max() >= len(colours):
        raise MaskFault(
            "corrupt", f"holds the index {indices.max()} of a palette of {len(colours)} colours"
        )
    return colours[indices, 0]


def _colour_values(colours: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> int32 [H, W]."""
    grey = (colours == colours[..., :1]).all(axis=-1)
    wide = colours.astype(np.int32)
    packed = COLOUR | wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return np.where(grey, wide[..., 0], packed)


def class_mask(values: np.ndarray, classes: MaskClasses) -> ClassMask:
    """Turns values into class numbers.

    A binary mask holds 0 and one full scale (1, 255 or 65535) as it is. Other greys that reach
    half of 255, as antialiasing and JPEG leave them, are thresholded there.

    Args:
      values: int32 [H, W].
      classes: what they mean.

    Raises:
      MaskFault: a value means nothing.
    """
    found = np.unique(values)
    if classes.numbers:
        number = dict(classes.numbers)
        if unknown := [int(value) for value in found if int(value) not in number]:
            raise MaskFault(
                "unknown_class",
                f"holds {_listed(unknown)}, not among the values of mask_classes "
                f"{_listed([value for value, _ in classes.numbers])}",
            )
        table = np.array([number[int(value)] for value in found], np.uint8)
        return ClassMask(table[np.searchsorted(found, values)], False)
    if any(set(found.tolist()) <= {0, full} for full in _FULL_SCALES):
        return ClassMask((values > 0).astype(np.uint8), False)
    if found[0] < 0 or found[-1] > 255 or found[-1] < _HALF:
        raise MaskFault(
            "unknown_class",
            f"holds {_listed(found.tolist())}, neither 0 and 1, nor 0 and 255, nor greys up to "
            "white: name the values in mask_classes, such as '2:kidney'",
        )
    return ClassMask((values >= _HALF).astype(np.uint8), True)


def scale_mask(numbers: np.ndarray, extent: tuple[int, int], size: int) -> np.ndarray:
    """Puts class numbers on the canvas of the working size, as `decode.make_row` puts its image.

    Args:
      numbers: uint8 [H, W].
      extent: (height, width) of the picture on the canvas; each pixel takes the class of the
        nearest pixel of `numbers`.
      size: S.

    Returns:
      uint8 [S, S], 255 outside the picture.
    """
    canvas = np.full((size, size), IGNORE, np.uint8)
    image = Image.fromarray(numbers).resize((extent[1], extent[0]), Image.Resampling.NEAREST)
    canvas[: extent[0], : extent[1]] = np.asarray(image)
    return canvas


def pixels_of_classes(numbers: np.ndarray, num_classes: int) -> list[int]:
    """Pixels of background and of each class, 1 + num_classes numbers; ignored ones not counted."""
    counts = np.bincount(numbers.reshape(-1), minlength=256)
    return [int(count) for count in counts[BACKGROUND : num_classes + 1]]


def _listed(values: list[int]) -> str:
    """The first few values as text."""
    more = ", ..." if len(values) > _SHOWN else ""
    noun = "the value" if len(values) == 1 else "the values"
    return f"{noun} {', '.join(map(value_name, values[:_SHOWN]))}{more}"
