"""Scan conversion: from beams to the picture, and where the scan lies in it."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from ufm_jax.phantoms.probe import BEAMS, SAMPLES, Probe

_UNIT = 1e-6


@dataclass(frozen=True)
class Margins:
    """How a picture is cut around the scan, as shares of the scan's width or height.

    Attributes:
        sides: Black on either side; negative cuts into a fan.
        above: Black above.
        below: Black below; negative cuts the deepest part off.
    """

    sides: float = 0.0
    above: float = 0.0
    below: float = 0.0


@dataclass(frozen=True)
class Layout:
    """A picture of h x w pixels, the longer side the working size.

    Attributes:
        extent: (h, w).
        geometry: float32 [7], the scan area as ``ufm_jax.data.federated`` defines it; a rectangle's
            edges are the centres of its first and last pixels.
        beams: float32 [2, h, w], fractional (sample, beam) behind each pixel.
        scale: Pixels per millimetre.
        origin: (row, column) of the middle of the probe's face.
    """

    extent: tuple[int, int]
    geometry: np.ndarray
    beams: np.ndarray
    scale: float
    origin: tuple[float, float]


@lru_cache(maxsize=64)
def picture_layout(probe: Probe, margins: Margins, size: int) -> Layout:
    """Lays a probe's scan out in a picture whose longer side has ``size`` pixels."""
    left, top, right, bottom = _box(probe, margins)
    scale = (size - 1) / max(right - left, bottom - top)
    h = int(np.floor((bottom - top) * scale + _UNIT)) + 1
    w = int(np.floor((right - left) * scale + _UNIT)) + 1
    origin = (-top * scale, -left * scale)
    rows, cols = np.arange(h)[:, None], np.arange(w)[None, :]
    z, x = (rows - origin[0]) / scale, (cols - origin[1]) / scale
    if probe.is_sector:
        r = np.hypot(z + probe.radius, x) - probe.radius
        across = np.arctan2(x, z + probe.radius) / probe.half_angle
        apex = origin[0] - probe.radius * scale
        near, far = probe.radius * scale, (probe.radius + probe.depth) * scale
        numbers = (2, apex, origin[1], near, far, -probe.half_angle, probe.half_angle)
    else:
        r, across = np.broadcast_arrays(z, x / (probe.aperture / 2))
        half, deep = probe.aperture / 2 * scale, origin[0] + probe.depth * scale
        numbers = (1, origin[0], origin[1] - half, deep, origin[1] + half, 0, 0)
    beams = np.stack([r / probe.depth * (SAMPLES - 1), (across + 1) / 2 * (BEAMS - 1)])
    beams, geometry = beams.astype(np.float32), np.array(numbers, np.float32)
    for array in (beams, geometry):
        array.setflags(write=False)
    return Layout((h, w), geometry, beams, scale, origin)


def _box(probe: Probe, margins: Margins) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the picture, mm from the middle of the probe's face."""
    half, top = probe.aperture / 2, 0.0
    if probe.is_sector:
        half = (probe.radius + probe.depth) * float(np.sin(probe.half_angle))
        top = -probe.radius * (1 - float(np.cos(probe.half_angle)))
    half *= 1 + margins.sides
    height = probe.depth - top
    return -half, top - margins.above * height, half, probe.depth + margins.below * height


def scan_convert(field: np.ndarray, layout: Layout) -> np.ndarray:
    """Resamples a field [R, B] of the beam grid to the picture: float32 [h, w], 0 outside the scan.

    If the picture has fewer rows than the grid has samples, the field is smoothed first, so that
    speckle does not alias.
    """
    samples_per_row = float(layout.beams[0, -1, layout.extent[1] // 2]) / layout.extent[0]
    if samples_per_row > 1:
        sigma = 0.35 * np.sqrt(samples_per_row**2 - 1)
        field = ndimage.gaussian_filter1d(field, sigma, axis=0, mode="nearest")
    return ndimage.map_coordinates(
        field, layout.beams, np.float32, order=1, mode="constant", prefilter=False
    )
