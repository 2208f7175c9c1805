"""Probes and the grid of echoes they see: range along each beam, and beams side by side."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SAMPLES = 208
BEAMS = 120
_SPEED_MM_PER_US = 1.54


@dataclass(frozen=True)
class Probe:
    """A transducer and its depth setting.

    Attributes:
        kind: 'linear' (parallel beams), 'convex' or 'phased' (beams from an apex behind the face).
        frequency: MHz.
        depth: Range seen, mm.
        aperture: Width of the active face, mm; a linear probe sees exactly this width.
        radius: Distance of the face from the apex, mm; 0 for linear.
        half_angle: Largest beam angle, radians; 0 for linear.
    """

    kind: str
    frequency: float
    depth: float
    aperture: float
    radius: float = 0.0
    half_angle: float = 0.0

    @property
    def wavelength(self) -> float:
        """Wavelength in soft tissue, mm."""
        return _SPEED_MM_PER_US / self.frequency

    @property
    def is_sector(self) -> bool:
        """True if the beams fan out."""
        return self.kind != "linear"


@dataclass(frozen=True)
class Grid:
    """Where each echo comes from; all float32, R samples along B beams.

    Attributes:
        probe: The probe.
        step: Distance of two samples, mm.
        r: [R, 1], range from the face, mm.
        s: [1, B], position across the face, mm: what layers that follow the face vary along.
        x: [R, B], lateral position, mm, positive to the right.
        z: [R, B], depth below the middle of the face, mm.
        pitch: [R, 1], distance of two neighbouring beams, mm.
    """

    probe: Probe
    step: float
    r: np.ndarray
    s: np.ndarray
    x: np.ndarray
    z: np.ndarray
    pitch: np.ndarray

    @property
    def half_width(self) -> float:
        """Half the width seen at half depth, mm."""
        return float(self.x[SAMPLES // 2, -1])


@lru_cache(maxsize=64)
def beam_grid(probe: Probe) -> Grid:
    """The echo positions of a probe."""
    r = np.linspace(0.0, probe.depth, SAMPLES)[:, None]
    across = np.linspace(-1.0, 1.0, BEAMS)[None, :]
    if probe.is_sector:
        theta = across * probe.half_angle
        x = (probe.radius + r) * np.sin(theta)
        z = (probe.radius + r) * np.cos(theta) - probe.radius
        s = (probe.radius + probe.depth / 4) * theta
        pitch = (probe.radius + r) * (2 * probe.half_angle / (BEAMS - 1))
    else:
        s = across * (probe.aperture / 2)
        x, z = np.broadcast_arrays(s, r)
        pitch = np.full_like(r, probe.aperture / (BEAMS - 1))
    return Grid(probe, probe.depth / (SAMPLES - 1), *map(_frozen, (r, s, x, z, pitch)))


def _frozen(array: np.ndarray) -> np.ndarray:
    copy = np.array(array, np.float32)
    copy.setflags(write=False)
    return copy
