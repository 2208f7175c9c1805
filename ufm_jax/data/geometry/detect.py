"""Finds the scan area of an ultrasound picture: a linear probe's rectangle or a convex probe's fan.

The scan area is what differs from the flat background around it. A wrong fan would bend anatomy,
and an unknown one does no harm: what neither shape explains is left unknown.
"""

import numpy as np
from scipy import ndimage

from ufm_jax.data.geometry.fit_fan import fit_fan
from ufm_jax.data.geometry.scan_area import Rectangle, ScanArea

_LEAST_SIDE = 16
_FLAT = 3
"""Grey levels that JPEG leaves in a flat part."""
_BRIGHTEST_BACKGROUND = 64
_BLACK_SHARE, _GREY_SHARE = 0.015, 0.05
"""Least share of a picture that is background, if black or grey; dark tissue is flat too."""
_RIVAL_SHARE = 0.3
_ISLAND_SHARE = 0.002
_ISLAND_WIDTH = 0.03

_LINE_SHARE = 0.3
_LEAST_FILLED = 0.85
_MOST_STRAY = 0.02
_CORNER = 0.08
_LEAST_CORNER = 0.5


def detect_geometry(image: np.ndarray) -> np.ndarray:
    """The scan area of a picture, uint8 [h, w] or [h, w, C].

    Returns:
        float32 [7] in pixels of the picture: (0, ...) unknown; (1, top, left, bottom, right, 0, 0)
        linear; (2, apex row, apex column, r_min, r_max, theta_min, theta_max) sector.

    Raises:
        ValueError: If the picture has another type or shape.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"a picture is uint8 [h, w] or [h, w, C], got {image.dtype} {image.shape}")
    found = find_scan_area(image.max(axis=2) if image.ndim == 3 else image)
    return np.zeros(7, np.float32) if found is None else found.to_array()


def find_scan_area(grey: np.ndarray) -> ScanArea:
    """The scan area of a grey picture, uint8 [h, w]; None where it is unknown."""
    if min(grey.shape) < _LEAST_SIDE:
        return None
    area = foreground(grey)
    return fit_fan(area) or fit_rectangle(area)


def foreground(grey: np.ndarray) -> np.ndarray:
    """Where a picture, uint8 [h, w], shows echoes: bool [h, w].

    Background is flat, and the darkest level that much of the flat part has. Thin bars, text and
    other small islands are left out.
    """
    spread = ndimage.maximum_filter(grey, 3) - ndimage.minimum_filter(grey, 3)
    shares = np.bincount(grey[spread <= _FLAT], minlength=256)[:_BRIGHTEST_BACKGROUND] / grey.size
    least = np.where(np.arange(shares.size) <= _FLAT, _BLACK_SHARE, _GREY_SHARE)
    common = np.flatnonzero(shares >= np.maximum(least, _RIVAL_SHARE * shares.max()))
    if not common.size:
        return np.ones(grey.shape, bool)
    differs = np.abs(grey.astype(np.int16) - common[0]) > _FLAT
    islands, count = ndimage.label(ndimage.binary_opening(differs, np.ones((3, 3))))
    large = np.bincount(islands.ravel(), minlength=count + 1) >= _ISLAND_SHARE * grey.size
    large[0] = False
    for island, (rows, columns) in enumerate(ndimage.find_objects(islands), 1):
        narrow = min(rows.stop - rows.start, columns.stop - columns.start)
        large[island] &= narrow >= _ISLAND_WIDTH * max(grey.shape)
    return large[islands]


def fit_rectangle(area: np.ndarray) -> Rectangle | None:
    """The rectangle that a scan area, bool [h, w], fills up to its corners; None if it does not."""
    area = ndimage.binary_fill_holes(area)
    rows = np.flatnonzero(area.mean(axis=1) >= _LINE_SHARE)
    columns = np.flatnonzero(area.mean(axis=0) >= _LINE_SHARE)
    if min(rows.size, columns.size) < _LEAST_SIDE:
        return None
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    box = area[top : bottom + 1, left : right + 1]
    if box.mean() < _LEAST_FILLED or box.sum() < (1 - _MOST_STRAY) * area.sum():
        return None
    # If corners are missing, the picture cuts a fan.
    corner = round(_CORNER * min(box.shape))
    ends = (slice(None, corner), slice(-corner, None))
    if min(box[ys, xs].mean() for ys in ends for xs in ends) < _LEAST_CORNER:
        return None
    return Rectangle(float(top), float(left), float(bottom), float(right))
