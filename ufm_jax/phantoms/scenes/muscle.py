"""Limb muscle, linear probe: fat, two striated muscles, the bone's bright surface and shadow."""

import numpy as np

from ufm_jax.phantoms.lesion import add_lesion
from ufm_jax.phantoms.probe import Grid
from ufm_jax.phantoms.shapes import Blob, interface
from ufm_jax.phantoms.structures import bone, fascia, fat, muscle, skin, vessel
from ufm_jax.phantoms.tissue import Tissue, uniform


def muscles(grid: Grid, rng: np.random.Generator, label: int) -> Tissue:
    """Two pennate muscles over a bone, with a lesion of the class ``label``."""
    depth = grid.probe.depth
    fat_end = interface(rng, grid, rng.uniform(0.12, 0.25) * depth, 0.01 * depth, 20)
    middle = interface(rng, grid, rng.uniform(0.45, 0.6) * depth, 0.02 * depth, 25)
    end = interface(rng, grid, rng.uniform(0.8, 0.95) * depth, 0.02 * depth, 25)
    tilt = rng.uniform(-0.3, 0.3)
    tissue = muscle(uniform(grid, -14.0), grid, rng, middle, end, -0.6 * tilt)
    if rng.random() < 0.7:
        x = rng.uniform(-0.5, 0.5) * grid.half_width
        tissue = bone(tissue, grid, rng, Blob(x, float(end.mean()) + 4.0, 16.0, 7.0))
    tissue = muscle(tissue, grid, rng, fat_end, middle, tilt)
    if rng.random() < 0.5:
        x = rng.uniform(-0.8, 0.8) * grid.half_width
        size = rng.uniform(1.2, 2.5)
        tissue = vessel(tissue, grid, Blob(x, float(middle.mean()), size, size), 4.0)
    size = rng.uniform(0.08, 0.17) * depth
    place = Blob(
        rng.uniform(-0.5, 0.5) * grid.half_width, rng.uniform(0.3, 0.6) * depth, size, 0.8 * size
    )
    tissue = add_lesion(tissue, grid, rng, label, place)
    tissue = fat(tissue, grid, rng, 0.0, fat_end, rng.uniform(2.5, 4.0))
    return skin(fascia(tissue, grid, rng, fat_end, 6.0), grid, 1.6)
