"""Upper abdomen, convex probe: liver and its vessels, gallbladder, kidney, diaphragm, bowel gas."""

import numpy as np

from ufm_jax.phantoms.lesion import add_lesion
from ufm_jax.phantoms.noise import noise
from ufm_jax.phantoms.probe import Grid
from ufm_jax.phantoms.shapes import Blob, distance, facing, inside, random_harmonics, rim
from ufm_jax.phantoms.structures import body_wall, bone, vessel
from ufm_jax.phantoms.tissue import ANECHOIC, Tissue, absorb, brighten, paint, reflect, uniform


def liver(grid: Grid, rng: np.random.Generator, label: int) -> Tissue:
    """A liver section with random neighbours, with a lesion of the class ``label``."""
    depth = grid.probe.depth
    side = rng.choice((-1.0, 1.0))
    wall = rng.uniform(0.1, 0.2) * depth
    grain = 0.8 * noise(rng, grid.s / 4, grid.r / 3) + 1.5 * noise(rng, grid.s / 50, grid.r / 40)
    tissue = brighten(uniform(grid, -3.0), grain)
    tissue = _vessels(tissue, grid, rng, wall)
    tissue = _diaphragm(tissue, grid, rng, side)
    if rng.random() < 0.55:
        tissue = _kidney(tissue, grid, rng, side)
    if rng.random() < 0.4:
        tissue = _gallbladder(tissue, grid, rng, side)
    tissue = add_lesion(tissue, grid, rng, label, _place(grid, rng, wall))
    if rng.random() < 0.4:
        tissue = _gas(tissue, grid, rng, side)
    tissue, inner = body_wall(tissue, grid, rng, wall)
    if rng.random() < 0.25:
        x = rng.uniform(-0.5, 0.5) * grid.half_width
        tissue = bone(tissue, grid, rng, Blob(x, float(inner.mean()), 7.0, 3.5))
    return tissue


def _vessels(tissue: Tissue, grid: Grid, rng: np.random.Generator, wall: float) -> Tissue:
    depth = grid.probe.depth
    for _ in range(rng.integers(7, 15)):
        z = rng.uniform(wall + 0.1 * depth, 0.75 * depth)
        x = rng.uniform(-0.9, 0.9) * grid.half_width
        width = rng.uniform(1.2, 3.2)
        length = width * rng.uniform(1.0, 7.0)
        bends = random_harmonics(rng, range(2, 4), 0.15)
        portal = rng.random() < 0.5
        outline = Blob(x, z, length, width, rng.uniform(-1.0, 1.0), bends)
        tissue = vessel(tissue, grid, outline, 4.0 if portal else 0.8, -22.0)
    return tissue


def _diaphragm(tissue: Tissue, grid: Grid, rng: np.random.Generator, side: float) -> Tissue:
    """A bright arc around the liver; beyond it fat, and the liver's faint mirror image."""
    depth = grid.probe.depth
    a, b = rng.uniform(0.75, 1.0) * depth, rng.uniform(0.62, 0.78) * depth
    d = distance(Blob(0.25 * side * depth, 0.15 * depth, a, b, 0.3 * side), grid)
    behind = inside(-d, 2.0)
    mirror_image = -7.0 + 2.0 * noise(rng, grid.s / 12, grid.r / 8)
    tissue = paint(tissue, behind, mirror_image, 1.0)
    strength = np.clip(0.7 + 0.5 * noise(rng, grid.s / 20, grid.r / 20), 0.05, 2.0)
    return reflect(tissue, 9.0 * strength * rim(d, 1.4) * (0.05 + facing(d, grid) ** 3))


def _kidney(tissue: Tissue, grid: Grid, rng: np.random.Generator, side: float) -> Tissue:
    """Bright capsule, dark cortex, darker pyramids, bright central sinus."""
    depth = grid.probe.depth
    half = rng.uniform(38, 52)
    outline = Blob(
        side * rng.uniform(-0.05, 0.5) * grid.half_width,
        rng.uniform(0.55, 0.68) * depth,
        half,
        half * rng.uniform(0.42, 0.5),
        rng.normal(0, 0.3),
    )
    d = distance(outline, grid)
    depth_inside = -d / outline.b
    pyramids = np.clip(noise(rng, grid.s / 7, grid.r / 7) * 3, 0, 1)
    pyramids = pyramids * np.exp(-np.square((depth_inside - 0.45) / 0.12))
    sinus = np.clip((depth_inside - 0.55) * 6 + 0.5 * noise(rng, grid.s / 5, grid.r / 4), 0, 1)
    echo = -6.0 - 8.0 * pyramids + sinus * (12.0 + 3.0 * noise(rng, grid.s / 3, grid.r / 2))
    tissue = paint(tissue, inside(d - 1.5, 3.0), 2.0)
    tissue = paint(tissue, inside(d, 1.2), echo)
    return reflect(tissue, 4.0 * rim(d, 0.7) * (0.1 + facing(d, grid) ** 2))


def _gallbladder(tissue: Tissue, grid: Grid, rng: np.random.Generator, side: float) -> Tissue:
    """Anechoic, pear shaped, bright behind; in a third of patients with a stone and its shadow."""
    size = rng.uniform(17, 28)
    x, z = (
        -side * rng.uniform(0.1, 0.5) * grid.half_width,
        rng.uniform(0.4, 0.55) * grid.probe.depth,
    )
    pear = Blob(x, z, size, 0.4 * size, rng.normal(0, 0.4), ((3, 0.10, 0.0),))
    d = distance(pear, grid)
    tissue = paint(tissue, inside(d, 1.0), ANECHOIC, -6.0)
    tissue = reflect(tissue, 5.0 * rim(d, 1.2) * (0.25 + facing(d, grid) ** 2))
    if rng.random() < 0.33:
        tissue = bone(tissue, grid, rng, Blob(x, z + 0.26 * size, 4.0, 3.0), 12.0)
    return tissue


def _gas(tissue: Tissue, grid: Grid, rng: np.random.Generator, side: float) -> Tissue:
    """Bowel gas at one side: bright, ragged, with a dirty shadow."""
    outline = Blob(
        -side * rng.uniform(0.8, 1.1) * grid.half_width,
        rng.uniform(0.45, 0.7) * grid.probe.depth,
        rng.uniform(15, 30),
        rng.uniform(10, 16),
        harmonics=random_harmonics(rng, range(3, 8), 0.15),
    )
    d = distance(outline, grid) + 1.5 * noise(rng, grid.s / 6, grid.r / 6)
    tissue = brighten(tissue, 12.0 * rim(d, 3.0) * facing(d, grid))
    return absorb(tissue, 14.0 * inside(d, 2.0))


def _place(grid: Grid, rng: np.random.Generator, wall: float) -> Blob:
    depth = grid.probe.depth
    size = rng.uniform(0.06, 0.13) * depth
    z = rng.uniform(wall + 0.12 * depth, 0.58 * depth)
    return Blob(rng.uniform(-0.5, 0.5) * grid.half_width, z, size, size * rng.uniform(0.8, 1.0))
