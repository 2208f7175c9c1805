"""Neck across, linear probe: thyroid lobes around the windpipe, carotid arteries, strap muscles."""

import numpy as np

from ufm_jax.phantoms.lesion import add_lesion
from ufm_jax.phantoms.noise import noise
from ufm_jax.phantoms.probe import Grid
from ufm_jax.phantoms.shapes import Blob, distance, facing, inside, interface, rim
from ufm_jax.phantoms.structures import body_wall, bone, muscle, vessel
from ufm_jax.phantoms.tissue import Tissue, absorb, brighten, paint, reflect, uniform


def thyroid(grid: Grid, rng: np.random.Generator, label: int) -> Tissue:
    """A neck around one lobe or the midline, with a lesion of the class ``label`` in the lobe."""
    depth, half = grid.probe.depth, grid.half_width
    wall = rng.uniform(0.2, 0.3) * depth
    side = rng.choice((-1.0, 1.0))
    windpipe = Blob(side * rng.uniform(-1.0, -0.3) * half, wall + 0.36 * depth, 8.5, 8.5)
    lobe = Blob(windpipe.x + side * 15.0, wall + 0.24 * depth, 8.5, 0.24 * depth, 0.12 * side)
    beneath = interface(rng, grid, wall + 0.5 * depth, 0.02 * depth, 20)
    bottom = np.full_like(grid.s, depth)
    tissue = muscle(uniform(grid, -12.0), grid, rng, beneath, bottom, rng.normal(0, 0.1))
    mirrored = Blob(windpipe.x - side * 15.0, lobe.z, lobe.a, lobe.b, -lobe.angle)
    for gland in (mirrored, lobe):
        tissue = _lobe(tissue, grid, rng, gland)
    isthmus = Blob(windpipe.x, wall + 0.05 * depth, 14.0, 0.05 * depth)
    tissue = _lobe(tissue, grid, rng, isthmus)
    artery = rng.uniform(2.6, 3.6)
    carotid = Blob(lobe.x + side * (lobe.a + artery), lobe.z + 2.0, artery, artery)
    tissue = vessel(tissue, grid, carotid, 3.5)
    if label:
        size = rng.uniform(0.3, 0.6) * lobe.a
        x, z = rng.normal(0, 0.12, 2) * (lobe.a, lobe.b)
        tissue = add_lesion(tissue, grid, rng, label, Blob(lobe.x + x, lobe.z + z, size, size))
    tissue = _windpipe(tissue, grid, windpipe)
    if rng.random() < 0.2:
        tissue = bone(tissue, grid, rng, Blob(lobe.x, depth, 12.0, 4.0))
    return body_wall(tissue, grid, rng, wall)[0]


def _lobe(tissue: Tissue, grid: Grid, rng: np.random.Generator, outline: Blob) -> Tissue:
    d = distance(outline, grid)
    echo = 1.0 + 1.2 * noise(rng, grid.s / 1.5, grid.r / 1.2)
    tissue = paint(tissue, inside(d, 0.8), echo)
    return reflect(tissue, 2.5 * rim(d, 0.3) * (0.1 + facing(d, grid) ** 2))


def _windpipe(tissue: Tissue, grid: Grid, outline: Blob) -> Tissue:
    """Cartilage, then air: a bright front, and fading repeats of it instead of tissue."""
    d = distance(outline, grid)
    tissue = paint(tissue, inside(d, 0.5), -18.0)
    front = rim(d + 1.4, 0.35) * (grid.z < outline.z)
    repeats = 0.5 + 0.5 * np.cos(2 * np.pi * d / 2.4)
    tissue = brighten(tissue, 12.0 * repeats * inside(d, 0.5) * np.exp(d / 5.0))
    tissue = reflect(tissue, 7.0 * front * facing(d, grid) ** 2)
    return absorb(tissue, 16.0 * inside(d + 1.5, 0.8))
