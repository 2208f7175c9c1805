"""A mask file becomes an array of class numbers: never interpolated, never read as a picture."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from ufm_jax.data.image_file import CorruptImage, FileImage, read_image_file
from ufm_jax.data.labels.masks.classes import BACKGROUND, COLOUR, IGNORE, MaskClasses, value_name
from ufm_jax.data.records import ImageSource, Picture, load_source

VOID = "void"
"""The kind of a fault in what values mean, which concerns all masks of a set."""

_HALF = 128
_FULL_SCALES = (1, 255, 65535)
_FEWEST_GREY = 32
"""Greys of antialiasing and of JPEG reach beyond this level in every mask that has them."""
_MOST = 2**24 - 1
_SHOWN = 8


class MaskFault(CorruptImage):
    """A mask that cannot be used; its text is 'kind: reason', with a kind of ``Issue``."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")


class ClassMask(NamedTuple):
    """A decoded mask: class numbers, uint8 [H, W], 0 = background, 255 = ignore.

    ``grey`` says whether it held greys that were thresholded.
    """

    numbers: np.ndarray
    grey: bool


def source_values(source: ImageSource) -> np.ndarray:
    """The values of a mask, int32 [H, W]; see ``decode_values``.

    Raises:
        MaskFault: If it cannot be read or decoded.
    """
    try:
        content = load_source(source)
    except OSError as error:
        raise MaskFault("missing", f"cannot be read: {error.strerror or error}") from error
    return decode_values(content.pixels if isinstance(content, Picture) else content)


def decode_values(content: bytes | np.ndarray) -> np.ndarray:
    """Decodes a mask file to the values that it holds.

    EXIF orientation is applied; 0 is black, also where the file stores white as 0. A palette image
    gives its indices, or, if all colours of the palette are grey, their levels. A coloured pixel
    becomes the value that ``mask_classes.value_of_colour`` gives it. Alpha never decides: it is
    dropped where it is the same everywhere, or 0 exactly where the value is 0 and full elsewhere,
    and refused otherwise.

    Args:
        content: Content of an image file; or values, which are returned.

    Returns:
        int32 [H, W].

    Raises:
        MaskFault: If it does not decode, has several frames, or holds fractions or alpha that
            matters.
    """
    if isinstance(content, np.ndarray):
        return content.astype(np.int32)
    try:
        stored = read_image_file(content)
    except CorruptImage as error:
        raise MaskFault("corrupt", str(error)) from error
    if stored.frames > 1:
        raise MaskFault("corrupt", f"holds {stored.frames} frames, and a mask is one")
    if stored.samples.dtype.kind == "f":
        raise MaskFault("corrupt", "holds fractions, and a mask holds classes")
    if not stored.exact:
        raise MaskFault("corrupt", "is scaled to another depth by its format: save it as PNG")
    values = _values(stored)
    if stored.alpha is not None:
        _check_alpha(stored.alpha, values)
    return values


def _values(stored: FileImage) -> np.ndarray:
    """The value of each pixel, int32 [H, W]."""
    if stored.codes is not None:
        codes = stored.codes.astype(np.int32)
        return codes if stored.palette is None else _palette_values(codes, stored.palette)
    samples = stored.samples
    coloured = samples.shape[-1] == 3 and (samples != samples[..., :1]).any()
    if coloured and samples.dtype == np.uint16 and not (samples % 257).any():
        samples = (samples // 257).astype(np.uint8)  # colours of 8 bits, written as 16
    if not -_MOST <= samples.min().item() <= samples.max().item() <= _MOST:
        raise MaskFault("unknown_class", f"holds values beyond {_MOST}, and a mask holds classes")
    wide = samples.astype(np.int32)
    if stored.white_is_zero:
        low, high = stored.range or (0, 0)
        wide = int(low + high) - wide
    if not coloured:
        return wide[..., 0]
    if samples.dtype != np.uint8:
        raise MaskFault("unknown_class", "holds colours of more than 8 bits: save it with 8")
    grey = (wide == wide[..., :1]).all(axis=-1)
    packed = COLOUR | wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return np.where(grey, wide[..., 0], packed)


def _palette_values(indices: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Indices, or levels where the palette is grey, int32 [H, W]."""
    # The whole palette decides, not the colours in use: masks of one set must be read alike, even
    # those that lack a class. Writers fill palettes up with greys, which do not make them coloured.
    if (palette != palette[:, :1]).any():
        return indices
    if indices.max() >= len(palette):
        raise MaskFault(
            "corrupt", f"holds the index {indices.max()} of a palette of {len(palette)} colours"
        )
    return palette[indices, 0].astype(np.int32)


def _check_alpha(alpha: np.ndarray, values: np.ndarray) -> None:
    """Refuses a mask whose alpha could mean something else than its values."""
    least, most = alpha.min(), alpha.max()
    if least != most and ((alpha != np.where(values == 0, least, most)).any() or least != 0):
        raise MaskFault(
            "unknown_class",
            f"has alpha from {least} to {most} that its values do not explain: save it without",
        )


def class_mask(values: np.ndarray, classes: MaskClasses) -> ClassMask:
    """Turns values into class numbers.

    A binary mask holds 0 and one full scale (1, 255 or 65535) as it is. Other greys that reach
    half of 255, as antialiasing and JPEG leave them, are thresholded there. Low codes beside 255
    and nothing between are not greys: 255 may be the void ring of a map of classes, or its object.

    Args:
        values: int32 [H, W].
        classes: What the values mean.

    Raises:
        MaskFault: If a value has no meaning.
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
    codes = [int(value) for value in found if 0 < value < IGNORE]
    if found[-1] == IGNORE and codes and codes[-1] < _FEWEST_GREY:
        raise MaskFault(
            VOID,
            f"holds {_listed(found.tolist())}: 255 may be void or the object; name the values, "
            "such as mask_classes=('1:object', '255:ignore')",
        )
    return ClassMask((values >= _HALF).astype(np.uint8), True)


def scale_mask(numbers: np.ndarray, extent: tuple[int, int], size: int) -> np.ndarray:
    """Puts class numbers, uint8 [H, W], on a canvas, as ``decode.make_row`` puts its image.

    ``extent`` is the (height, width) of the picture on the canvas; each of its pixels takes the
    class of the nearest pixel of ``numbers``.

    Returns:
        uint8 [S, S], 255 outside the picture.
    """
    canvas = np.full((size, size), IGNORE, np.uint8)
    image = Image.fromarray(numbers).resize((extent[1], extent[0]), Image.Resampling.NEAREST)
    canvas[: extent[0], : extent[1]] = np.asarray(image)
    return canvas


def pixels_of_classes(numbers: np.ndarray, num_classes: int) -> list[int]:
    """Pixels of background and of each class, 1 + num_classes numbers, without ignored pixels."""
    counts = np.bincount(numbers.reshape(-1), minlength=256)
    return [int(count) for count in counts[BACKGROUND : num_classes + 1]]


def _listed(values: list[int]) -> str:
    """The first few values as text."""
    more = ", ..." if len(values) > _SHOWN else ""
    noun = "the value" if len(values) == 1 else "the values"
    return f"{noun} {', '.join(map(value_name, values[:_SHOWN]))}{more}"
