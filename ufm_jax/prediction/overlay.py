"""Regions drawn over a picture: a light tint, and an outline that does not hide what it bounds."""

import colorsys

import numpy as np
from scipy import ndimage

_FIRST_HUE, _GOLDEN = 0.12, 0.6180339887
_SATURATION = 0.75
_TINT = 0.16
_PIXELS_PER_LINE = 250


def class_colour(number: int) -> tuple[int, int, int]:
    """Red, green and blue of class ``number`` >= 1: amber first, then hues far from each other."""
    hue = (_FIRST_HUE + (number - 1) * _GOLDEN) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, _SATURATION, 1)
    return round(255 * red), round(255 * green), round(255 * blue)


def rim(region: np.ndarray, width: int) -> np.ndarray:
    """The outermost ``width`` pixels of a region, bool [H, W], except at the picture's border."""
    inner = ndimage.binary_erosion(region, iterations=width, border_value=1)
    edge: np.ndarray = region & ~inner
    return edge


def draw_regions(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draws the regions of a mask over its picture.

    Outlines lie inside the regions and are thicker on larger pictures. A region has no outline
    where it reaches the picture's border.

    Args:
        pixels: uint8 [H, W, 1 or 3].
        mask: uint8 [H, W], class numbers, 0 = background.

    Returns:
        uint8 [H, W, 3].
    """
    drawn = np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels.copy()
    thickness = max(1, round(max(mask.shape) / _PIXELS_PER_LINE))
    for number in np.unique(mask[mask > 0]).tolist():
        region = mask == number
        outline = rim(region, thickness)
        inner = region & ~outline
        for channel, level in enumerate(class_colour(number)):
            plane = drawn[..., channel]
            tinted = np.rint((1 - _TINT) * np.arange(256) + _TINT * level).astype(np.uint8)
            np.copyto(plane, tinted[plane], where=inner)
            np.copyto(plane, np.uint8(level), where=outline)
    return drawn
