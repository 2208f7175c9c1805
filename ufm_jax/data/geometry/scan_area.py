"""The scan area of a picture: a linear probe's rectangle, or a convex or phased probe's fan."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Kind(IntEnum):
    """Shape of a scan area."""

    UNKNOWN = 0
    LINEAR = 1
    SECTOR = 2


@dataclass(frozen=True)
class Rectangle:
    """Scan area of a linear probe; pixels, centres at integers, edges included."""

    top: float
    left: float
    bottom: float
    right: float

    def to_array(self) -> np.ndarray:
        """Float32 [7], (kind, top, left, bottom, right, 0, 0)."""
        numbers = (Kind.LINEAR, self.top, self.left, self.bottom, self.right, 0, 0)
        return np.array(numbers, np.float32)

    def beyond(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Pixels by which points lie outside the area; negative inside."""
        vertical = np.maximum(self.top - rows, rows - self.bottom)
        return np.maximum(vertical, np.maximum(self.left - columns, columns - self.right))


@dataclass(frozen=True)
class Sector:
    """Scan area of a convex or phased probe.

    Attributes:
        apex_row: Where the beams meet, pixels; usually above the picture.
        apex_column: Likewise.
        r_min: Distance of the probe's face from the apex, pixels.
        r_max: Distance of the deepest echoes from the apex, pixels.
        theta_min: Leftmost beam, radians from straight down, positive to the right.
        theta_max: Rightmost beam, likewise.
    """

    apex_row: float
    apex_column: float
    r_min: float
    r_max: float
    theta_min: float
    theta_max: float

    def to_array(self) -> np.ndarray:
        """Float32 [7], (kind, apex row, apex column, r_min, r_max, theta_min, theta_max)."""
        apex, radii = (self.apex_row, self.apex_column), (self.r_min, self.r_max)
        return np.array((Kind.SECTOR, *apex, *radii, self.theta_min, self.theta_max), np.float32)

    def polar(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Radius (pixels) and angle (radians) of points."""
        down, right = rows - self.apex_row, columns - self.apex_column
        return np.hypot(down, right), np.arctan2(right, down)

    def beyond(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Pixels, roughly, by which points lie outside the area; negative inside."""
        r, theta = self.polar(rows, columns)
        aside = np.maximum(r * (theta - self.theta_max), r * (self.theta_min - theta))
        return np.maximum(np.maximum(self.r_min - r, r - self.r_max), aside)


ScanArea = Rectangle | Sector | None
"""A scan area; None = unknown."""
