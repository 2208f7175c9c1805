"""Outlines: closed blobs and layers, as soft maps on the beam grid."""

import math
from dataclasses import dataclass

import numpy as np

from ufm_jax.phantoms.noise import noise
from ufm_jax.phantoms.probe import Grid


@dataclass(frozen=True)
class Blob:
    """A closed outline: an ellipse whose radius is modulated around it.

    Attributes:
        x, z: Centre, mm.
        a, b: Half axes, mm; ``a`` lies along the lateral direction before rotation.
        angle: Rotation, radians.
        harmonics: (waves around the outline, relative amplitude, phase) for each modulation.
    """

    x: float
    z: float
    a: float
    b: float
    angle: float = 0.0
    harmonics: tuple[tuple[int, float, float], ...] = ()


def own_axes(blob: Blob, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along a blob's half axes, in units of them; each float32 [R, B]."""
    dx, dz = grid.x - float(blob.x), grid.z - float(blob.z)
    cos, sin = math.cos(blob.angle), math.sin(blob.angle)
    return (dx * cos + dz * sin) / float(blob.a), (dz * cos - dx * sin) / float(blob.b)


def distance(blob: Blob, grid: Grid) -> np.ndarray:
    """Signed distance to an outline, mm, negative inside; first order, so exact near the outline.

    With rho = |(u/a, w/b)| in the blob's own axes and R(phi) the modulated radius, the distance is
    (rho - R) / |grad rho|, float32 [R, B].
    """
    u, w = own_axes(blob, grid)
    rho = np.sqrt(u * u + w * w) + 1e-3
    gradient = np.hypot(u / float(blob.a), w / float(blob.b)) / rho + 1e-3
    radius: np.ndarray | float = 1.0
    if blob.harmonics:
        phi = np.arctan2(w, u)
        radius = 1.0 + sum(size * np.cos(k * phi + phase) for k, size, phase in blob.harmonics)
    return np.asarray((rho - radius) / gradient, np.float32)


def inside(signed_distance: np.ndarray, softness: float) -> np.ndarray:
    """1 inside an outline, 0 outside, a ramp ``softness`` mm wide between."""
    return np.clip(0.5 - signed_distance / softness, 0.0, 1.0)


def rim(signed_distance: np.ndarray, width: float) -> np.ndarray:
    """1 on an outline; a smooth bump that ends at twice ``width`` mm, so that no tail shows."""
    return np.square(np.maximum(1.0 - np.square(signed_distance / (2 * width)), 0.0))


def facing(signed_distance: np.ndarray, grid: Grid) -> np.ndarray:
    """|cosine| between an outline's normal and the beam: 1 where the sound returns to the probe."""
    slope = np.empty_like(signed_distance)
    slope[1:-1] = (signed_distance[2:] - signed_distance[:-2]) / (2 * grid.step)
    slope[0], slope[-1] = slope[1], slope[-2]
    return np.clip(np.abs(slope), 0.0, 1.0)


def interface(
    rng: np.random.Generator, grid: Grid, depth: float, waviness: float, wavelength: float
) -> np.ndarray:
    """A boundary that roughly follows the probe's face: its range in mm, float32 [1, B].

    Args:
        rng: Source of randomness.
        grid: The beam grid.
        depth: Mean range, mm.
        waviness: Standard deviation of the range, mm.
        wavelength: Correlation length across the face, mm.
    """
    return depth + waviness * noise(rng, grid.s / wavelength)


def band(grid: Grid, top: np.ndarray | float, bottom: np.ndarray, softness: float) -> np.ndarray:
    """1 between two boundaries, with ramps ``softness`` mm wide; [R, B]."""
    below = np.clip(0.5 + (grid.r - top) / softness, 0.0, 1.0)
    above = np.clip(0.5 + (bottom - grid.r) / softness, 0.0, 1.0)
    return below * above


def random_harmonics(
    rng: np.random.Generator, waves: range, size: float
) -> tuple[tuple[int, float, float], ...]:
    """Modulations of one relative size at random phases, weaker the more waves they have."""
    amplitudes = size * np.abs(rng.standard_normal(len(waves))) * waves.start / np.array(waves)
    phases = rng.uniform(0, 2 * np.pi, len(waves))
    return tuple(zip(waves, amplitudes.tolist(), phases.tolist(), strict=True))
