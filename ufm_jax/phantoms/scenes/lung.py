"""Lung between ribs, convex or linear probe: pleural line, A-lines or B-lines, rib shadows."""

import numpy as np

from ufm_jax.phantoms.lesion import add_lesion
from ufm_jax.phantoms.noise import noise
from ufm_jax.phantoms.probe import Grid
from ufm_jax.phantoms.shapes import Blob, rim
from ufm_jax.phantoms.structures import body_wall, bone
from ufm_jax.phantoms.tissue import Tissue, brighten, paint, reflect, uniform


def lung(grid: Grid, rng: np.random.Generator, label: int) -> Tissue:
    """A chest wall over aerated lung; a lesion of the class ``label`` lies under the pleura."""
    depth = grid.probe.depth
    wall = rng.uniform(0.17, 0.3) * depth
    tissue, pleura = body_wall(uniform(grid, 0.0), grid, rng, wall)
    beneath = np.clip((grid.r - pleura) / 1.0, 0.0, 1.0)
    fade = 9.0 * (grid.r - pleura) / depth
    tissue = paint(tissue, beneath, -9.0 + noise(rng, grid.s / 8, grid.r / 8) - fade, 1.0)
    tissue = _artefacts(tissue, grid, rng, pleura)
    size = rng.uniform(0.08, 0.14) * depth
    gap = 0.5 * (grid.s[0, -1] - grid.s[0, 0]) * rng.uniform(0.5, 0.8)
    offset = rng.uniform(-0.3, 0.3) * gap
    if label:
        place = Blob(offset, wall + 0.95 * size, 1.3 * size, size)
        tissue = add_lesion(tissue, grid, rng, label, place)
    line = rim(grid.r - pleura, max(0.5, grid.step))
    ragged = np.clip(0.9 + 0.6 * noise(rng, grid.s / 4), 0.15, 2.0)
    tissue = reflect(tissue, 6.0 * line * ragged)
    for side in (-1.0, 1.0):
        tissue = _rib(tissue, grid, rng, offset + side * gap, wall)
    return tissue


def _artefacts(tissue: Tissue, grid: Grid, rng: np.random.Generator, pleura: np.ndarray) -> Tissue:
    """A-lines, fading repeats of the pleura; or B-lines, bright rays from it to the bottom."""
    if rng.random() < 0.5:
        for repeat in (2, 3, 4):
            line = rim(grid.r - repeat * pleura, max(0.8, 1.5 * grid.step))
            tissue = brighten(tissue, (13.0 / (repeat - 0.5)) * line)
        return tissue
    below = np.clip((grid.r - pleura) / 2.0, 0.0, 1.0)
    for _ in range(rng.integers(1, 5)):
        centre = rng.uniform(-0.7, 0.7) * float(grid.s[0, -1])
        width = rng.uniform(0.03, 0.12) * float(grid.s[0, -1])
        sway = 0.3 * width * noise(rng, grid.r / 15)
        tissue = brighten(tissue, rng.uniform(5, 12) * below * rim(grid.s - centre + sway, width))
    return tissue


def _rib(tissue: Tissue, grid: Grid, rng: np.random.Generator, s: float, wall: float) -> Tissue:
    probe = grid.probe
    range_mm = rng.uniform(0.7, 0.85) * wall
    half = rng.uniform(0.14, 0.24) * float(grid.s[0, -1])
    x, z = s, range_mm
    if probe.is_sector:
        theta = s / (probe.radius + probe.depth / 4)
        x = (probe.radius + range_mm) * np.sin(theta)
        z = (probe.radius + range_mm) * np.cos(theta) - probe.radius
    return bone(tissue, grid, rng, Blob(x, z + 0.3 * half, half, 0.4 * half), 10.0)
