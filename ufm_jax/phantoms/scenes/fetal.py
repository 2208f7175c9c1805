"""Fetal head, convex probe: the skull's bright ellipse, brain, amniotic fluid, uterus, mother."""

import math

import numpy as np

from ufm_jax.phantoms.lesion import BENIGN, cyst
from ufm_jax.phantoms.noise import noise, ridges
from ufm_jax.phantoms.probe import Grid
from ufm_jax.phantoms.shapes import Blob, distance, facing, inside, own_axes, random_harmonics, rim
from ufm_jax.phantoms.structures import body_wall
from ufm_jax.phantoms.tissue import ANECHOIC, Tissue, absorb, paint, reflect, uniform


def fetal_head(grid: Grid, rng: np.random.Generator, label: int) -> Tissue:
    """A transverse head; a benign image has a choroid plexus cyst, malignant ones do not occur."""
    depth = grid.probe.depth
    wall = rng.uniform(0.1, 0.2) * depth
    half = rng.uniform(0.32, 0.42) * depth
    head = Blob(
        rng.normal(0, 0.06) * depth,
        wall + rng.uniform(0.03, 0.1) * depth + 0.8 * half,
        half,
        half * rng.uniform(0.74, 0.84),
        rng.normal(0, 0.25),
    )
    tissue = _uterus(grid, rng, head)
    d = distance(head, grid)
    # Tissue beside the skull scatters little: the scalp, then fluid.
    tissue = paint(tissue, inside(d - 0.05 * half, 0.03 * half), -9.0)
    tissue = paint(tissue, inside(d, 1.0), _brain(grid, rng, head, d), -0.4)
    tissue = _midline(tissue, grid, rng, head, d)
    if label == BENIGN:
        tissue = _choroid_cyst(tissue, grid, rng, head)
    tissue = _skull(tissue, grid, rng, head, d)
    return body_wall(tissue, grid, rng, wall)[0]


def _uterus(grid: Grid, rng: np.random.Generator, head: Blob) -> Tissue:
    """Uterine wall and placenta around a pocket of fluid."""
    warp = noise(rng, grid.s / 25, grid.r / 20)
    echo = -8.0 + 3.5 * noise(rng, grid.s / 9, grid.r / 6) + 2.0 * warp
    echo = echo + 7.0 * ridges(rng, grid.s / 30, grid.r / 9 + 0.5 * warp, 0.12)
    tissue = paint(uniform(grid, 0.0), np.ones_like(grid.x), echo, 0.3)
    pocket = Blob(
        head.x + rng.normal(0, 0.2) * head.a,
        head.z + rng.normal(0, 0.1) * head.a,
        head.a * rng.uniform(1.05, 1.6),
        head.a * rng.uniform(0.85, 1.1),
        rng.normal(0, 0.3),
        random_harmonics(rng, range(2, 6), 0.12),
    )
    d = distance(pocket, grid)
    tissue = paint(tissue, inside(d, 4.0), ANECHOIC + 12.0, -0.6)
    return reflect(tissue, 3.0 * rim(d, 1.2) * facing(d, grid) ** 2)


def _brain(
    grid: Grid, rng: np.random.Generator, head: Blob, signed_distance: np.ndarray
) -> np.ndarray:
    """Dark, with gyri as bright arcs along the skull and haze under the near side, dB."""
    along, across = own_axes(head, grid)
    sway = 0.4 * noise(rng, along * 3, across * 3)
    folds = ridges(rng, 2.2 * along + sway, 2.8 * across + 1.5 * sway, 0.12)
    folds = folds * np.clip(noise(rng, along * 4, across * 4), 0.0, 1.5)
    haze = np.exp(-np.clip(grid.z - head.z + head.b, 0, None) / (0.3 * head.b))
    deep = np.clip(-signed_distance / (0.25 * head.b), 0, 1)
    return -23.0 + 3.5 * noise(rng, along * 5, across * 6) + 12.0 * folds * deep + 6.0 * haze


def _midline(
    tissue: Tissue, grid: Grid, rng: np.random.Generator, head: Blob, d: np.ndarray
) -> Tissue:
    """The falx, broken by the cavum; lines of the ventricles beside it; two dark thalami."""
    along, across = own_axes(head, grid)
    within = inside(d + 0.08 * head.b, 0.1 * head.b)
    across = across + 0.03 * noise(rng, along * 2)
    falx = rim(across, 0.02) * np.clip(1.1 - 1.6 * np.exp(-np.square((along + 0.25) / 0.12)), 0, 1)
    lines = sum(
        rim(np.abs(across) - offset, 0.018) * rim(along - centre, 0.25)
        for offset, centre in ((0.09, -0.25), (rng.uniform(0.3, 0.42), 0.3), (0.22, 0.45))
    )
    thalami = rim(np.abs(across) - 0.16, 0.11) * rim(along - 0.02, 0.17)
    tissue = paint(tissue, 0.8 * thalami, -24.0)
    broken = np.clip(0.6 + 0.6 * noise(rng, along * 7, across * 7), 0, 1.5)
    return reflect(tissue, broken * within * (3.0 * falx + 1.6 * lines))


def _choroid_cyst(tissue: Tissue, grid: Grid, rng: np.random.Generator, head: Blob) -> Tissue:
    """Bright choroid plexus in one hemisphere with an anechoic cyst inside."""
    side = rng.choice((-1.0, 1.0))
    u, w = rng.uniform(0.15, 0.4) * head.a, side * rng.uniform(0.35, 0.45) * head.b
    cos, sin = math.cos(head.angle), math.sin(head.angle)
    x, z = head.x + u * cos - w * sin, head.z + u * sin + w * cos
    plexus = Blob(x, z, 0.34 * head.a, 0.2 * head.b, head.angle)
    tissue = paint(tissue, inside(distance(plexus, grid), 1.5), -4.0)
    size = rng.uniform(0.12, 0.18) * head.a
    return cyst(tissue, grid, rng, Blob(x, z, size, 0.8 * size, head.angle))


def _skull(
    tissue: Tissue, grid: Grid, rng: np.random.Generator, head: Blob, d: np.ndarray
) -> Tissue:
    """Bright where it faces the beam, thin enough to see through, shadows at its sides."""
    cos = facing(d, grid)
    thickness = rng.uniform(0.022, 0.034) * head.a
    patchy = np.clip(1.0 + 0.45 * noise(rng, grid.s / 8, grid.r / 8), 0.15, 2.0)
    shell = rim(d, thickness) * patchy
    tissue = paint(tissue, rim(d, 1.2 * thickness), 10.0 * cos - 6.0, keep_mirror=True)
    tissue = reflect(tissue, shell * (0.8 + 11.0 * cos**2))
    return absorb(tissue, (3.0 + 9.0 * (1 - cos) ** 3) * inside(np.abs(d) - thickness, 1.0))
