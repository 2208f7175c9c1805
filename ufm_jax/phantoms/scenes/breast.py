"""Breast, linear probe: skin, fat lobules, gland, pectoral muscle, ribs or lung beneath."""

import numpy as np

from ufm_jax.phantoms.lesion import add_lesion
from ufm_jax.phantoms.noise import noise, ridges
from ufm_jax.phantoms.probe import Grid
from ufm_jax.phantoms.shapes import Blob, band, interface
from ufm_jax.phantoms.structures import bone, fat, muscle, skin
from ufm_jax.phantoms.tissue import Tissue, brighten, paint, reflect, uniform


def breast(grid: Grid, rng: np.random.Generator, label: int) -> Tissue:
    """A breast in a random state, from fatty to dense, with a lesion of the class ``label``."""
    depth = grid.probe.depth
    bounds = depth * np.cumsum(rng.uniform((0.12, 0.28, 0.06, 0.12), (0.28, 0.42, 0.12, 0.2)))
    lines = [interface(rng, grid, float(b), 0.018 * depth, 11) for b in bounds]
    tissue = brighten(uniform(grid, -17.0), 4.0 * noise(rng, grid.s / 9.0, grid.r / 0.8))
    if rng.random() < 0.2:
        x = rng.uniform(-0.8, 0.8) * grid.half_width
        tissue = bone(tissue, grid, rng, Blob(x, bounds[3] + 0.05 * depth, 7.0, 3.0), 5.0)
    tissue = muscle(tissue, grid, rng, lines[2], lines[3], rng.normal(0, 0.06))
    tissue = fat(tissue, grid, rng, lines[1], lines[2], 3.0)
    tissue = _gland(tissue, grid, rng, lines[0], lines[1])
    tissue = fat(tissue, grid, rng, 0.0, lines[0], rng.uniform(3.0, 6.0))
    tissue = add_lesion(tissue, grid, rng, label, _place(grid, rng, bounds))
    return skin(tissue, grid, 1.6)


def _gland(
    tissue: Tissue, grid: Grid, rng: np.random.Generator, top: np.ndarray, bottom: np.ndarray
) -> Tissue:
    density = rng.uniform(-7, 0)
    sway = 0.6 * noise(rng, grid.s / 14, grid.r / 9)
    patches = noise(rng, grid.s / 5.0, grid.r / 1.6 + sway)
    strands = ridges(rng, grid.s / 10.0, grid.r / 1.5 + sway, 0.12)
    streaks = np.clip(noise(rng, grid.s / 4.0, grid.r / 0.45 + 3.0 * sway) - 0.7, 0.0, 1.0)
    ducts = np.clip(noise(rng, grid.s / 3.5, grid.r / 1.4 + sway) - 1.0, 0.0, 1.0)
    echo = density + 2.5 * patches + 3.0 * strands - 9.0 * ducts
    alpha = band(grid, top, bottom, 1.2)
    return reflect(paint(tissue, alpha, echo, 2.5), alpha * (2.0 * strands + 2.4 * streaks))


def _place(grid: Grid, rng: np.random.Generator, bounds: np.ndarray) -> Blob:
    size = rng.uniform(0.09, 0.19) * grid.probe.depth
    low, high = max(0.5 * bounds[0], 1.3 * size), max(bounds[1], 1.6 * size)
    x = rng.uniform(-0.55, 0.55) * grid.half_width
    return Blob(x, rng.uniform(low, high), size, size * rng.uniform(0.75, 0.95))
