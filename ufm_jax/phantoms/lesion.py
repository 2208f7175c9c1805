"""Lesions: cysts, benign solids and malignant ones, with the signs that readers look for."""

from dataclasses import replace

import numpy as np

from ufm_jax.phantoms.noise import noise, ridges
from ufm_jax.phantoms.probe import Grid
from ufm_jax.phantoms.shapes import Blob, distance, facing, inside, random_harmonics, rim
from ufm_jax.phantoms.tissue import ANECHOIC, Tissue, absorb, brighten, paint, reflect

NORMAL, BENIGN, MALIGNANT = 0, 1, 2
LABEL_NAMES = ("normal", "benign", "malignant")


def add_lesion(
    tissue: Tissue, grid: Grid, rng: np.random.Generator, label: int, site: Blob
) -> Tissue:
    """Paints a lesion of a class; a normal image stays as it is.

    A benign lesion is a cyst or a smooth, oval, wider-than-tall solid: see ``cyst``,
    ``benign_solid`` and ``malignant``. ``site`` is its place and rough half axes.
    """
    if label == NORMAL:
        return tissue
    if label == MALIGNANT:
        return malignant(tissue, grid, rng, site)
    return (cyst if rng.random() < 0.45 else benign_solid)(tissue, grid, rng, site)


def cyst(tissue: Tissue, grid: Grid, rng: np.random.Generator, site: Blob) -> Tissue:
    """Anechoic, thin bright wall, enhancement behind it, thin shadows at its edges."""
    d = distance(replace(site, harmonics=random_harmonics(rng, range(2, 4), 0.06)), grid)
    tissue = paint(tissue, inside(d, 0.5), ANECHOIC, -_over(site, rng.uniform(6, 11)))
    tissue = _wall(tissue, grid, d, rng.uniform(1.2, 2.6), 0.2 + 0.015 * site.a)
    return mark(_edge_shadow(tissue, grid, d, site, 5.0), d)


def benign_solid(tissue: Tissue, grid: Grid, rng: np.random.Generator, site: Blob) -> Tissue:
    """Oval, smooth, evenly and moderately hypoechoic, with a thin capsule and clear edges."""
    site = replace(site, b=site.b * rng.uniform(0.6, 0.85), angle=rng.normal(0, 0.2))
    d = distance(replace(site, harmonics=random_harmonics(rng, range(2, 5), 0.05)), grid)
    grain = 1.2 * noise(rng, grid.s / (0.2 * site.a), grid.r / (0.15 * site.a))
    tissue = paint(
        tissue, inside(d, 0.6), rng.uniform(-16, -10) + grain, -_over(site, rng.uniform(-1, 4))
    )
    tissue = _wall(tissue, grid, d, rng.uniform(0.8, 2.0), 0.2 + 0.015 * site.a)
    return mark(_edge_shadow(tissue, grid, d, site, 4.0), d)


def malignant(tissue: Tissue, grid: Grid, rng: np.random.Generator, site: Blob) -> Tissue:
    """Taller than wide, angular and spiculated, dark and uneven, bright halo, shadow behind."""
    site = replace(site, b=site.b * rng.uniform(0.95, 1.35), angle=rng.normal(0, 0.3))
    size = 0.5 * (site.a + site.b)
    lobes = random_harmonics(rng, range(2, 6), 0.13)
    spikes = random_harmonics(rng, range(7, 13), 0.05)
    d = distance(replace(site, harmonics=lobes + spikes), grid)
    d = d + 0.16 * size * noise(rng, grid.s / (0.4 * size), grid.r / (0.35 * size))
    d = d + 0.07 * size * noise(rng, grid.s / (0.15 * size), grid.r / (0.15 * size))
    grain = 3.0 * noise(rng, grid.s / (0.3 * size), grid.r / (0.25 * size))
    reach = inside(d - 0.5 * size, 0.8 * size)
    strands = ridges(rng, np.arctan2(grid.z - site.z, grid.x - site.x) * 2.0, d / (3 * size), 0.25)
    tissue = brighten(tissue, reach * (4.0 - 8.0 * strands))
    alpha = inside(d, 0.25 * size)
    tissue = paint(tissue, alpha, rng.uniform(-23, -16) + grain, _over(site, rng.uniform(8, 18)))
    if rng.random() < 0.4:
        grains = noise(rng, grid.s / (0.1 * size), grid.r / (0.1 * size)) > 2.1
        tissue = brighten(tissue, 18.0 * grains * alpha)
    return mark(tissue, d)


def mark(tissue: Tissue, signed_distance: np.ndarray) -> Tissue:
    """Adds the inside of an outline to the lesion map."""
    return replace(tissue, lesion=np.maximum(tissue.lesion, signed_distance < 0))


def _over(site: Blob, decibels: float) -> float:
    # Loss in dB/cm that adds up to some decibels over the lesion's height: a small lesion shows
    # the sign as clearly as a large one.
    return decibels / (2 * site.b / 10)


def _wall(tissue: Tissue, grid: Grid, d: np.ndarray, amplitude: float, width: float) -> Tissue:
    return reflect(tissue, amplitude * rim(d, width) * (0.08 + facing(d, grid) ** 3))


def _edge_shadow(tissue: Tissue, grid: Grid, d: np.ndarray, site: Blob, decibels: float) -> Tissue:
    grazing = rim(d, 0.12 * site.a) * (1 - facing(d, grid)) ** 3
    return absorb(tissue, _over(site, decibels) * grazing)
