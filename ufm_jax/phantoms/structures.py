"""Anatomy that several scenes share: the body wall, muscle, vessels and bone."""

import math

import numpy as np

from ufm_jax.phantoms.noise import noise, ridges
from ufm_jax.phantoms.probe import Grid
from ufm_jax.phantoms.shapes import Blob, band, distance, facing, inside, interface, rim
from ufm_jax.phantoms.tissue import ANECHOIC, Tissue, absorb, brighten, paint, reflect


def skin(tissue: Tissue, grid: Grid, thickness: float) -> Tissue:
    """Two bright lines with a grey band between, under the ring-down of the probe's face."""
    bottom = np.full_like(grid.s, thickness)
    tissue = paint(tissue, band(grid, -1.0, bottom, 0.3), 2.0)
    width = max(0.12, 0.5 * grid.step)
    lines = 4.0 * rim(grid.r - 0.5 * width, width) + 2.0 * rim(grid.r - thickness, width)
    return reflect(tissue, np.broadcast_to(lines, grid.x.shape))


def fat(
    tissue: Tissue,
    grid: Grid,
    rng: np.random.Generator,
    top: np.ndarray | float,
    bottom: np.ndarray,
    lobule: float,
) -> Tissue:
    """Dark lobules, ``lobule`` mm high, in a net of bright septa that run mostly along the face."""
    alpha = band(grid, top, bottom, 0.12 * lobule)
    sway = 0.35 * noise(rng, grid.s / (5 * lobule), grid.r / (5 * lobule))
    u, v = grid.s / (4.5 * lobule), grid.r / (1.1 * lobule) + sway
    net = ridges(rng, u, v, 0.08)
    net = np.maximum(net, 0.8 * ridges(rng, 0.7 * u + 0.1 * v, 1.5 * v, 0.07))
    shade = 1.5 * noise(rng, grid.s / (1.5 * lobule), grid.r / (0.8 * lobule))
    tissue = paint(tissue, alpha, -10.0 + shade + 8.0 * net, 0.6)
    return reflect(tissue, 2.6 * alpha * np.square(net))


def muscle(
    tissue: Tissue,
    grid: Grid,
    rng: np.random.Generator,
    top: np.ndarray | float,
    bottom: np.ndarray,
    tilt: float,
) -> Tissue:
    """Dark fibre bundles with bright, nearly parallel sheets between, inclined by ``tilt`` radians.

    The sheets are about 1 mm apart, or as close as the picture can show.
    """
    alpha = band(grid, top, bottom, 0.5)
    pitch = max(1.0, 7 * grid.step)
    u = grid.s * math.cos(tilt) + grid.r * math.sin(tilt)
    v = grid.r * math.cos(tilt) - grid.s * math.sin(tilt)
    v = v + 0.8 * noise(rng, u / 18, v / 12)
    sheets = ridges(rng, u / (14 * pitch), v / (1.3 * pitch), 0.22)
    fibres = noise(rng, u / (7 * pitch), v / (0.5 * pitch))
    tissue = paint(tissue, alpha, -12.0 + 7.0 * sheets + 3.5 * fibres, 2.0)
    streaks = np.square(sheets) + 0.6 * np.maximum(fibres - 0.8, 0.0)
    tissue = reflect(tissue, 0.9 * alpha * streaks)
    for edge in (top, bottom):
        tissue = fascia(tissue, grid, rng, np.asarray(edge), 2.2)
    return tissue


def fascia(
    tissue: Tissue, grid: Grid, rng: np.random.Generator, depth: np.ndarray, amplitude: float
) -> Tissue:
    """A thin bright sheet along a boundary, brighter where it faces the beam by chance."""
    strength = np.clip(0.8 + 0.6 * noise(rng, grid.s / 6), 0.05, 2.0)
    width = max(0.15, 0.7 * grid.step)
    return reflect(tissue, amplitude * strength * rim(grid.r - depth, width))


def body_wall(
    tissue: Tissue, grid: Grid, rng: np.random.Generator, thickness: float
) -> tuple[Tissue, np.ndarray]:
    """Puts skin, fat and muscle, on average ``thickness`` mm, in front of the organs.

    Returns:
        The tissue, and the wall's inner boundary, float32 [1, B], mm.
    """
    fat_end = interface(rng, grid, rng.uniform(0.35, 0.6) * thickness, 0.04 * thickness, 25)
    end = interface(rng, grid, thickness, 0.05 * thickness, 30)
    tissue = muscle(tissue, grid, rng, fat_end, end, rng.normal(0, 0.05))
    tissue = fat(tissue, grid, rng, 0.0, fat_end, max(0.35 * thickness, 2.5))
    tissue = skin(tissue, grid, max(1.4, 2 * grid.step))
    return brighten(tissue, 5.0 * np.exp(-grid.r / (0.3 * thickness))), end


def vessel(
    tissue: Tissue, grid: Grid, outline: Blob, wall: float, echo: float = ANECHOIC
) -> Tissue:
    """A lumen of blood with walls of some amplitude, bright where they face the beam."""
    d = distance(outline, grid)
    softness = max(0.4, grid.step)
    tissue = paint(tissue, inside(d, softness), echo, -2.0)
    return reflect(tissue, wall * rim(d, 0.6 * softness) * (0.1 + facing(d, grid) ** 3))


def bone(
    tissue: Tissue, grid: Grid, rng: np.random.Generator, outline: Blob, amplitude: float = 14.0
) -> Tissue:
    """A bright, slightly ragged front surface and a full shadow behind it."""
    d = distance(outline, grid)
    ragged = np.clip(1.0 + 0.5 * noise(rng, grid.s / 3.0, grid.r / 3.0), 0.1, 2.0)
    d = d + 0.25 * (ragged - 1.0)
    front = rim(d, max(0.3, grid.step)) * (grid.z < outline.z + 0.3 * outline.b)
    tissue = paint(tissue, inside(d, 0.8), -6.0)
    tissue = reflect(tissue, amplitude * front * ragged * (0.03 + facing(d, grid) ** 5))
    return absorb(tissue, 20.0 / (outline.b / 10) * inside(d + 0.4, 0.6))
