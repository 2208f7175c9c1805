"""Heart from its tip, phased probe: four dark chambers, septum, valves, pericardium."""

import numpy as np

from ufm_jax.phantoms.lesion import BENIGN, mark
from ufm_jax.phantoms.noise import noise
from ufm_jax.phantoms.probe import Grid
from ufm_jax.phantoms.shapes import Blob, distance, facing, inside, interface, random_harmonics, rim
from ufm_jax.phantoms.structures import fascia, skin
from ufm_jax.phantoms.tissue import Tissue, brighten, paint, reflect, uniform

_BLOOD = -34.0


def heart(grid: Grid, rng: np.random.Generator, label: int) -> Tissue:
    """An apical four-chamber view; a benign image has a myxoma, malignant ones do not occur."""
    depth = grid.probe.depth
    tilt = rng.normal(0, 0.15)
    left, right, left_atrium, right_atrium = _chambers(grid, rng, tilt)
    lung = -14.0 + 4.0 * noise(rng, grid.s / 15, grid.r / 10)
    tissue = brighten(uniform(grid, 0.0), lung)
    sac = Blob(0.0, 0.5 * depth, 0.36 * depth, 0.43 * depth, tilt)
    d = distance(sac, grid)
    wall = -6.0 + 2.5 * noise(rng, grid.s / 5, grid.r / 5)
    tissue = paint(tissue, inside(d, 2.0), wall, 0.2)
    patchy = np.clip(0.7 + 0.7 * noise(rng, grid.s / 12, grid.r / 12), 0.0, 2.5)
    tissue = reflect(tissue, 5.0 * patchy * rim(d, 1.2) * (0.1 + facing(d, grid) ** 3))
    for chamber in (left, right, left_atrium, right_atrium):
        tissue = _chamber(tissue, grid, rng, chamber)
    tissue = _valves(tissue, grid, rng, left, left_atrium)
    tissue = _valves(tissue, grid, rng, right, right_atrium)
    if label == BENIGN:
        tissue = _myxoma(tissue, grid, rng, left_atrium if rng.random() < 0.6 else left)
    near = interface(rng, grid, 0.09 * depth, 0.005 * depth, 12)
    tissue = fascia(tissue, grid, rng, near, 3.0)
    clutter = 14.0 * np.exp(-grid.r / (0.05 * depth))
    return skin(brighten(tissue, clutter), grid, 2.0)


def _chambers(grid: Grid, rng: np.random.Generator, tilt: float) -> tuple[Blob, Blob, Blob, Blob]:
    """Left and right ventricle, left and right atrium, in a frame turned by ``tilt``."""
    depth = grid.probe.depth
    plan = (
        (0.10, 0.37, 0.115, 0.225),
        (-0.15, 0.42, 0.09, 0.17),
        (0.10, 0.73, 0.12, 0.105),
        (-0.14, 0.73, 0.11, 0.10),
    )
    chambers = []
    for x, z, a, b in plan:
        scale = depth * rng.uniform(0.9, 1.1)
        dx, dz = x * depth, (z - 0.5) * depth
        bends = random_harmonics(rng, range(2, 6), 0.05)
        chambers.append(
            Blob(
                dx * np.cos(tilt) - dz * np.sin(tilt),
                0.5 * depth + dz * np.cos(tilt) + dx * np.sin(tilt),
                a * scale,
                b * scale,
                tilt,
                bends,
            )
        )
    left, right, left_atrium, right_atrium = chambers
    return left, right, left_atrium, right_atrium


def _chamber(tissue: Tissue, grid: Grid, rng: np.random.Generator, outline: Blob) -> Tissue:
    d = distance(outline, grid) + 1.2 * noise(rng, grid.s / 6, grid.r / 6)
    haze = 4.0 * noise(rng, grid.s / 14, grid.r / 14)
    tissue = paint(tissue, inside(d, 4.0), _BLOOD + haze, -0.3)
    return reflect(tissue, 2.0 * rim(d, 1.2) * (0.1 + facing(d, grid) ** 2))


def _valves(
    tissue: Tissue, grid: Grid, rng: np.random.Generator, ventricle: Blob, atrium: Blob
) -> Tissue:
    """Two thin leaflets between a ventricle and its atrium, more or less open."""
    opening = rng.uniform(0.2, 1.2)
    z = 0.5 * (ventricle.z + ventricle.b + atrium.z - atrium.b)
    x = 0.5 * (ventricle.x + atrium.x)
    reach = 0.8 * ventricle.a
    for side in (-1.0, 1.0):
        leaflet = Blob(
            x + side * 0.5 * reach, z - 0.2 * opening * reach, 0.55 * reach, 1.2, side * opening
        )
        tissue = paint(tissue, inside(distance(leaflet, grid), 1.5), 2.0)
    return tissue


def _myxoma(tissue: Tissue, grid: Grid, rng: np.random.Generator, chamber: Blob) -> Tissue:
    """A bright, round, lobed mass attached inside a chamber."""
    size = rng.uniform(0.4, 0.55) * min(chamber.a, chamber.b)
    turn = rng.uniform(0, 2 * np.pi)
    mass = Blob(
        chamber.x + 0.5 * (chamber.a - size) * np.cos(turn),
        chamber.z + 0.5 * (chamber.b - size) * np.sin(turn),
        size,
        0.85 * size,
        rng.uniform(-0.5, 0.5),
        random_harmonics(rng, range(3, 6), 0.1),
    )
    d = distance(mass, grid)
    echo = 1.0 + 2.0 * noise(rng, grid.s / 4, grid.r / 4)
    return mark(paint(tissue, inside(d, 1.5), echo, 0.5), d)
